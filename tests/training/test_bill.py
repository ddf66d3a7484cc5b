"""The bill says what a training costs, and is refused with advice that helps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule
from rayprior.priors import Distortion, Photometric
from rayprior.priors.term import Prior
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.samplers import Uniform
from rayprior.scenes.rays import Query, Rays
from rayprior.scenes.scene import Pictures
from rayprior.training.bill import Bill, available_memory, bill, refuse_if_too_large
from rayprior.training.budget import Budget
from rayprior.training.recipe import Photo, Recipe
from rayprior.training.recipe_json import set_value


@dataclass(frozen=True)
class Asking(Prior):
    """A prior with rays of its own."""

    rays: int | Schedule = 1024

    def query(self, scene: Any, generator: Any) -> Any:
        return Query(Rays.through(torch.zeros(self.rays, 3), torch.ones(self.rays, 3), 0.0, 1.0))

    def loss(self, seen: Any, known: Any) -> Any:
        return seen.opacity.mean()


GRID = Recipe(
    "grid",
    "",
    Grid(head="sh", finest=256, log2_entries=15),
    DensityGrid(samples=16),
    {"photometric": Photometric(), "distortion": Distortion()},
    space=Space("contraction"),
    photo=Photo(4096),
)
NERF = Recipe("nerf", "", Mlp(), CoarseField(), {"photometric": Photometric()}, space=Space("free"), photo=Photo(1024))


def scene(masks: bool = False, depth: bool = False) -> Any:
    """Two pictures of 10 x 20, as far as a bill looks."""

    def pictures(channels: int, dtype: torch.dtype) -> Pictures:
        return Pictures.of([torch.zeros(10, 20, channels, dtype=dtype)] * 2)

    return SimpleNamespace(
        pictures=pictures(3, torch.uint8),
        masks=pictures(1, torch.bool) if masks else None,
        depth=pictures(1, torch.float32) if depth else None,
    )


def test_rays_are_listed_by_who_asks() -> None:
    terms = {**GRID.terms, "entropy": Asking(), "depth": Asking(rays=64)}
    made = bill(replace(GRID, terms=terms), scene(), Budget(steps=300), rays_per_second=10_368.0)
    assert str(made).splitlines()[0] == "rays/step: photo 4096 + entropy 1024 + depth 64"
    assert str(made).splitlines()[1] == "samples/step: 82,944 (16 a ray)"
    assert str(made).splitlines()[-1] == "time: 300 steps, about 2 min"
    assert made.seconds == pytest.approx(150)


def test_a_schedule_of_rays_counts_at_its_height() -> None:
    rising = Asking(rays=Schedule(((0.0, 8.0), (1.0, 512.0)), "budget"))
    assert bill(replace(GRID, terms={"a": rising}), scene(), Budget(steps=1)).rays == {"photo": 4096, "a": 512}


def test_time_is_the_budget_where_that_is_seconds_and_else_unknown_without_a_speed() -> None:
    assert bill(GRID, scene(), Budget(seconds=7200.0)).seconds == 7200
    assert str(bill(GRID, scene(), Budget(seconds=7200.0))).endswith("time: 7200 seconds, about 2.0 h")
    assert bill(GRID, scene(), Budget(steps=5)).seconds is None
    assert str(bill(GRID, scene(), Budget(steps=5))).endswith("time: 5 steps")


@pytest.mark.parametrize(("recipe", "fields"), [(GRID, 1), (NERF, 2), (replace(NERF, sampler=Uniform(32)), 1)])
def test_parameters_are_those_of_the_model(recipe: Recipe, fields: int) -> None:
    parameters = sum(p.numel() for p in recipe.field.build(recipe.space).parameters())
    memory = bill(recipe, scene(), Budget(steps=1)).memory
    assert memory["model"] == 4 * fields * parameters
    assert memory["optimiser"] == 12 * fields * parameters


def test_activations_follow_the_documented_formula() -> None:
    """Of an MLP field: no less than what autograd itself keeps of its layers, and not twice that."""
    recipe = replace(NERF, sampler=Uniform(32), photo=Photo(8))
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter) and tensor.shape[0] == 8:  # a weight is saved transposed
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    field = recipe.field.build(recipe.space)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        density, feature = field.density(torch.rand(8, 32, 3))
        colour = field.colour(feature, torch.rand(8, 32, 3))
    predicted = bill(recipe, scene(), Budget(steps=1)).memory["activations"]
    assert sum(kept.values()) <= predicted <= 3 * sum(kept.values())
    assert density.requires_grad
    assert colour.requires_grad


def test_evaluations_count_both_levels_of_a_coarse_field() -> None:
    assert bill(NERF, scene(), Budget(steps=1)).evaluations == 64 + (64 + 128)


def test_pixels_are_those_that_were_read() -> None:
    pixels = 2 * 10 * 20
    assert bill(GRID, scene(), Budget(steps=1)).memory["pixels"] == 3 * pixels
    assert bill(GRID, scene(masks=True, depth=True), Budget(steps=1)).memory["pixels"] == (3 + 1 + 8 + 4) * pixels


def test_a_table_of_terabytes_is_counted_and_not_made() -> None:
    huge = replace(GRID, field=Grid(log2_entries=40, head="sh", finest=256))
    made = bill(huge, scene(), Budget(steps=1))
    assert made.memory["model"] > 1e13
    with pytest.raises(UserError, match="make it smaller with --size small, or a smaller field"):
        refuse_if_too_large(made, 10**10)


def test_a_bill_wants_a_settled_recipe() -> None:
    with pytest.raises(ValueError, match="settled"):
        bill(replace(GRID, photo=Photo(None)), scene(), Budget(steps=1))


def test_what_fits_is_not_refused() -> None:
    made = bill(NERF, scene(), Budget(steps=1))
    refuse_if_too_large(made, made.to_come)
    refuse_if_too_large(made, None)
    with pytest.raises(UserError):
        refuse_if_too_large(made, made.to_come - 1)


def test_the_refusal_names_numbers_and_what_helps() -> None:
    memory = {"model": 10**6, "optimiser": 3 * 10**6, "sampler": 0, "activations": 8 * 10**9, "pixels": 10**9}
    with pytest.raises(UserError) as caught:
        refuse_if_too_large(Bill({"photo": 4096, "depth": 1024}, 16, memory, Budget(steps=1)), 2 * 10**9)
    assert str(caught.value) == (
        "this training needs about 8.0 GB more memory, 2.0 GB are free (rays/step: photo 4096, depth 1024); "
        "make it smaller with --set photo.rays=512, --size small or --downscale 2"
    )


@pytest.mark.parametrize("available", [3 * 10**8, 10**9, 3 * 10**9])
def test_the_advice_about_rays_is_enough_and_can_be_typed(available: int) -> None:
    made = bill(NERF, scene(), Budget(steps=1))
    with pytest.raises(UserError) as caught:
        refuse_if_too_large(made, available)
    assignment = str(caught.value).split("--set ")[1].split(",")[0]
    fewer = set_value(NERF, assignment)
    refuse_if_too_large(bill(fewer, scene(), Budget(steps=1)), available)


def test_the_prior_with_the_most_rays_is_the_one_to_shrink() -> None:
    greedy = replace(NERF, terms={"greedy": Asking(rays=50_000)})
    with pytest.raises(UserError, match=r"--set terms\.greedy\.rays=\d+"):
        refuse_if_too_large(bill(greedy, scene(), Budget(steps=1)), 10**9)


def test_a_large_density_grid_is_named() -> None:
    with pytest.raises(UserError, match=r"--set sampler\.resolution=64"):
        refuse_if_too_large(bill(replace(GRID, sampler=DensityGrid(1024, samples=16)), scene(), Budget(steps=1)), 10**9)


# -- what is free ------------------------------------------------------------------------------------------------------


def system(root: Path, **files: str) -> Path:
    """A made-up /proc and /sys; names with double underscores for slashes."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal:       16000000 kB\nMemFree:   100 kB\nMemAvailable:    8000000 kB\n"


def test_the_machine_says_what_is_free(tmp_path: Path) -> None:
    assert available_memory(root=system(tmp_path, proc__meminfo=MEMINFO)) == 8_000_000 * 1024


def group(root: Path, folder: str, limit: str, used: int, droppable: int = 0) -> None:
    at = root / "sys/fs/cgroup" / folder
    at.mkdir(parents=True, exist_ok=True)
    (at / "memory.max").write_text(limit + "\n")
    (at / "memory.current").write_text(f"{used}\n")
    (at / "memory.stat").write_text(f"anon 5\ninactive_file {droppable}\n")


def test_control_groups_are_honoured_up_to_the_top(tmp_path: Path) -> None:
    root = system(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/a/b\n")
    group(root, "a/b", "max", 10)
    assert available_memory(root=root) == 8_000_000 * 1024
    group(root, "a", "4000000000", 1_000_000_000, droppable=500_000_000)
    assert available_memory(root=root) == 3_500_000_000
    group(root, "a/b", "2000000000", 1_900_000_000)
    assert available_memory(root=root) == 100_000_000
    group(root, "a/b", "1000", 1_900_000_000)
    assert available_memory(root=root) == 0


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    root = system(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/docker/1234\n")
    group(root, "", "1000000000", 400_000_000)
    assert available_memory(root=root) == 600_000_000


def test_the_older_control_groups_too(tmp_path: Path) -> None:
    root = system(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="5:cpu,cpuacct:/x\n4:memory:/x\n")
    at = root / "sys/fs/cgroup/memory/x"
    at.mkdir(parents=True)
    (at / "memory.limit_in_bytes").write_text("1000")
    (at / "memory.usage_in_bytes").write_text("600")
    (at / "memory.stat").write_text("total_inactive_file 100\n")
    assert available_memory(root=root) == 500


def test_garbage_is_no_limit(tmp_path: Path) -> None:
    root = system(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="what\n0::/a\n")
    group(root, "a", "lots", 3)
    assert available_memory(root=root) == 8_000_000 * 1024


def test_this_machine_has_some_memory() -> None:
    free = available_memory()
    assert free is None or free > 10**7

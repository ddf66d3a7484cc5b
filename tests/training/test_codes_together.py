"""Photographs' codes in a training: it steps, saves, resumes to the same bits, and the bill counts their numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rayprior.fields.codes import Codes
from rayprior.methods import METHODS, recipe_from
from rayprior.rendering.model import Model
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.bill import bill
from rayprior.training.budget import Budget
from rayprior.training.fit import fit, go_on
from rayprior.training.loop import Progress
from rayprior.training.run import Run, load_run
from rayprior.training.settle import settle

STEPS = 8
CODED = ("nerfw", "nerf-a", "nerf-u", "wild")


class Stopped(Exception):
    """As a kill in the middle of a run would."""


@pytest.fixture(scope="module")
def scene() -> Scene:
    return synthetic_scene("shapes", size=24, views=5, test_views=1, supersample=1)


@pytest.mark.parametrize("name", CODED)
def test_it_trains_saves_and_resumes_to_the_same_bits(name: str, scene: Scene, tmp_path: Path):
    recipe = recipe_from(name, size="small", settings=["photo.rays=32"])
    whole = fit(recipe, scene, steps=STEPS, out=tmp_path / "whole", threads=1)

    def stop(now: Progress) -> None:
        if now.step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        fit(recipe, scene, steps=STEPS, out=tmp_path / "cut", threads=1, watch=stop)
    cut = go_on(Run.open(tmp_path / "cut"), scene)
    file = f"checkpoints/step-{STEPS:06d}/model.safetensors"
    assert (cut.path / file).read_bytes() == (whole.path / file).read_bytes()
    losses = [[(row["step"], row["losses"], row["rays"]) for row in run.read_log()] for run in (cut, whole)]
    assert losses[0] == losses[1]
    assert set(losses[0][-1][1]) == set(recipe.terms)
    codes = load_run(whole.path).model.codes
    assert codes is not None
    assert codes.trained.nonzero()[:, 0].tolist() == sorted(scene.split.train)
    table = codes.appearance if codes.config.appearance else codes.transient
    assert table is not None
    assert len(table) == len(scene)
    moved = table.detach()[list(scene.split.train)].abs().sum(dim=1)
    assert float(moved.min()) > 0


@pytest.mark.parametrize("name", ["nerfw", "wild"])
def test_the_bill_counts_the_parameters_of_codes(name: str, scene: Scene):
    """4 bytes a parameter: a row for each photograph, and the second medium's network."""
    recipe = settle(recipe_from(name, size="small"), scene)
    assert recipe.codes.photographs == len(scene)
    more = replace(recipe, codes=replace(recipe.codes, photographs=len(scene) + 100))
    rows = 100 * (recipe.codes.appearance + recipe.codes.transient)
    fields = 2 if name == "nerfw" else 1  # a coarse field is billed as another of the same
    cost = [bill(r, scene, Budget(steps=10)).memory for r in (recipe, more)]
    assert cost[1]["model"] - cost[0]["model"] == 4 * fields * rows
    assert cost[1]["optimiser"] - cost[0]["optimiser"] == 12 * fields * rows
    without = bill(replace(recipe, codes=Codes()), scene, Budget(steps=10)).memory
    assert cost[0]["model"] > without["model"] + 4 * len(scene) * recipe.codes.appearance
    if name == "nerfw":
        assert cost[0]["activations"] > without["activations"]


def test_a_small_medium_is_no_larger_than_its_field(scene: Scene):
    def parameters(module: torch.nn.Module | None) -> int:
        assert module is not None
        return sum(parameter.numel() for parameter in module.parameters())

    assert (METHODS["nerfw"].codes.layers, METHODS["nerfw"].codes.hidden) == (4, 128)
    recipe = settle(recipe_from("nerfw", size="small"), scene)
    assert (recipe.codes.layers, recipe.codes.hidden) == (1, 32)
    model = Model.build(recipe.field, recipe.sampler, recipe.space, recipe.compositing, recipe.codes)
    assert parameters(model.medium) < parameters(model.field) / 4
    assert recipe_from("nerf-a", size="small").codes == METHODS["nerf-a"].codes

"""Frequencies that appear from coarse to fine: the mask of FreeNeRF, and the same for the levels of a grid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rayprior.errors import UserError
from rayprior.fields.encodings import appearing, frequency
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule
from rayprior.maths.space import Box
from rayprior.priors import Photometric
from rayprior.rendering.density_grid import DensityGrid
from rayprior.training.budget import Budget
from rayprior.training.recipe import Recipe
from rayprior.training.run import Conditions, Opening, Run

BOX = Space("box", Box((-1, -1, -1), (1, 1, 1)))
GRID = Grid(levels=4, coarsest=4, finest=16, log2_entries=8, head="sh")
MLP = Mlp(depth=2, width=16, skip=0, octaves=10, view_octaves=4)


@pytest.mark.parametrize(
    ("share", "ones", "fraction"),
    [
        (0.0, 1, 0.0),
        (0.01, 1, 0.21),
        (0.25, 6, 0.25),
        (0.5, 11, 0.5),
        (0.9, 19, 0.9),
        (20 / 21, 21, 0.0),
        (1.0, 21, 0.0),
    ],
)
def test_the_mask_of_the_paper(share, ones, fraction):
    """Closed forms, 6.5: of 21 triplets the first floor(21 v + 1) have weight 1, the next the fraction, the rest 0."""
    expected = [1.0] * ones + [fraction] * (ones < 21) + [0.0] * (20 - ones)
    assert appearing(21, share).tolist() == pytest.approx(expected, abs=1e-9)


def test_frequencies_of_position_and_direction_appear():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    whole = frequency(x, 10)
    assert torch.equal(frequency(x, 10, 1.0), whole)
    seen = frequency(x, 10, 0.0)
    assert torch.equal(seen[:, :3], x)
    assert not seen[:, 3:].any()
    half = frequency(x, 10, 0.5)
    torch.testing.assert_close(half, whole * appearing(21, 0.5).float().repeat_interleave(3))
    assert torch.equal(frequency(x, 0, 0.0), x)


@pytest.mark.parametrize("share", [-0.1, 1.1, 50.0, float("nan")])
def test_no_share_is_refused(share):
    message = f"field.visible is {share:g}; expected the share of the encoding that is visible, from 0 to 1"
    with pytest.raises(UserError, match=message):
        appearing(21, share)


def test_an_mlp_sees_raw_numbers_first():
    """As one without octaves: the columns of what is invisible say nothing, of position and direction alike."""
    torch.manual_seed(0)
    field = replace(MLP, visible=0.0).build(BOX)
    plain = replace(MLP, octaves=0, view_octaves=0).build(BOX)
    weights = field.state_dict()
    weights["trunk.0.weight"] = weights["trunk.0.weight"][:, :3]
    weights["trunk.1.weight"] = torch.cat([weights["trunk.1.weight"][:, :3], weights["trunk.1.weight"][:, 63:]], dim=1)
    weights["view.weight"] = weights["view.weight"][:, : 16 + 3]
    plain.load_state_dict(weights)
    x, d = torch.rand(7, 3), torch.nn.functional.normalize(torch.randn(7, 3), dim=1)
    (density, feature), (expected, same) = field.density(x), plain.density(x)
    torch.testing.assert_close(density, expected)
    torch.testing.assert_close(feature, same)
    torch.testing.assert_close(field.colour(feature, d), plain.colour(feature, d))


@pytest.mark.parametrize(("share", "weights"), [(0.0, (1, 0, 0, 0)), (0.3, (1, 1, 0.2, 0)), (0.75, (1, 1, 1, 1))])
def test_levels_of_a_grid_appear(share, weights):
    torch.manual_seed(0)
    field = replace(GRID, visible=share).build(BOX)
    whole = GRID.build(BOX)
    whole.load_state_dict(field.state_dict())
    whole.table.data *= torch.tensor(weights)[:, None, None]
    x = torch.rand(50, 3) * 2 - 1
    for seen, expected in zip(field.density(x), whole.density(x)):
        torch.testing.assert_close(seen, expected)
    field.density(x)[0].sum().backward()
    assert field.table.grad is not None
    assert field.table.grad.flatten(1).any(dim=1).tolist() == [w > 0 for w in weights]


@pytest.mark.parametrize("config", [GRID, MLP], ids=["grid", "mlp"])
def test_visible_is_read_when_asked(config):
    """The training loop replaces `config` each step."""
    torch.manual_seed(0)
    field, x = config.build(BOX), torch.rand(9, 3)
    whole = field.density(x)[0]
    field.config = replace(config, visible=0.0)
    assert not torch.allclose(field.density(x)[0], whole)
    field.config = replace(config, visible=1.0)
    assert torch.equal(field.density(x)[0], whole)


@pytest.mark.parametrize(
    ("budget", "step", "visible"),
    [(Budget(steps=100), 100, 1.0), (Budget(steps=100), 25, 0.25), (Budget(seconds=9), 25, 1.0)],
    ids=["finished", "interrupted", "seconds"],
)
def test_a_trained_model_sees_what_it_was_trained_with(tmp_path, budget, step, visible):
    """Its weights know nothing of frequencies that were never shown."""
    recipe = Recipe(
        "mine", "", replace(GRID, visible=Schedule(((0, 0), (1, 1)), of="budget")),
        DensityGrid(resolution=8, samples=4), {"photometric": Photometric()}, space=BOX,
    )  # fmt: skip
    run = Run.create(tmp_path / "run", recipe, Opening("here", {}, {}), Conditions(budget))
    run.save_checkpoint(step, run.build(), {})
    again = Run.open(tmp_path / "run")
    assert again.recipe == recipe
    assert again.model.field.config.visible == pytest.approx(visible)


@pytest.mark.parametrize("budget", [Budget(steps=100), Budget(seconds=10)], ids=["steps", "seconds"])
def test_a_snapshot_sees_what_it_was_trained_with(tmp_path, budget):
    """Not what the end of the training saw."""
    recipe = Recipe(
        "mine", "", replace(GRID, visible=Schedule(((0, 0), (1, 1)), of="budget")),
        DensityGrid(resolution=8, samples=4), {"photometric": Photometric()}, space=BOX,
    )  # fmt: skip
    run = Run.create(tmp_path / "run", recipe, Opening("here", {}, {}), Conditions(budget))
    for step in (25, 100):
        run.log({"step": step, "seconds": step / 10})
    assert run.build(25).field.config.visible == pytest.approx(0.25)
    run.save_snapshot(25, run.build(25))
    run.save_checkpoint(100, run.build(), {})
    assert run.snapshot(25).field.config.visible == pytest.approx(0.25)

"""Runs of older formats are read, rendered and gone on with as they were: one of each is kept here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from rayprior.fields.codes import Codes
from rayprior.fields.grid import Grid
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.samplers import Guide
from rayprior.scenes.rays import Rays
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.budget import Budget
from rayprior.training.fit import go_on
from rayprior.training.recipe_json import FORMAT, read_recipe
from rayprior.training.run import Run

FIRST = Path(__file__).parent / "format-1"  # 20 steps, before samplers had a guide and fields had `visible`
SECOND = FIRST.with_name("format-2")  # 20 steps, before recipes had codes
THIRD = FIRST.with_name("format-3")  # 20 steps with codes of photographs, before there were families and latents
SEEN = {  # by two rays, when it was written
    FIRST: [[0.49644, 0.60792, 0.52299], [0.62857, 0.62280, 0.56288]],
    SECOND: [[0.414690, 0.537367, 0.419157], [0.528804, 0.527799, 0.479917]],
    THIRD: [[0.576616, 0.463798, 0.348614], [0.564601, 0.454510, 0.302051]],
}
older = pytest.mark.parametrize("kept", SEEN, ids=lambda folder: folder.name)


def two_rays() -> Rays:
    origins, directions = torch.tensor([[0.0, -4, 0], [3, 0, 2]]), torch.tensor([[0.0, 1, 0.1], [-3, 0.2, -2]])
    return Rays.through(origins, directions, 2.0, 6.0, background=(1.0, 1.0, 1.0))


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIRST, tmp_path / "run"))


def test_there_is_one_of_each():
    assert [path.name for path in sorted(FIRST.parent.glob("format-*"))] == [f"format-{n}" for n in range(1, FORMAT)]


def test_what_it_lacks_takes_the_value_of_before(first: Path):
    recipe = Run.open(first).recipe
    assert isinstance(recipe.field, Grid)
    assert isinstance(recipe.sampler, DensityGrid)
    assert recipe.field.visible == 1.0
    assert recipe.sampler.guide == Guide(share=0.0)


def test_the_guide_that_nothing_read_still_says_nothing(first: Path):
    file = first / "recipe.json"
    written = json.loads(file.read_text())
    assert written["sampler"]["guide"] == 0.0
    written["sampler"]["guide"] = 0.5
    file.write_text(json.dumps(written))
    assert read_recipe(file) == read_recipe(FIRST / "recipe.json")


@older
def test_it_renders_as_it_did(kept: Path):
    seen = Run.open(kept).model.render(two_rays()).rgb.detach()
    torch.testing.assert_close(seen, torch.tensor(SEEN[kept]), rtol=0, atol=2e-5)


def test_photographs_had_nothing_of_their_own():
    recipe = Run.open(SECOND).recipe
    assert recipe.codes == Codes()
    assert recipe.compositing.media == "split"


def test_there_was_one_scene():
    recipe = Run.open(THIRD).recipe
    assert recipe.codes.appearance == 3
    assert recipe.codes.latent == 0
    assert (recipe.inference, recipe.episodes) == (None, None)


@older
def test_it_goes_on(kept: Path, tmp_path: Path):
    """With checkpoints that belong to it as much as the older ones."""
    first = Path(shutil.copytree(kept, tmp_path / "run"))
    run = Run.open(first).extend(Budget(steps=22))
    scene = synthetic_scene("shapes", size=24, views=8, test_views=2, supersample=1)
    go_on(run, scene)
    again = Run.open(first)
    assert again.latest == 22
    assert again.checkpoints == [20, 22]
    assert again.model.render(two_rays()).rgb.isfinite().all()

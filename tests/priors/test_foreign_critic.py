"""A control of the adversarial prior: its critic is told that another scene's photographs are real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rayprior.errors import UserError
from rayprior.methods import recipe_from
from rayprior.priors.adversarial import Adversarial
from rayprior.scenes.open import load_scene
from rayprior.training.bill import bill
from rayprior.training.budget import Budget
from rayprior.training.fit import fit
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene

FOREIGN = "synthetic:room"
CPU = torch.device("cpu")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.usefixtures("quick_house")
def test_real_tiles_are_the_other_scenes_and_the_field_is_asked_for_its_own():
    scene = load_scene("synthetic:shapes")
    own = Adversarial(tile=8, patch=16).settled(scene, {})
    foreign = Adversarial(tile=8, patch=16, foreign=FOREIGN).settled(scene, {})
    a, b = own.query(scene, seeded()), foreign.query(scene, seeded())
    assert a is not None
    assert b is not None
    assert torch.equal(a.rays.directions, b.rays.directions)
    assert torch.equal(a.known["rgb"], b.known["rgb"])
    generator = seeded()
    scene.patch_rays(1, 16, 1, generator)
    there = load_scene(FOREIGN).patch_rays(1, 16, 1, generator).known["rgb"]
    assert torch.equal(b.known["real"], there)
    # the critic's loss and penalty are those of an own critic to whom these pixels are the photograph
    critic = own.critic()
    seen = FitScene(settle(recipe_from("grid", None, "small"), scene), scene, 0, CPU).model.render(a.rays, seeded())
    told = {**a.known, "rgb": b.known["real"]}
    assert foreign.critic_loss(critic, seen, b.known) == own.critic_loss(critic, seen, told)
    assert foreign.critic_penalty(critic, b.known) == own.critic_penalty(critic, told)
    assert foreign.loss(seen, b.known, critic) == own.loss(seen, a.known, critic)  # judged as it was rendered


@pytest.mark.usefixtures("quick_house")
def test_its_patches_are_shared_the_other_way_round():
    scene = load_scene("synthetic:shapes")
    spec = f"adversarial:tile=8,foreign={FOREIGN}"
    recipe = settle(recipe_from("grid", None, "small", None, (spec, "patches:of=adversarial"), ()), scene)
    task = FitScene(recipe, scene, 0, CPU)
    losses, _ = task.losses(0, 0.0)
    assert {"patches", "adversarial"} <= losses.keys()
    assert task.rays.keys() == {"photo", "adversarial"}
    assert f"told that photographs of {FOREIGN} are real: a control" in str(bill(recipe, scene, Budget(1)))


@pytest.mark.usefixtures("quick_house")
def test_what_is_refused(tmp_path: Path):
    scene = load_scene("synthetic:shapes")
    recipe = recipe_from("grid", None, None, None, ("patches", f"adversarial:of=patches,foreign={FOREIGN}"), ())
    with pytest.raises(UserError, match=r"leave `of` out here.*--prior patches:of=adversarial"):
        settle(recipe, scene)
    with pytest.raises(UserError, match="no such folder or file"):
        Adversarial(tile=8, foreign=str(tmp_path / "nowhere")).settled(scene, {})
    small = replace(Adversarial(tile=8, patch=24, foreign=FOREIGN)).settled(scene, {})
    assert small.patch == 24


def test_steps_of_a_critic_that_are_left_out_are_in_the_log(quick_house: Path, monkeypatch: pytest.MonkeyPatch):
    """Skipped and counted: `skipped` by term; not there where there is none."""
    scene = load_scene("synthetic:shapes")
    recipe = recipe_from("grid", None, "small", None, ("adversarial:tile=8,r1=0",), ())
    assert "skipped" not in fit(recipe, scene, steps=2, out=quick_house / "a", device="cpu").read_log()[-1]
    monkeypatch.setattr("rayprior.training.tasks.finite_gradients", lambda critic: False)
    with pytest.warns(UserWarning, match="got a gradient that is not finite"):
        run = fit(recipe, scene, steps=3, out=quick_house / "b", device="cpu")
    assert [line["skipped"] for line in run.read_log()] == [{"adversarial": count} for count in (1, 2, 3)]

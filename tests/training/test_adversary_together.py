"""A critic beside other priors and photographs' codes, as they are typed: the same bits when resumed, its own too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from families import balls
from rayprior.errors import UserError
from rayprior.methods import METHODS, recipe_from
from rayprior.priors.adversarial import Adversarial
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.fit import fit, go_on
from rayprior.training.loop import Progress
from rayprior.training.run import Run
from rayprior.training.settle import settle

PRIORS = ("adversarial:r1_every=3", "entropy:rays=16", "depth:at=keypoints,rays=16", "perceptual:of=adversarial")
CODES = ("codes.appearance=4", "photo.rays=32")
STEPS = 8


class Stopped(Exception):
    """As a kill in the middle of a run would."""


@pytest.fixture(scope="module")
def scene() -> Scene:
    return synthetic_scene("shapes", size=24, views=5, test_views=1, supersample=1)


def stop(now: Progress) -> None:
    if now.step == 5:
        raise Stopped


@pytest.mark.parametrize("backbone", ["grid", "mlp"])
def test_exact_resume_of_the_critic_too(backbone, scene: Scene, tmp_path: Path):
    recipe = recipe_from("nerf", backbone, "small", None, PRIORS, CODES)
    whole = fit(recipe, scene, steps=STEPS, out=tmp_path / "whole", threads=1)
    with pytest.raises(Stopped):
        fit(recipe, scene, steps=STEPS, out=tmp_path / "cut", threads=1, watch=stop)
    cut = go_on(Run.open(tmp_path / "cut"), scene)
    file = f"checkpoints/step-{STEPS:06d}/model.safetensors"
    assert (cut.path / file).read_bytes() == (whole.path / file).read_bytes()
    rows = [[(row["step"], row["losses"], row["rays"]) for row in run.read_log()] for run in (cut, whole)]
    assert rows[0] == rows[1]
    _, losses, rays = rows[0][-1]
    assert set(losses) == set(recipe.terms) == {"photometric", "adversarial", "entropy", "depth", "perceptual"}
    assert rays == {"photo": 32, "adversarial": 256, "entropy": 16, "depth": 16}  # perceptual asks for none

    states = [critic_of(run) for run in (cut, whole)]
    assert states[0]["skipped"] == states[1]["skipped"] == 0
    for name, value in states[0]["critic"].items():
        assert torch.equal(value, states[1]["critic"][name]), name
    for one, other in zip(states[0]["optimiser"]["state"].values(), states[1]["optimiser"]["state"].values()):
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    critic = Adversarial().critic()
    critic.load_state_dict(states[0]["critic"])


def critic_of(run: Run) -> dict:
    """What the last checkpoint keeps of the critic."""
    return run.load_checkpoint(run.model).state["task"]["adversaries"]["adversarial"]


@pytest.mark.parametrize("name", [name for name, recipe in METHODS.items() if recipe.episodes is None])
def test_beside_every_recipe_of_one_scene(name: str, scene: Scene):
    recipe = settle(recipe_from(name, size="small", priors=["adversarial"]), scene)
    term = recipe.terms["adversarial"]
    assert isinstance(term, Adversarial)
    assert term.patch == 16


@pytest.mark.parametrize("prior", ["adversarial", "perceptual", "patches"])
def test_a_family_has_no_patches(prior: str):
    with pytest.raises(UserError, match=f"prior '{prior}' judges patches of one scene's photographs"):
        settle(recipe_from("nerf-vae", size="small", priors=[prior]), balls())


@pytest.mark.parametrize("name", ["ganerf", "sharp"])
def test_the_recipes_train(name: str, scene: Scene, tmp_path: Path):
    run = fit(recipe_from(name, size="small"), scene, steps=3, out=tmp_path / name, threads=1)
    assert set(run.read_log()[-1]["losses"]) == set(METHODS[name].terms)

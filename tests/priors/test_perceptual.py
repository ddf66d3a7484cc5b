"""The perceptual prior: 0 for equal patches, a finite gradient, and which network sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.methods import recipe_from
from rayprior.priors.perceptual import Perceptual
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.bill import bill
from rayprior.training.budget import Budget
from rayprior.training.recipe_json import recipe_to_plain
from rayprior.training.settle import settle

SCENE = synthetic_scene("shapes", size=24, views=4, test_views=1, supersample=1)
TERM = Perceptual(patch=16, features="random")


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever this machine has is not seen."""
    monkeypatch.delenv("RAYPRIOR_WEIGHTS", raising=False)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))


def rendering(rgb: Tensor) -> Rendering:
    t = torch.linspace(2, 6, 3).expand(len(rgb), -1)
    return Rendering(rgb, RayDistribution(t, torch.zeros(len(rgb), 2)), torch.zeros(len(rgb), 2))


def patch(seed: int = 0) -> Tensor:
    return torch.rand(2 * 256, 3, generator=torch.Generator().manual_seed(seed))


def test_equal_patches():
    rgb = patch().requires_grad_()
    loss = TERM.loss(rendering(rgb), {"rgb": patch()})
    assert loss.item() == 0
    loss.backward()
    assert rgb.grad is not None
    assert rgb.grad.isfinite().all()


def test_others_have_a_finite_gradient_everywhere():
    for rgb in (patch(1), torch.zeros(512, 3), torch.ones(512, 3)):
        rgb = rgb.clone().requires_grad_()
        loss = TERM.loss(rendering(rgb), {"rgb": patch()})
        assert loss.item() > 0
        loss.backward()
        assert rgb.grad is not None
        assert rgb.grad.isfinite().all()
        assert rgb.grad.any()


def test_what_masks_leave_out_counts_for_nothing():
    kept = torch.ones(512, dtype=torch.bool)
    kept[:100] = False
    a, b = patch(), patch()
    b[:100] = 0.9
    assert TERM.loss(rendering(b), {"rgb": a, "kept": kept}).item() == 0
    assert TERM.loss(rendering(b), {"rgb": a}).item() > 0


def test_without_weights_random_convolutions_are_taken_and_named():
    recipe = settle(recipe_from("grid", size="small", priors=["perceptual"]), SCENE)
    assert recipe.terms["perceptual"].features == "random"  # type: ignore[attr-defined]
    assert recipe_to_plain(recipe)["terms"]["perceptual"]["features"] == "random"
    text = str(bill(recipe, SCENE, Budget(steps=10)))
    assert "perceptual: 1 of 16x16 px (at most 32 were allowed), seen by fixed random convolutions" in text
    assert "not a trained network (vgg19-*.pth is not in RAYPRIOR_WEIGHTS)" in text


def test_weights_that_are_asked_for_and_missing():
    with pytest.raises(UserError, match=r"vgg19-\*\.pth, looked for in .*RAYPRIOR_WEIGHTS, or use features=random"):
        settle(recipe_from("grid", priors=["perceptual:features=vgg19"]), SCENE)


def test_a_patch_that_is_too_small_for_the_network():
    with pytest.raises(UserError, match=r"a patch of 4 pixels a side is too small for features=random.* at least 8"):
        settle(recipe_from("grid", priors=["perceptual:patch=4"]), SCENE)
    settle(recipe_from("grid", priors=["perceptual:patch=4,side=32"]), SCENE)


def test_a_side_that_no_network_takes():
    for side in (-1, 7):
        with pytest.raises(UserError, match=rf"side={side} is too small for features=random.* expected at least 8"):
            settle(recipe_from("grid", priors=[f"perceptual:side={side}"]), SCENE)


def test_patches_may_be_resized():
    seen, known = rendering(patch(1)), {"rgb": patch()}
    plain, larger = (Perceptual(patch=16, features="random", side=side).loss(seen, known) for side in (16, 32))
    assert torch.equal(plain, TERM.loss(seen, known))
    assert not torch.equal(plain, larger)

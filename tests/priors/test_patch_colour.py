"""Patches as a likelihood and as a question that terms share: sizes that fit, masks, and who asks for whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.methods import recipe_from
from rayprior.priors.patches import Patches, pictures_of
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.scene import Pictures, Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.bill import bill, refuse_if_too_large
from rayprior.training.budget import Budget
from rayprior.training.settle import settle

SCENE = synthetic_scene("shapes", size=40, views=5, test_views=1, supersample=1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rendering(rgb: Tensor) -> Rendering:
    t = torch.linspace(2, 6, 3, dtype=rgb.dtype).expand(len(rgb), -1)
    return Rendering(rgb, RayDistribution(t, torch.zeros(len(rgb), 2)), torch.zeros(len(rgb), 2))


def settled(*priors: str, settings: tuple[str, ...] = (), scene: Scene = SCENE):
    return settle(recipe_from("grid", size="small", priors=priors, settings=settings), scene)


# -- colour ------------------------------------------------------------------------------------------------------------


def test_mean_squared_error_of_a_patch():
    truth = torch.rand(16, 3, generator=seeded())
    assert Patches().loss(rendering(truth), {"rgb": truth}).item() == 0
    assert Patches().loss(rendering(truth + 0.1), {"rgb": truth}).item() == pytest.approx(0.01)


def test_what_masks_leave_out_has_no_colour():
    truth, kept = torch.zeros(16, 3), torch.arange(16) < 4
    rgb = torch.where(kept[:, None], 0.1, 0.9).requires_grad_()
    loss = Patches().loss(rendering(rgb), {"rgb": truth, "kept": kept})
    assert loss.item() == pytest.approx(0.01)
    loss.backward()
    assert rgb.grad is not None
    assert not rgb.grad[4:].any()
    nothing = Patches().loss(rendering(rgb), {"rgb": truth, "kept": torch.zeros(16, dtype=torch.bool)})
    assert nothing.item() == 0


def test_pictures_have_their_pixels_where_they_were():
    asked = SCENE.patch_rays(2, 8, 1, seeded(1))
    rendered, photographed = pictures_of(asked.known["rgb"], asked.known, 8)
    assert torch.equal(rendered, photographed)
    assert photographed.shape == (2, 3, 8, 8)
    u, v = asked.rays.pixel[64 + 3 * 8 + 5].long().tolist()  # second patch, row 3, column 5
    background = tuple(asked.rays.background[64].tolist())
    view = int(asked.rays.camera[64])
    torch.testing.assert_close(photographed[1, :, 3, 5], SCENE.picture(view, background)[v, u])


def test_what_masks_leave_out_is_grey_in_both():
    kept = torch.arange(16) % 3 > 0
    rendered, photographed = pictures_of(torch.rand(16, 3), {"rgb": torch.rand(16, 3), "kept": kept}, 4)
    assert (rendered.view(3, 16)[:, ~kept] == 0.5).all()
    assert torch.equal(rendered.view(3, 16)[:, ~kept], photographed.view(3, 16)[:, ~kept])
    assert not torch.equal(rendered, photographed)


# -- which patches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "side"),
    [("", 32), (":largest=64", 32), (":largest=20", 16), (":patch=40", 40), (":patch=7", 7), (":dilation=2", 16)],
)
def test_the_largest_that_fits(typed: str, side: int):
    assert settled(f"patches{typed}").terms["patches"].patch == side  # type: ignore[attr-defined]


def test_a_recipe_settled_twice_is_the_same():
    once = settled("patches", "adversarial:of=patches", "perceptual:of=patches")
    assert settle(once, SCENE) == once


def test_a_patch_that_was_typed_and_does_not_fit_is_refused():
    for spec in ("patches:patch=41", "adversarial:patch=48", "perceptual:patch=41", "patches:patch=21,dilation=2"):
        with pytest.raises(UserError, match=r"do not fit the training picture .* of 40x40; expected at most"):
            settled(spec)
    with pytest.raises(UserError, match="do not fit"):
        settled("patches", settings=("terms.patches.patch=64",))


def test_a_tile_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"needs patches of at least 48 pixels.* picture holds 40.*set a smaller tile"):
        settled("adversarial:tile=48,largest=256")
    with pytest.raises(UserError, match="patch 24 pixels a side; expected a multiple of its tile, 16"):
        settled("adversarial:patch=24")


@pytest.mark.parametrize(
    "spec", ["patches:patches=0", "patches:patch=0", "perceptual:dilation=0", "adversarial:patch=-2"]
)
def test_numbers_that_no_patch_has(spec: str):
    with pytest.raises(UserError, match=r"(patches|patch|dilation)=-?\d; expected at least 1"):
        settled(spec)


def test_others_judge_the_patches_that_one_asks_for():
    recipe = settled("patches:patches=3,dilation=2,patch=16", "perceptual:of=patches", "adversarial:of=patches")
    for name in ("perceptual", "adversarial"):
        term = recipe.terms[name]
        assert (term.patches, term.patch, term.dilation) == (3, 16, 2)  # type: ignore[attr-defined]
        assert term.judges == "patches"
        assert term.query(SCENE, seeded()) is None
    cost = bill(recipe, SCENE, Budget(steps=10))
    assert cost.rays == {"photo": 128, "patches": 3 * 256}


@pytest.mark.parametrize("of", ["photometric", "sky", "perceptual"])
def test_patches_of_a_term_that_asks_for_none(of: str):
    with pytest.raises(UserError, match=f"of={of}: no term of that name asks for patches"):
        settled(f"perceptual:of={of}")
    with pytest.raises(UserError, match="did you mean 'patches'"):
        settled("patches", "perceptual:of=patch")


def test_patches_of_others_are_cut_into_tiles_too():
    with pytest.raises(UserError, match=r"of=patches: its patches are 24 pixels a side; expected a multiple"):
        settled("patches:patch=24", "adversarial:of=patches")


def test_the_bill_says_which_patches():
    text = str(bill(settled("adversarial:largest=256"), SCENE, Budget(steps=10)))
    assert "photo 128 + adversarial 1024" in text
    assert "adversarial: 1 of 32x32 px (at most 256 were allowed), a small critic of tiles of 16x16 px" in text
    assert "critics" in text


def test_where_patches_take_the_memory_smaller_ones_are_advised():
    cost = bill(settled("adversarial:patches=8"), SCENE, Budget(steps=10))
    with pytest.raises(UserError, match=r"--size small, smaller patches \(--set terms.adversarial.largest"):
        refuse_if_too_large(replace(cost, memory={**cost.memory, "activations": 10**9}), 10**8)


def test_masks_that_leave_no_patch_are_refused_before_training():
    speckled = torch.zeros(40, 40, 1, dtype=torch.bool)
    speckled[::3, ::3] = True
    scene = replace(SCENE, masks=Pictures.of([speckled] * len(SCENE)))
    recipe = settled("patches", scene=scene)
    with pytest.raises(UserError, match="the masks keep half of no patch of 32x32"):
        bill(recipe, scene, Budget(steps=10))


def test_fewer_pictures_than_patches_is_fine():
    assert len(SCENE.split.train) < 9
    assert len(SCENE.patch_rays(9, 16, 1, seeded())) == 9 * 256


def test_small_recipes_have_small_patches():
    recipe = recipe_from("ganerf", size="small")
    assert recipe.terms["adversarial"].largest == 32  # type: ignore[attr-defined]
    assert recipe.terms["adversarial"].tile == 16  # type: ignore[attr-defined]

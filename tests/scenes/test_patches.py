"""Patches of training pictures: their order, where they may lie, what masks and backgrounds do to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.scenes.scene import Background, Pictures, Scene
from rayprior.scenes.synthetic import synthetic_scene

SCENE = synthetic_scene("shapes", size=24, views=6, test_views=2, supersample=1)
OPAQUE = replace(
    SCENE, background=Background("none"), pictures=Pictures(SCENE.pictures.values[:, :3], SCENE.cameras.size)
)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def masked(kept: Tensor, views: int | None = None) -> Scene:
    """Every picture, or the first so many, with this mask (h, w); the others keep nothing."""
    count = len(SCENE) if views is None else views
    nothing = torch.zeros_like(kept)
    parts = [(kept if view < count else nothing)[:, :, None] for view in range(len(SCENE))]
    return replace(OPAQUE, masks=Pictures.of(parts))


def test_patch_by_patch_row_by_row():
    asked = OPAQUE.patch_rays(5, 4, 1, seeded())
    assert len(asked) == 5 * 16
    pixel = asked.rays.pixel.view(5, 4, 4, 2)
    first = pixel[:, :1, :1]
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    torch.testing.assert_close(pixel, first + torch.stack([columns, rows], dim=2))
    assert (asked.rays.camera.view(5, 16) == asked.rays.camera.view(5, 16)[:, :1]).all()


@pytest.mark.parametrize("dilation", [1, 3])
def test_colours_are_those_of_the_pixels(dilation: int):
    asked = OPAQUE.patch_rays(3, 5, dilation, seeded(1))
    for index in range(len(asked)):
        u, v = asked.rays.pixel[index].long().tolist()
        picture = OPAQUE.picture(int(asked.rays.camera[index]))
        torch.testing.assert_close(asked.known["rgb"][index], picture[v, u])


def test_they_are_the_rays_of_their_pixels():
    rays = OPAQUE.patch_rays(2, 6, 2, seeded(2)).rays
    same = OPAQUE.rays(rays.camera, rays.pixel)
    for name in ("origins", "directions", "near", "far", "camera", "pixel"):
        torch.testing.assert_close(getattr(rays, name), getattr(same, name), rtol=0, atol=0)


@pytest.mark.parametrize(("size", "dilation", "places"), [(8, 1, 17), (8, 3, 3), (24, 1, 1), (1, 1, 24)])
def test_every_place_inside_the_border_is_as_likely(size: int, dilation: int, places: int):
    """A patch spans 1 + (size - 1) dilation pixels of 24, so that its first pixel has `places` columns and rows."""
    asked = OPAQUE.patch_rays(4000, size, dilation, seeded(3))
    first = asked.rays.pixel.view(4000, size * size, 2)[:, 0].long()
    assert asked.rays.pixel.min() >= 0.5
    assert asked.rays.pixel.max() <= 23.5
    for axis in range(2):
        counts = torch.bincount(first[:, axis], minlength=places)
        assert len(counts) == places
        expected = 4000 / places
        assert (counts - expected).abs().max() < 5 * expected**0.5 + 1
    views = torch.bincount(asked.rays.camera.view(4000, -1)[:, 0], minlength=len(SCENE))
    assert (views[list(SCENE.split.train)] > 0).all()


def test_test_views_are_never_drawn():
    camera = OPAQUE.patch_rays(500, 4, 1, seeded(4)).rays.camera
    assert set(camera.tolist()) == set(SCENE.split.train)
    assert not set(camera.tolist()) & set(SCENE.split.test)


def test_pictures_of_different_sizes_share_places_evenly():
    sizes = torch.tensor([[24, 24], [12, 30]])
    scene = with_sizes(sizes)
    asked = scene.patch_rays(6000, 8, 1, seeded(5))
    camera = asked.rays.camera.view(6000, -1)[:, 0]
    places = torch.tensor([17 * 17, 5 * 23])
    share = torch.bincount(camera, minlength=2)[:2] / 6000
    torch.testing.assert_close(share, places / places.sum(), rtol=0, atol=0.02)
    assert (asked.rays.pixel < sizes[asked.rays.camera]).all()


def with_sizes(sizes: Tensor) -> Scene:
    """Two training pictures of these sizes, of noise; intrinsics are left as they are."""
    pictures = [torch.randint(256, (h, w, 3), generator=seeded(), dtype=torch.uint8) for w, h in sizes.tolist()]
    split = replace(OPAQUE.split, train=(0, 1), test=())
    cameras = replace(OPAQUE.cameras[[0, 1]], size=sizes)
    return replace(OPAQUE, pictures=Pictures.of(pictures), cameras=cameras, names=("a", "b"), split=split)


@pytest.mark.parametrize(("size", "dilation", "most"), [(25, 1, 24), (13, 2, 12), (100, 7, 4)])
def test_a_patch_larger_than_a_picture_is_refused(size: int, dilation: int, most: int):
    with pytest.raises(
        UserError, match=rf"{size}x{size} pixels.* do not fit .* of 24x24; expected at most {most} a side"
    ):
        OPAQUE.patch_rays(1, size, dilation, seeded())
    assert OPAQUE.largest_patch(dilation) == most
    OPAQUE.patch_rays(1, most, dilation, seeded())


@pytest.mark.parametrize(("size", "dilation"), [(0, 1), (4, 0)])
def test_a_patch_of_nothing_is_refused(size: int, dilation: int):
    with pytest.raises(UserError, match="at least 1"):
        OPAQUE.patch_rays(1, size, dilation, seeded())


def test_the_smallest_training_picture_decides():
    scene = with_sizes(torch.tensor([[24, 24], [12, 30]]))
    with pytest.raises(UserError, match=r"'b' of 12x30"):
        scene.patch_rays(1, 13, 1, seeded())


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dilation", [1, 2])
def test_masks_keep_half_of_every_patch(dilation: int):
    kept = torch.zeros(24, 24, dtype=torch.bool)
    kept[:, :9] = True
    scene = masked(kept)
    asked = scene.patch_rays(2000, 6, dilation, seeded(6))
    u, v = asked.rays.pixel.long().unbind(dim=1)
    assert torch.equal(asked.known["kept"], kept[v, u])
    share = asked.known["kept"].view(2000, 36).float().mean(dim=1)
    assert share.min() >= 0.5
    assert share.min() < 0.6  # as far out as the rule allows
    first = asked.rays.pixel.view(2000, 36, 2)[:, 0, 0].long()
    assert first.max() == 9 - 2 * dilation - 1  # columns 0, d and 2 d of a patch are kept
    assert first.unique().numel() == int(first.max()) + 1


def test_a_view_that_masks_leave_out_is_never_drawn():
    kept = torch.ones(24, 24, dtype=torch.bool)
    camera = masked(kept, views=2).patch_rays(200, 8, 1, seeded(7)).rays.camera
    assert set(camera.tolist()) == {0, 1}


def test_masks_that_leave_no_patch_are_an_error():
    speckled = torch.zeros(24, 24, dtype=torch.bool)
    speckled[::3, ::3] = True
    with pytest.raises(UserError, match="keep half of no patch of 8x8 pixels"):
        masked(speckled).patch_rays(1, 8, 1, seeded())


def test_masks_that_score_alone_decide_nothing():
    scene = replace(masked(torch.zeros(24, 24, dtype=torch.bool)), mask_rule="score")
    assert "kept" not in scene.patch_rays(2, 8, 1, seeded()).known


# -- backgrounds -------------------------------------------------------------------------------------------------------


def test_a_random_background_is_one_colour_a_patch():
    scene = replace(SCENE, background=Background("random"))
    asked = scene.patch_rays(3, 8, 1, seeded(8))
    colour = asked.rays.background.view(3, 64, 3)
    assert (colour == colour[:, :1]).all()
    assert len(colour[:, 0].unique(dim=0)) == 3
    u, v = asked.rays.pixel.long().unbind(dim=1)
    flat = scene.pictures.start[asked.rays.camera] + v * 24 + u
    torch.testing.assert_close(asked.known["rgb"], scene.truth(flat, asked.rays.background))


def test_the_same_generator_gives_the_same_patches():
    a, b = (OPAQUE.patch_rays(4, 8, 2, seeded(9)).rays.pixel for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, OPAQUE.patch_rays(4, 8, 2, seeded(10)).rays.pixel)

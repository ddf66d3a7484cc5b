"""Augmentation: every pixel goes where its picture goes, exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rayprior.descriptors.augment import (
    Shown,
    drawn_homography,
    half_turned,
    homography_through,
    jittered,
    moved_by,
    pasted,
    warped,
    with_drawn_background,
)
from rayprior.descriptors.matching import at

WIDTH, HEIGHT = 20, 14


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shown(seed: int = 0, count: int = 50) -> Shown:
    """A random picture, a random mask, random pixels."""
    g = generator(seed)
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float64)
    return Shown(
        picture=torch.rand(3, HEIGHT, WIDTH, generator=g),
        mask=torch.rand(HEIGHT, WIDTH, generator=g) < 0.4,
        pixel=torch.rand(count, 2, generator=g, dtype=torch.float64) * size,
        valid=torch.ones(count, dtype=torch.bool),
    )


def colours(of: Shown) -> torch.Tensor:
    return at(of.picture.permute(1, 2, 0), of.pixel)


def test_a_half_turn_turns_pixels_too():
    before = shown()
    after = half_turned(before)
    assert torch.allclose(colours(after), colours(before), atol=1e-6)
    assert torch.equal(after.pixel, torch.tensor([WIDTH, HEIGHT]) - before.pixel)
    assert float(after.picture[1, 0, 0]) == float(before.picture[1, -1, -1])
    assert after.mask is not None
    assert before.mask is not None
    assert torch.equal(after.mask, before.mask.flip(0, 1))
    again = half_turned(after)
    assert torch.equal(again.picture, before.picture)
    assert torch.allclose(again.pixel, before.pixel)


def test_a_drawn_background_leaves_the_object_alone():
    before = shown()
    assert before.mask is not None
    kinds = set()
    for seed in range(20):
        after = with_drawn_background(before, generator(seed))
        assert torch.equal(after.picture[:, before.mask], before.picture[:, before.mask])
        assert torch.equal(after.pixel, before.pixel)
        outside = after.picture[:, ~before.mask]
        assert not torch.equal(outside, before.picture[:, ~before.mask])
        assert 0 <= float(outside.min()) <= float(outside.max()) <= 1
        kinds.add(float(outside.std(dim=1).max()) > 0.1)
    assert kinds == {False, True}, "flat ones and gradients"


def test_colours_are_scaled_alike_everywhere():
    before = replace(shown(), picture=0.3 + 0.2 * shown().picture)
    after = jittered(before, 0.2, generator())
    scale = (after.picture[:, 1:] - after.picture[:, :-1]) / (before.picture[:, 1:] - before.picture[:, :-1])
    each = scale.flatten(1).median(dim=1).values
    assert torch.allclose(scale.flatten(1), each[:, None].expand(3, -1), rtol=1e-2)
    assert bool(((each > 0.8**3) & (each < 1.2**3)).all())
    assert torch.allclose(jittered(before, 0.0, generator()).picture, before.picture)


# -- homographies ------------------------------------------------------------------------------------------------------


def test_a_homography_goes_through_its_points():
    corners = torch.tensor([[0, 0], [9, 0], [9, 7], [0, 7]], dtype=torch.float64)
    a, b = (corners + torch.rand(4, 2, generator=generator(seed), dtype=torch.float64) for seed in (1, 2))
    assert torch.allclose(moved_by(homography_through(a, b), a), b)


def test_pixels_move_with_the_picture():
    """Of a picture whose colours are smooth, each pixel finds its colour again where it is led."""
    size = (64, 48)
    v, u = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    picture = torch.stack([u / 64, v / 48, (torch.sin(u / 9) * torch.cos(v / 7) + 1) / 2])
    pixel = torch.rand(500, 2, generator=generator(), dtype=torch.float64) * torch.tensor(size)
    mask = (u - 32).square() + (v - 24).square() < 400
    before = Shown(picture, mask, pixel, torch.ones(500, dtype=torch.bool))
    for seed in range(8):
        homography = drawn_homography(size, generator(seed))
        after = warped(before, homography)
        assert torch.allclose(after.pixel[after.valid], moved_by(homography, pixel)[after.valid])
        inner = after.valid & ((pixel > 2) & (pixel < torch.tensor(size) - 2)).all(dim=1)
        off = (colours(after) - colours(before))[inner].abs()
        assert float(off.max()) < 0.04
        assert 0.3 < float(after.valid.double().mean()) < 1
        assert after.mask is not None
        x, y = after.pixel.long()[inner].unbind(dim=1)
        column, row = pixel.long()[inner].unbind(dim=1)
        assert float((after.mask[y, x] == mask[row, column]).double().mean()) > 0.95
        assert torch.equal(after.pixel[~after.valid], pixel[~after.valid])


def test_a_whole_pixel_shift_is_exact():
    before = shown()
    moved = warped(before, torch.tensor([[1, 0, 3], [0, 1, -2], [0, 0, 1]], dtype=torch.float64))
    assert torch.allclose(moved.picture[:, :-2, 3:], before.picture[:, 2:, :-3], atol=1e-5)
    assert moved.mask is not None
    assert before.mask is not None
    assert torch.equal(moved.mask[:-2, 3:], before.mask[2:, :-3])
    assert not bool(moved.mask[:, :3].any()), "nothing of the object comes from beyond the border"
    inside = (before.pixel[:, 0] < WIDTH - 3) & (before.pixel[:, 1] >= 2)
    assert torch.equal(moved.valid, inside)
    assert torch.allclose(moved.pixel[inside], before.pixel[inside] + torch.tensor([3.0, -2.0]).double())


def test_the_identity_changes_nothing():
    before = shown()
    after = warped(before, torch.eye(3, dtype=torch.float64))
    assert torch.allclose(after.picture, before.picture, atol=1e-5)
    assert after.mask is not None
    assert before.mask is not None
    assert torch.equal(after.mask, before.mask)
    assert torch.allclose(after.pixel, before.pixel)


# -- several objects ---------------------------------------------------------------------------------------------------


def test_what_is_pasted_over_is_no_match():
    front, back = shown(0), shown(1)
    assert front.mask is not None
    assert back.mask is not None
    both = pasted(front, back)
    assert both.mask is not None
    column, row = back.pixel.long().unbind(dim=1)
    assert torch.equal(both.valid, torch.cat([front.valid, ~front.mask[row, column]]))
    assert torch.equal(both.pixel, torch.cat([front.pixel, back.pixel]))
    assert torch.equal(both.picture[:, front.mask], front.picture[:, front.mask])
    assert torch.equal(both.picture[:, ~front.mask], back.picture[:, ~front.mask])
    assert torch.equal(both.mask, front.mask | back.mask)
    assert 0 < int(both.valid[50:].sum()) < 50


def test_what_was_not_valid_stays_so():
    front, back = shown(0), shown(1)
    front, back = (replace(of, valid=torch.arange(50) % 2 == 0) for of in (front, back))
    assert not bool(pasted(front, back).valid[1::2].any())
    assert not bool(warped(front, torch.eye(3, dtype=torch.float64)).valid[1::2].any())


def test_a_homography_keeps_most_of_a_picture():
    corners = torch.tensor([[0, 0], [64, 0], [64, 48], [0, 48]], dtype=torch.float64)
    for seed in range(50):
        homography = drawn_homography((64, 48), generator(seed))
        assert bool(moved_by(homography, corners).isfinite().all())
        assert float(torch.linalg.det(homography)) > 0, "no mirror"
        assert float(homography[2, 2]) == pytest.approx(1.0)
        right = moved_by(homography, torch.tensor([[28.0, 24.0], [36.0, 24.0]], dtype=torch.float64))
        assert float((right[1] - right[0])[0]) > 0, "upright cameras see upright pictures"

"""Non-matches: where they may lie, and how many enemies are neighbours without an excluded disc."""

from __future__ import annotations

import pytest
import torch

from rayprior.descriptors.non_matches import NonMatching, draw_non_matches
from rayprior.errors import UserError

SIZE = (160, 120)


def square(side: int, at: tuple[int, int] = (30, 10)) -> torch.Tensor:
    mask = torch.zeros(SIZE[1], SIZE[0], dtype=torch.bool)
    mask[at[1] : at[1] + side, at[0] : at[0] + side] = True
    return mask


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("side", "share"), [(100, 0.09), (32, 0.61), (20, 0.91)])
def test_of_75_masked_non_matches_one_is_a_neighbour(side: int, share: float):
    """Closed forms 7.10: within 2 px of a truth inside a mask of 10,000, about 1,000 and 400 pixels; then none."""
    mask, count = square(side), 4_000
    inner = 3 + torch.rand(count, 2, generator=generator(1), dtype=torch.float64) * (side - 6)
    truth = inner + torch.tensor([30.0, 10.0])
    none = NonMatching(count=150, exclude_px=0.0, exclude_share=0.0)
    inside, _ = draw_non_matches(truth, SIZE, mask, none, generator())
    assert inside.pixel.shape == (count, 75, 2)
    hit = float((inside.off_px < 2).any(dim=1).double().mean())
    expected = share if side != 32 else 1 - (1 - 4 * torch.pi / 1024) ** 75
    assert hit == pytest.approx(expected, abs=0.02)
    ours = NonMatching(count=150, exclude_px=2.0, exclude_share=0.0)
    inside, _ = draw_non_matches(truth, SIZE, mask, ours, generator())
    assert float(inside.off_px[inside.valid].min()) >= 2
    assert bool(inside.valid.all())


def test_half_lie_in_the_object_and_half_outside():
    mask = square(30)
    inside, outside = draw_non_matches(
        torch.full((5, 2), 40.3).double(), SIZE, mask, NonMatching(count=41), generator()
    )
    assert (inside.pixel.shape[1], outside.pixel.shape[1]) == (20, 21)
    for drawn, kept in ((inside, True), (outside, False)):
        u, v = drawn.pixel.long().unbind(dim=2)
        assert bool((mask[v, u] == kept).all())
        assert bool((drawn.pixel % 1 == 0.5).all()), "pixel centres"
        assert torch.allclose(drawn.off_px, (drawn.pixel - 40.3).norm(dim=2))


def test_they_are_uniform_in_the_mask():
    mask = square(6)
    inside, _ = draw_non_matches(
        torch.zeros(400, 2), SIZE, mask, NonMatching(count=200, exclude_px=0, exclude_share=0), generator()
    )
    u, v = inside.pixel.long().reshape(-1, 2).unbind(dim=1)
    counts = torch.bincount((v - 10) * 6 + u - 30, minlength=36).double()
    expected = 400 * 100 / 36
    assert float(((counts - expected) ** 2 / expected).sum()) < 66.6, "chi squared of 35 degrees, .1 %"


def test_without_a_mask_they_lie_anywhere():
    for mask in (None, torch.ones(SIZE[1], SIZE[0], dtype=torch.bool)):
        inside, outside = draw_non_matches(torch.zeros(3, 2), SIZE, mask, NonMatching(count=9), generator())
        assert inside.pixel.shape == (3, 9, 2)
        assert outside.pixel.shape == (3, 0, 2)
        assert bool((inside.pixel < torch.tensor(SIZE)).all())


def test_an_object_that_is_gone_leaves_the_background():
    empty = torch.zeros(SIZE[1], SIZE[0], dtype=torch.bool)
    inside, outside = draw_non_matches(torch.zeros(3, 2), SIZE, empty, NonMatching(count=8), generator())
    assert (inside.pixel.shape[1], outside.pixel.shape[1]) == (0, 8)


def test_an_object_inside_the_excluded_disc_has_no_non_match():
    how = NonMatching(count=8, exclude_px=9.0)
    inside, outside = draw_non_matches(torch.tensor([[32.5, 12.5]]), SIZE, square(4), how, generator())
    assert not bool(inside.valid.any())
    assert bool(outside.valid.all())


def test_the_disc_grows_with_the_picture():
    assert NonMatching().radius_px(504) == pytest.approx(7.04)
    assert NonMatching().radius_px(64) == pytest.approx(2.64)


def test_the_same_generator_draws_the_same():
    first, second = (
        draw_non_matches(torch.full((4, 2), 33.0), SIZE, square(9), NonMatching(), generator()) for _ in range(2)
    )
    assert torch.equal(first[0].pixel, second[0].pixel)
    assert torch.equal(first[1].pixel, second[1].pixel)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "non_matches.count=0: expected at least 1"),
        ({"masked": 1.5}, "non_matches.masked=1.5: expected a share"),
        ({"exclude_px": -1.0}, "non_matches.exclude_px=-1: expected at least 0"),
    ],
)
def test_values_are_checked(values: dict, message: str):
    with pytest.raises(UserError, match=message):
        NonMatching(**values)

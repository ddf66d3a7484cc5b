"""The unsharp mask: nothing at 0, nothing to what is flat, and its exact overshoot at an edge."""

from __future__ import annotations

import torch

from rayprior.evaluation.sharpened import UnsharpMask


def test_nothing_at_0_and_nothing_to_what_is_flat():
    picture = torch.rand(2, 3, 9, 13, generator=torch.Generator().manual_seed(0))
    assert torch.equal(UnsharpMask(0.0)(picture), picture)
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(UnsharpMask(2.0)(flat), flat)


def test_an_edge_overshoots_by_the_blur_that_is_taken_off():
    """At the last dark pixel the blur is the share of the window beyond the edge: sum of exp(-k^2/2), k = 1..3."""
    picture = torch.zeros(1, 3, 12, 20)
    picture[..., 10:] = 1
    weights = torch.exp(-0.5 * torch.arange(-3.0, 4.0).square())
    beyond = (weights[4:].sum() / weights.sum()).item()
    sharp = UnsharpMask(0.8)(picture)
    torch.testing.assert_close(sharp[..., 9], torch.full((1, 3, 12), -0.8 * beyond))
    torch.testing.assert_close(sharp[..., 10], torch.full((1, 3, 12), 1 + 0.8 * beyond))
    torch.testing.assert_close(sharp[..., :6], picture[..., :6])  # three pixels away nothing is seen of it
    torch.testing.assert_close(sharp.mean(), picture.mean())


def test_pictures_smaller_than_the_window():
    assert UnsharpMask(1.0)(torch.rand(1, 3, 2, 1)).shape == (1, 3, 2, 1)


def test_it_says_what_it_is():
    assert UnsharpMask(0.5).said == "unsharp mask, amount 0.5, Gaussian of 1 px; clipped"

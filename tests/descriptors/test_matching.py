"""Matching against brute force: bilinear lookup, the nearest descriptor, heat, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rayprior.descriptors import matching
from rayprior.descriptors.matching import at, best_match, closer_share, heat_map
from rayprior.errors import UserError


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_lookup_is_bilinear_and_centres_are_at_a_half():
    picture = random(5, 7, 3)
    centres = torch.tensor([[0.5, 0.5], [6.5, 4.5], [3.5, 2.5]], dtype=torch.float64)
    assert torch.equal(at(picture, centres), torch.stack([picture[0, 0], picture[4, 6], picture[2, 3]]))
    between = at(picture, torch.tensor([[3.75, 2.9]]))
    expected = 0.6 * (0.75 * picture[2, 3] + 0.25 * picture[2, 4]) + 0.4 * (0.75 * picture[3, 3] + 0.25 * picture[3, 4])
    torch.testing.assert_close(between[0], expected)
    borders = at(picture, torch.tensor([[0.0, 0.0], [7.0, 5.0]]))
    assert torch.equal(borders, torch.stack([picture[0, 0], picture[4, 6]]))


def test_lookup_of_a_linear_ramp_is_the_ramp():
    v, u = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(9) + 0.5, indexing="ij")
    pixels = torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([8.0, 5.0]) + 0.5
    torch.testing.assert_close(at(torch.stack([u, v], dim=2), pixels), pixels, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dimension", [1, 3, 16, 128])
@pytest.mark.parametrize("masked", [False, True])
def test_the_nearest_is_that_of_brute_force(dimension: int, masked: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matching, "ENTRIES", 1000)  # several blocks
    picture, queries = random(11, 13, dimension), random(37, dimension, seed=1)
    mask = random(11, 13, seed=2) > 0.3 if masked else None
    table = (picture.reshape(-1, 1, dimension) - queries).double().norm(dim=2)  # (pixels, queries)
    if mask is not None:
        table[~mask.reshape(-1)] = math.inf
    smallest, index = table.min(dim=0)
    pixel, distance = best_match(picture, queries, mask)
    assert torch.equal(pixel, torch.stack([index % 13, index // 13], dim=1).double() + 0.5)
    torch.testing.assert_close(distance.double(), smallest, atol=1e-6, rtol=1e-5)

    truth = torch.full((37,), 1.5)
    counted = (table < 1.5).sum(dim=0) / (143 if mask is None else mask.sum())
    torch.testing.assert_close(closer_share(picture, queries, truth, mask), counted.double())


def test_near_descriptors_far_from_zero_are_told_apart():
    """The matrix product in float32 would see no difference: 1e4 squared has 8 in its last place."""
    picture = torch.full((1, 64, 2), 1e4, dtype=torch.float64)
    picture[0, :, 0] += 1e-3 * torch.arange(64)
    pixel, _ = best_match(picture, picture[0])
    assert pixel[:, 0].tolist() == [column + 0.5 for column in range(64)]
    asked = picture[0].float()
    product = asked.square().sum(1)[None] - 2 * asked @ asked.T
    assert product.argmin(dim=1).tolist() != list(range(64))


def test_sub_pixel_finds_the_vertex_of_a_paraboloid():
    v, u = torch.meshgrid(torch.arange(9) + 0.5, torch.arange(9) + 0.5, indexing="ij")
    picture = torch.stack([u, v], dim=2)  # squared distance from a query is a paraboloid
    wanted = torch.tensor([[4.2, 5.9], [3.5, 2.4]])
    torch.testing.assert_close(best_match(picture, wanted, sub_pixel=True)[0], wanted.double(), atol=1e-5, rtol=0)
    assert best_match(picture, wanted)[0].tolist() == [[4.5, 5.5], [3.5, 2.5]]
    outermost = best_match(picture, torch.tensor([[0.4, 8.9]]), sub_pixel=True)[0]
    assert outermost.tolist() == [[0.5, 8.5]], "at a border there are no two neighbours"
    flat = best_match(torch.zeros(3, 3, 2), torch.zeros(1, 2), sub_pixel=True)[0]
    assert flat.isfinite().all()


def test_heat_is_one_at_the_query_and_falls_by_e_in_a_width():
    picture = torch.zeros(2, 2, 3)
    picture[0, 1, 0] = 0.25
    heat = heat_map(picture, torch.zeros(3))
    torch.testing.assert_close(heat, torch.tensor([[1.0, math.exp(-1)], [1.0, 1.0]]))


def test_what_is_refused():
    picture = random(4, 5, 3)
    with pytest.raises(UserError, match="a descriptor of 16 numbers against a picture whose descriptors have 3"):
        best_match(picture, random(1, 16))
    with pytest.raises(UserError, match="a descriptor of 2 numbers"):
        heat_map(picture, random(2))
    with pytest.raises(UserError, match="the mask keeps no pixel"):
        best_match(picture, random(1, 3), torch.zeros(4, 5, dtype=torch.bool))
    with pytest.raises(UserError, match="a mask of 4x5 pixels for descriptors of 5x4"):
        best_match(picture, random(1, 3), torch.ones(5, 4, dtype=torch.bool))

"""Losses of descriptors: closed forms, gradients, and that free descriptors reach each one's optimum."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayprior.descriptors.losses import (
    Contrastive,
    HeatMap,
    InfoNce,
    Loss,
    Seen,
    Triplet,
    corners,
    heat_map_loss,
    hinge,
    info_nce,
    match_loss,
    non_match_loss,
    pixel_weight,
    triplet_loss,
)
from rayprior.errors import UserError

ONE = torch.ones(1, dtype=torch.float64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at_distances(*distances: float) -> tuple[Tensor, Tensor]:
    """A vector at the origin and one at each distance, in different directions."""
    directions = F.normalize(drawn(len(distances), 3), dim=1)
    return torch.zeros(1, 1, 3, dtype=torch.float64), (directions * torch.tensor(distances)[:, None])[None]


def every(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_hinges_and_their_scaling():
    """Closed forms 7.9: distances .1, .3, .6 at margin .5."""
    hinges = hinge(*at_distances(0.1, 0.3, 0.6), margin=0.5)
    assert torch.allclose(hinges, torch.tensor([[0.16, 0.04, 0.0]], dtype=torch.float64))
    assert float(hinges.sum()) == pytest.approx(0.2)
    assert float(non_match_loss([hinges], [every(1, 3)], hard=True)) == pytest.approx(0.1)
    assert float(non_match_loss([hinges], [every(1, 3)], hard=False)) == pytest.approx(0.0666667, abs=1e-7)


def test_nothing_hard_is_nothing():
    far = hinge(*at_distances(0.6, 2.0), margin=0.5)
    for hard in (True, False):
        assert float(non_match_loss([far], [every(1, 2)], hard=hard)) == 0.0
    none = torch.zeros(1, 0, dtype=torch.float64)
    assert float(non_match_loss([none], [every(1, 0)], hard=False)) == 0.0


def test_object_and_background_share_one_number_of_hard_negatives():
    inside, outside = hinge(*at_distances(0.1, 0.6), margin=0.5), hinge(*at_distances(0.3, 0.9), margin=0.5)
    loss = non_match_loss([inside, outside], [every(1, 2), every(1, 2)])
    assert float(loss) == pytest.approx((0.16 + 0.04) / 2)
    kept = non_match_loss([inside, outside], [every(1, 2), torch.tensor([[False, True]])])
    assert float(kept) == pytest.approx(0.16), "what does not count is in neither sum nor number"


def test_the_number_of_hard_negatives_has_no_gradient():
    others = at_distances(0.1, 0.3, 0.6)[1].requires_grad_()
    non_match_loss([hinge(torch.zeros(1, 1, 3).double(), others, 0.5)], [every(1, 3)]).backward()
    assert others.grad is not None
    # d/dx (M - |x|)^2 / 2 = -(M - |x|), along x
    assert torch.allclose(others.grad.norm(dim=2), torch.tensor([[0.4, 0.2, 0.0]], dtype=torch.float64))


def test_two_equal_vectors_have_a_finite_gradient():
    a = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    hinge(a, torch.zeros(2, 3, dtype=torch.float64), 0.5).sum().backward()
    assert a.grad is not None
    assert bool(a.grad.isfinite().all())


def test_matches_are_squared_and_weighted():
    a, b = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([[1.0, 2, 2], [0, 0, 1]], dtype=torch.float64)
    assert float(match_loss(a, b, torch.ones(2).double())) == 5.0
    assert float(match_loss(a, b, torch.tensor([0.25, 0.75]).double())) == 3.0
    assert float(match_loss(a, b, torch.zeros(2).double())) == 0.0


def test_near_non_matches_count_by_their_distance():
    assert pixel_weight(torch.tensor([0.0, 10, 50, 400])).tolist() == pytest.approx([0.0, 0.2, 1.0, 1.0])


def test_a_triplet_is_one_hinge_and_not_one_a_channel():
    """near^2 = .01, far^2 = .05 + .05: .01 - .1 + .1 = .01. A hinge a channel would say .01 + .05 + .05."""
    a = torch.zeros(1, 3, dtype=torch.float64)
    b, n = torch.tensor([[0.1, 0, 0]]).double(), torch.tensor([[[0, 0.05**0.5, 0.05**0.5]]]).double()
    assert float(triplet_loss(a, b, n, every(1, 1), ONE, 0.1)) == pytest.approx(0.01)
    assert float(triplet_loss(a, b, n, every(1, 1), ONE, 0.05)) == 0.0
    assert float(triplet_loss(a, b, n, ~every(1, 1), ONE, 0.1)) == 0.0


def test_info_nce_of_equal_vectors_is_the_number_of_choices():
    a = torch.zeros(1, 3, dtype=torch.float64)
    assert float(info_nce(a, a, torch.zeros(1, 7, 3).double(), every(1, 7), ONE, 0.1)) == pytest.approx(log(8))
    valid = torch.tensor([[True] * 3 + [False] * 4])
    assert float(info_nce(a, a, torch.zeros(1, 7, 3).double(), valid, ONE, 0.1)) == pytest.approx(log(4))
    one_away = torch.tensor([[[1.0, 0, 0]]]).double()
    assert float(info_nce(a, a, one_away, every(1, 1), ONE, 0.5)) == pytest.approx(log(1 + exp(-2)))


def test_a_heat_map_of_equal_vectors_is_the_number_of_pixels():
    map, at = torch.zeros(3, 4, 5, dtype=torch.float64), torch.tensor([[2.2, 1.7]], dtype=torch.float64)
    assert float(heat_map_loss(torch.zeros(1, 3).double(), map, at, ONE, 0.1)) == pytest.approx(log(20))


def test_the_heat_map_against_a_table():
    source, map = drawn(6, 3), drawn(3, 4, 5, seed=1)
    at = torch.rand(6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * torch.tensor([5, 4])
    weight = torch.rand(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    losses = []
    for query, (u, v) in zip(source, at.tolist()):
        p = (-(query[:, None, None] - map).square().sum(dim=0) / 0.3).flatten().softmax(dim=0).view(4, 5)
        x, y = min(max(u - 0.5, 0), 4), min(max(v - 0.5, 0), 3)
        loss = 0.0
        for j in range(4):
            for i in range(5):
                loss -= max(0, 1 - abs(x - i)) * max(0, 1 - abs(y - j)) * log(float(p[j, i]))
        losses.append(loss)
    expected = float((weight * torch.tensor(losses)).sum() / weight.sum())
    assert float(heat_map_loss(source, map, at, weight, 0.3)) == pytest.approx(expected)


def test_rows_of_one_pixel_are_a_distribution():
    """Linear in the target: weights .6 and .4 are .6 and .4 of the losses."""
    source, map = drawn(1, 3).expand(2, 3), drawn(3, 4, 5, seed=1)
    at = torch.tensor([[1.5, 1.5], [3.5, 2.5]], dtype=torch.float64)
    both = heat_map_loss(source, map, at, torch.tensor([0.6, 0.4]).double(), 0.3)
    single = [heat_map_loss(source[:1], map, place[None], ONE, 0.3) for place in at]
    assert float(both) == pytest.approx(0.6 * float(single[0]) + 0.4 * float(single[1]))


def test_corners_are_bilinear():
    index, share = corners(torch.tensor([[1.0, 0.75], [0.1, 2.9]]).double(), (3, 3))
    assert index[0].tolist() == [0, 1, 3, 4]
    assert share[0].tolist() == pytest.approx([0.375, 0.375, 0.125, 0.125])
    assert share.sum(dim=1).tolist() == [1.0, 1.0]
    assert float(share[1][index[1] == 6].sum()) == 1.0, "beyond the outermost centres the outermost pixel"


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_gradients():
    a, b, n, map = drawn(4, 3), drawn(4, 3, seed=1), drawn(4, 5, 3, seed=2), drawn(3, 4, 5, seed=3)
    weight, valid = torch.rand(4, dtype=torch.float64), torch.rand(4, 5) > 0.3
    at = torch.rand(4, 2, dtype=torch.float64) * 4
    inputs = tuple(x.requires_grad_() for x in (a, b, n, map))

    def every_loss(a: Tensor, b: Tensor, n: Tensor, map: Tensor) -> tuple[Tensor, ...]:
        return (
            match_loss(a, b, weight),
            non_match_loss([hinge(a[:, None], n, 3.0)], [valid]),
            non_match_loss([hinge(a[:, None], n, 3.0)], [valid], hard=False),
            triplet_loss(a, b, n, valid, weight, 0.1),
            info_nce(a, b, n, valid, weight, 0.7),
            heat_map_loss(a, map, at, weight, 0.7),
        )

    assert torch.autograd.gradcheck(every_loss, inputs)


# -- optima ------------------------------------------------------------------------------------------------------------


def seen(source: Tensor, map: Tensor, k: int = 3) -> Seen:
    """Four matches at the centres of a map of 2 x 2 pixels, whose other pixels are the non-matches of each."""
    flat = map.flatten(1).T
    others = torch.stack([flat[[j for j in range(4) if j != i]] for i in range(4)])
    none = torch.zeros(4, 0)
    return Seen(
        source=source,
        target=flat,
        weight=torch.ones(4, dtype=source.dtype),
        masked=others[:, :2],
        masked_valid=every(4, 2),
        masked_off_px=torch.full((4, 2), 100.0).double(),
        background=others[:, 2:],
        background_valid=every(4, 1),
        background_off_px=torch.full((4, 1), 100.0).double(),
        map=map,
        at=torch.tensor([[0.5, 0.5], [1.5, 0.5], [0.5, 1.5], [1.5, 1.5]]).to(none.dtype).double(),
    )


LOSSES: tuple[Loss, ...] = (
    Contrastive(),
    Contrastive(hard=False, near_less=True),
    Triplet(),
    InfoNce(),
    HeatMap(),
)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_free_descriptors_reach_the_optimum(loss: Loss):
    """Every match becomes the nearest of all; what has a smallest value of 0 reaches it."""
    source, map = (0.01 * drawn(4, 3)).requires_grad_(), (0.01 * drawn(3, 2, 2, seed=1)).requires_grad_()
    optimiser = torch.optim.Adam([source, map], lr=0.02)
    total = torch.zeros(())
    for _ in range(400):
        optimiser.zero_grad()
        total = torch.stack(list(loss.of(seen(source, map)).values())).sum()
        total.backward()
        optimiser.step()
    assert float(total.detach()) < 1e-3
    distances = torch.cdist(source.detach(), map.detach().flatten(1).T)
    assert distances.argmin(dim=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_match_without_weight_says_nothing(loss: Loss):
    of = seen(drawn(4, 3), drawn(3, 2, 2, seed=1))
    of.weight[1:] = 0
    before = torch.stack(list(loss.of(of).values()))
    of.source[1:] += 5
    assert torch.allclose(torch.stack(list(loss.of(of).values())), before)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Contrastive(margin=0), "margin"),
        (lambda: Contrastive(background=0), "background"),
        (lambda: Triplet(margin=0), "margin"),
        (lambda: InfoNce(temperature=0), "temperature"),
        (lambda: HeatMap(temperature=0), "temperature"),
    ],
)
def test_values_are_checked(make: Callable[[], Loss], name: str):
    with pytest.raises(UserError, match=f"loss.{name}=0: expected more than 0"):
        make()

"""Surface: closed forms of the spread, gradients, optimum, rays of which nothing is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.priors.surface import Surface, spread
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.synthetic import synthetic_scene

T = torch.linspace(2, 6, 13, dtype=torch.float64)


def rendering(t: Tensor, w: Tensor) -> Rendering:
    return Rendering(torch.zeros(len(w), 3), RayDistribution(t, w), torch.zeros_like(w))


def weights(rays: int, seed: int = 0) -> Tensor:
    return torch.rand(rays, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 12 + 0.01


def distances(*values: float) -> dict[str, Tensor]:
    return {"distance": torch.tensor(values, dtype=torch.float64)}


def test_spread_of_two_places():
    """Closed form: half at 3 and half at 5 -> 1. A quarter each: un-normalised 8.5 - 4 = 4.5, normalised 1."""
    middles = torch.tensor([[2.5, 3.5, 4.5, 5.5]], dtype=torch.float64)  # bins around 3, 4, 5
    lefts = torch.tensor([[3.0, 4.0, 5.0, 6.0]], dtype=torch.float64)  # bins that begin at 3, 4, 5
    half, quarter = (torch.tensor([[w, 0, w]], dtype=torch.float64) for w in (0.5, 0.25))
    assert (
        spread(middles, half).item() == spread(middles, half, "raw").item() == spread(lefts, half, "left").item() == 1
    )
    assert spread(middles, quarter).item() == 1
    assert spread(middles, quarter, "raw").item() == spread(lefts, quarter, "left").item() == 4.5


def test_the_loss():
    t = torch.tensor([[2.5, 3.5, 4.5, 5.5]], dtype=torch.float64)
    quarter = torch.tensor([[0.25, 0, 0.25]], dtype=torch.float64)
    seen, known = rendering(t, quarter), distances(4.5)
    assert Surface().loss(seen, known).item() == pytest.approx(0.5 + 0.1 * 1)
    assert Surface(estimate="raw").loss(seen, known).item() == pytest.approx(2.5 + 0.1 * 4.5)
    assert Surface(variance=0.0).loss(seen, known).item() == pytest.approx(0.5)


@pytest.mark.parametrize("estimate", ["mean", "raw", "left"])
def test_gradients(estimate):
    w, known = weights(3).requires_grad_(), distances(3.1, 5.5, torch.nan)
    t = T.expand(3, -1)
    assert torch.autograd.gradcheck(lambda w: Surface(estimate=estimate).loss(rendering(t, w), known), w)


@pytest.mark.parametrize("estimate", ["mean", "raw", "left"])
def test_empty_rays_and_walls_have_finite_gradients(estimate):
    for opacity in (0.0, 1.0):
        w = torch.zeros(2, 12)
        w[:, 4] = opacity
        w.requires_grad_()
        Surface(estimate=estimate).loss(rendering(T.float().expand(2, -1), w), distances(3, 4)).backward()
        assert w.grad is not None
        assert w.grad.isfinite().all()
        assert float(w.grad.abs().max()) < 1e3


def test_rays_without_a_valid_distance_do_not_count():
    w, t = weights(3).requires_grad_(), T.expand(3, -1)
    none = Surface().loss(rendering(t, w), distances(torch.nan, -1, 6.5))
    none.backward()
    assert none.item() == 0
    assert w.grad is not None
    assert not w.grad.any()
    both = Surface().loss(rendering(t, w), distances(4, torch.nan, 5))
    torch.testing.assert_close(both, Surface().loss(rendering(t[:2], w[[0, 2]]), distances(4, 5)))


def test_the_optimum_is_one_bin_at_the_distance():
    raw = torch.zeros(1, 12, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([raw], lr=0.1)
    middle = float(T[7] + T[8]) / 2
    for _ in range(400):
        adam.zero_grad()
        Surface().loss(rendering(T[None], raw.softmax(dim=1)), distances(middle)).backward()
        adam.step()
    w = raw.detach().softmax(dim=1)
    assert float(w[0, 7]) > 0.95


def test_without_any_depth_it_refuses_to_start():
    scene = synthetic_scene("shapes", size=8, views=2, test_views=1, supersample=1)
    assert Surface(rays=8).query(scene, torch.Generator()) is None
    with pytest.raises(UserError, match="nothing tells where rays end"):
        Surface(rays=8).query(replace(scene, depth=None, points=None), torch.Generator())

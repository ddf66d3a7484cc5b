"""Free space: closed forms, gradients, margins, rays of which nothing is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths import stepfun
from rayprior.priors.free_space import FreeSpace, weight_before
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.synthetic import synthetic_scene

T = torch.linspace(2, 6, 65, dtype=torch.float64)
EXACT = FreeSpace(of="density", margin_std=0.0)  # as the strategies' code has it


def rendering(density: Tensor, coarse: Rendering | None = None) -> Rendering:
    t = T.expand(len(density), -1)
    return Rendering(
        torch.zeros(len(density), 3), RayDistribution(t, stepfun.weights_from_density(t, density)), density, coarse
    )


def distances(*values: float) -> dict[str, Tensor]:
    return {"distance": torch.tensor(values, dtype=torch.float64)}


def test_mean_density_of_a_uniform_fog_is_its_density():
    """Closed form: sigma = 1 everywhere -> exactly 1, for any distance."""
    fog = rendering(torch.ones(3, 64, dtype=torch.float64))
    for known in (distances(2.5, 4, 5.9), distances(3, torch.nan, 7), distances(2.04, 2.04, 2.04)):
        assert EXACT.loss(fog, known).item() == 1


def test_mean_density_is_over_all_samples():
    density = torch.zeros(2, 64, dtype=torch.float64)
    density[0, :16] = 3.0  # from 2 to 3
    assert EXACT.loss(rendering(density), distances(3, 5)).item() == pytest.approx(3 * 16 / (16 + 48))


def test_weight_is_what_ends_before_the_margin():
    density = torch.zeros(1, 64, dtype=torch.float64)
    density[0, :16] = 1.0
    seen = rendering(density)
    passed = 1 - torch.exp(torch.tensor(-1.0, dtype=torch.float64))
    for known, options, share in (
        (distances(4), {}, 1.0),
        (distances(4) | {"distance_std": torch.tensor([0.5]).double()}, {}, 1.0),  # up to 3: just all
        (distances(4), {"margin": 3.0}, 0.0),
        (distances(4), {"std": 2.0}, 0.0),
        (distances(2), {}, 0.0),
    ):
        assert FreeSpace(**options).loss(seen, known).item() == pytest.approx(share * passed.item()), options
    half = FreeSpace(margin_std=0.0).loss(seen, distances(2.5)).item()
    assert half == pytest.approx(seen.distribution.w[0, :8].sum().item())


def test_weight_does_not_depend_on_bins():
    density = torch.rand(1, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = stepfun.weights_from_density(T[None], density)
    edges = torch.cat([T, torch.linspace(2, 6, 50, dtype=torch.float64)]).sort().values[None]
    end = torch.tensor([3.77], dtype=torch.float64)
    torch.testing.assert_close(
        weight_before(edges, stepfun.resample(T[None], w, edges), end), weight_before(T[None], w, end)
    )


def test_the_surface_itself_is_left_alone():
    """Without a known standard deviation the margin is one bin: what ends in the surface's bin costs nothing."""
    for place in range(1, 64):
        w = torch.zeros(1, 64, dtype=torch.float64)
        w[0, place] = 1.0
        seen = Rendering(torch.zeros(1, 3), RayDistribution(T[None], w), w)
        assert FreeSpace().loss(seen, {"distance": stepfun.midpoints(T)[None, place]}).item() == 0


@pytest.mark.parametrize("of", ["weight", "density"])
def test_rays_without_a_valid_distance_do_not_count(of):
    density = torch.rand(3, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    term = FreeSpace(of=of)
    none = term.loss(rendering(density), distances(torch.nan, 0, 8))
    none.backward()
    assert none.item() == 0
    assert density.grad is not None
    assert not density.grad.any()
    both = term.loss(rendering(density), distances(4, torch.nan, 5))
    alone = term.loss(rendering(density[[0, 2]]), distances(4, 5))
    torch.testing.assert_close(both, alone)


@pytest.mark.parametrize("of", ["weight", "density"])
def test_gradients(of):
    density = torch.rand(2, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    known = distances(3.3, 4.71) | {"distance_std": torch.tensor([0.1, 0.2]).double()}
    assert torch.autograd.gradcheck(lambda d: FreeSpace(of=of).loss(rendering(d), known), density)


def test_descent_clears_what_stands_before():
    """And nothing else: what is at the surface and behind it stays."""
    raw = torch.zeros(1, 64, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([raw], lr=0.1)
    for _ in range(300):
        adam.zero_grad()
        FreeSpace().loss(rendering(torch.nn.functional.softplus(raw)), distances(4)).backward()
        adam.step()
    density = torch.nn.functional.softplus(raw.detach())[0]
    assert float(density[:28].max()) < 0.05
    torch.testing.assert_close(density[33:], torch.full_like(density[33:], torch.tensor(2.0).log()), rtol=0, atol=1e-6)


def test_both_levels_are_judged():
    density = torch.rand(2, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    known, alone = distances(4, 5), FreeSpace().loss(rendering(density), distances(4, 5))
    both = FreeSpace(coarse=0.5).loss(rendering(density, rendering(density)), known)
    torch.testing.assert_close(both, 1.5 * alone)


def test_without_any_depth_it_refuses_to_start():
    scene = synthetic_scene("shapes", size=8, views=2, test_views=1, supersample=1)
    assert FreeSpace(rays=8).query(scene, torch.Generator()) is None
    with pytest.raises(UserError, match="nothing tells where rays end"):
        FreeSpace(rays=8).query(replace(scene, depth=None, points=None), torch.Generator())

"""Occlusion: what stands right before the camera is counted, whatever the sampler, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule
from rayprior.maths.space import contract_distance
from rayprior.priors.occlusion import Occlusion, mean_density_before
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering


def rendering(t: Tensor, density: Tensor) -> Rendering:
    return Rendering(torch.zeros(len(t), 3).to(t), RayDistribution.from_density(t, density), density)


def cut(bins: int) -> Tensor:
    """The first unit of a ray, cut at random places and at its tenth."""
    inner = torch.rand(2, bins - 2, generator=torch.Generator().manual_seed(bins), dtype=torch.float64)
    ends = torch.tensor([[0.0, 0.1, 1.0]], dtype=torch.float64).expand(2, -1)
    return torch.cat([inner, ends], dim=1).sort(dim=1).values


@pytest.mark.parametrize("bins", [3, 20])
def test_fog_has_its_own_density_and_what_is_farther_does_not_count(bins):
    t = cut(bins)
    near = t[:, 1:] <= 0.1
    fog, beyond = torch.full_like(t[:, 1:], 3.0), torch.where(near, 0.0, 50.0)
    torch.testing.assert_close(Occlusion().loss(rendering(t, fog), {}), torch.tensor(3.0, dtype=torch.float64))
    assert Occlusion().loss(rendering(t, beyond), {}) == 0
    assert Occlusion(of="weights").loss(rendering(t, beyond), {}) == 0
    mass = Occlusion(of="weights").loss(rendering(t, fog), {})
    torch.testing.assert_close(mass, 1 - torch.exp(torch.tensor(-0.3, dtype=torch.float64)))


def test_a_bin_counts_by_its_length_within_reach():
    t = torch.tensor([[0.0, 0.05, 0.4, 1.0]], dtype=torch.float64)
    density = torch.tensor([[0.0, 4.0, 9.0]], dtype=torch.float64)
    end = torch.tensor([[0.2]], dtype=torch.float64)
    torch.testing.assert_close(mean_density_before(t, density, end), torch.tensor([3.0], dtype=torch.float64))
    torch.testing.assert_close(
        Occlusion(reach=0.2).loss(rendering(t, density), {}), torch.tensor(3.0, dtype=torch.float64)
    )


def test_the_first_samples_as_released():
    g = torch.Generator().manual_seed(0)
    seen = rendering(torch.linspace(2, 6, 33).expand(4, -1), torch.rand(4, 32, generator=g))
    torch.testing.assert_close(Occlusion(samples=10).loss(seen, {}), seen.density[:, :10].mean())
    mass = seen.distribution.w[:, :10].sum(dim=1).mean()
    torch.testing.assert_close(Occlusion(samples=10, of="weights").loss(seen, {}), mass)


def test_reach_of_an_unbounded_ray_is_a_share_of_contracted_distance():
    """Of 0.2 to 100 a tenth is 0.379, not 10.2."""
    t = torch.tensor([[0.2, 0.37, 0.39, 100.0]], dtype=torch.float64)
    assert Occlusion().loss(rendering(t, torch.tensor([[0.0, 0.0, 5.0]], dtype=torch.float64)), {}) == 0
    assert Occlusion().loss(rendering(t, torch.tensor([[0.0, 5.0, 0.0]], dtype=torch.float64)), {}) > 0


def test_contracted_distance():
    t = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0, torch.inf], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.5, 1.0, 1.5, 1.75, 2.0], dtype=torch.float64)
    torch.testing.assert_close(contract_distance(t), expected)
    t = t[:5].requires_grad_()
    contract_distance(t).sum().backward()
    torch.testing.assert_close(t.grad, torch.tensor([1, 1, 1, 1 / 4, 1 / 16], dtype=torch.float64))


@pytest.mark.parametrize("options", [{}, {"of": "weights"}, {"samples": 3}, {"samples": 3, "of": "weights"}])
def test_gradients(options):
    g = torch.Generator().manual_seed(0)
    t = 0.2 + torch.rand(4, 8, generator=g, dtype=torch.float64).cumsum(dim=1)
    density = torch.rand(4, 7, generator=g, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: Occlusion(**options).loss(rendering(t, d), {}), density)


@pytest.mark.parametrize("of", ["density", "weights"])
@pytest.mark.parametrize("value", [0.0, 1e6])
def test_empty_rays_and_walls(of, value):
    density = torch.full((3, 9), value).requires_grad_()
    loss = Occlusion(of=of).loss(rendering(torch.linspace(0.2, 100, 10).expand(3, -1), density), {})
    loss.backward()
    assert loss.isfinite()
    assert density.grad is not None
    assert density.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "said"), [({"reach": 0.0}, "reach=0.0"), ({"reach": 2.0}, "reach=2.0"), ({"samples": 0}, "samples=0")]
)
def test_what_holds_nothing_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        Occlusion(**options)
    Occlusion(reach=Schedule(((0, 0.1), (100, 0.0))))  # type: ignore[arg-type]

"""Information gain: the direction of the divergence, shared bins, and that empty rays and walls do no harm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.priors.information_gain import InformationGain, information_gain
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.synthetic import synthetic_scene

SCENE = synthetic_scene("shapes", size=24, views=5, test_views=1, supersample=1)


def tensor(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def is_close(value: Tensor, expected: float) -> None:
    torch.testing.assert_close(value, torch.full_like(value, expected), rtol=1e-6, atol=1e-8)


def rendering(t: Tensor, w: Tensor, density: Tensor | None = None) -> Rendering:
    return Rendering(torch.zeros(len(t), 3).to(t), RayDistribution(t, w), w if density is None else density)


def of_density(t: Tensor, density: Tensor) -> Rendering:
    return rendering(t, RayDistribution.from_density(t, density).w, density)


# -- closed forms, section 3.5 and 2.6 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "nats"), [("code", 0.5108256), ("paper", 0.3680642)])
@pytest.mark.parametrize("of", ["bins", "opacity"])
def test_the_direction(of, direction, nats):
    """The ray (.9, .1), its neighbour (.5, .5); scale does not matter."""
    ray, neighbour = tensor((0.9, 0.1)), tensor((0.5, 0.5))
    is_close(information_gain(ray, 0.3 * neighbour, direction, 1e-10), nats)
    t = tensor((0.0, 0.5, 1.0)).expand(2, -1)
    w = torch.cat([ray, neighbour])
    density = -torch.log1p(-w) / 0.5  # whose opacities are w
    term = InformationGain(of=of, bins=2, direction=direction, floor=1e-10)
    is_close(term.loss(rendering(t, w, density), {}), nats)


@pytest.mark.parametrize("measure", ["kl", "wasserstein"])
@pytest.mark.parametrize("of", ["bins", "opacity"])
def test_equal_rays_tell_nothing(of, measure):
    g = torch.Generator().manual_seed(0)
    density = torch.rand(3, 6, generator=g, dtype=torch.float64).repeat(2, 1)
    seen = of_density(torch.linspace(2, 6, 7, dtype=torch.float64).expand(6, -1), density)
    is_close(InformationGain(of=of, measure=measure).loss(seen, {}), 0.0)


def test_wasserstein_is_the_way_between_two_ends():
    t = tensor((0.0, 0.1, 0.2, 0.3), (0.0, 0.1, 0.2, 0.3))
    seen = rendering(t, tensor((0.8, 0.0, 0.0), (0.0, 0.0, 0.5)))
    is_close(InformationGain(measure="wasserstein").loss(seen, {}), 0.2)


def test_both_rays_have_the_same_bins():
    """A neighbour that begins later, with its samples elsewhere, but ends where the ray ends."""
    t = tensor((0.0, 0.4, 0.5, 1.0), (0.3, 0.4, 0.45, 0.5))
    seen = rendering(t, tensor((0.0, 0.9, 0.0), (0.0, 0.45, 0.45)))
    is_close(InformationGain(bins=10).loss(seen, {}), 0.0)
    assert InformationGain(of="opacity").loss(seen, {}) > 0.1  # matched by index


# -- gradients ---------------------------------------------------------------------------------------------------------

WAYS = [
    {"of": "bins", "direction": "code"},
    {"of": "bins", "direction": "paper"},
    {"of": "opacity", "direction": "code"},
    {"measure": "wasserstein"},
]


@pytest.mark.parametrize("options", WAYS)
def test_gradients(options):
    """Against finite differences, and into both rays; one pair has an empty ray and no gradient."""
    g = torch.Generator().manual_seed(0)
    t = 0.2 + torch.rand(6, 8, generator=g, dtype=torch.float64).cumsum(dim=1)
    density = torch.rand(6, 7, generator=g, dtype=torch.float64) + 0.1
    density[1] *= 1e-3
    density.requires_grad_()
    term = InformationGain(**options, bins=11)
    assert torch.autograd.gradcheck(lambda d: term.loss(of_density(t, d), {}), density)
    term.loss(of_density(t, density), {}).backward()
    assert density.grad is not None
    assert density.grad.any(dim=1).tolist() == [True, False, True, True, False, True]


@pytest.mark.parametrize("floor", [1e-5, 1e-10])
@pytest.mark.parametrize("options", WAYS)
def test_empty_rays_and_walls(options, floor):
    """Finite in value and gradient, in float32 too, whatever is beside whatever."""
    kinds = torch.zeros(4, 9)
    kinds[1, 4] = 1e6
    kinds[2] = 1e6
    kinds[3, 3:] = 20
    density = torch.cat([kinds.repeat_interleave(4, dim=0), kinds.repeat(4, 1)]).requires_grad_()
    seen = of_density(torch.linspace(0.2, 100, 10).expand(32, -1), density)
    loss = InformationGain(**options, floor=floor, min_opacity=0.0).loss(seen, {})
    loss.backward()
    assert loss.isfinite()
    assert density.grad is not None
    assert density.grad.isfinite().all()


@pytest.mark.parametrize("options", WAYS[:2])
def test_descent_makes_neighbours_agree(options):
    raw = torch.randn(6, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
    t, term = torch.linspace(2, 6, 13).expand(6, -1), InformationGain(**options)
    adam = torch.optim.Adam([raw], lr=0.1)
    for _ in range(300):
        adam.zero_grad()
        term.loss(rendering(t, raw.softmax(dim=1)), {}).backward()
        adam.step()
    w = raw.softmax(dim=1).detach()
    torch.testing.assert_close(w[:3], w[3:], rtol=0, atol=0.01)


# -- its rays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("near", ["orbit", "pixel"])
def test_neighbours_are_the_second_half(near):
    query = InformationGain(rays=41, near=near).query(SCENE, torch.Generator().manual_seed(3))
    assert len(query) == 40
    assert (query.rays.camera == -1).all()
    first, second = query.rays[:20], query.rays[20:]
    torch.testing.assert_close(second.origins.norm(dim=1), first.origins.norm(dim=1))
    assert (first.directions * second.directions).sum(dim=1).min() > 0.98
    assert not torch.equal(first.directions, second.directions)


def test_half_of_the_rays_may_be_photographed():
    query = InformationGain(rays=40, on="both").query(SCENE, torch.Generator().manual_seed(3))
    assert ((query.rays.camera >= 0) == (torch.arange(40) < 10)).all()
    assert not query.known


@pytest.mark.parametrize(
    ("options", "said"), [({"bins": 1}, "bins=1"), ({"rays": 1}, "rays=1"), ({"pixels": 0}, "pixels=0")]
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        InformationGain(**options)

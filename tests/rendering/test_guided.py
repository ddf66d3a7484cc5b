"""Guided samples: a share of a ray's samples around the distance that is known of it, for every sampler."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule
from rayprior.maths.space import Box
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.samplers import Guide, Uniform, even_edges, guided
from rayprior.scenes.rays import Rays

FREE, BOX, NDC = Space("free"), Space("box", Box((-3, -3, 0), (3, 3, 7))), Space("ndc", ndc=(2.0, 2.5, 1.0))
LEFT, MIDDLE = Compositing("left"), Compositing()
MLP = Mlp(depth=2, width=8, skip=0, octaves=2)
STILL = Guide(0.75, jitter=False)
SAMPLERS = {
    "uniform": Uniform(64),
    "inverse": Uniform(64, "inverse"),
    "coarse": CoarseField(8, 64),
    "density-grid": DensityGrid(resolution=8, bins=32, samples=64, test_samples=64),
}
samplers = pytest.mark.parametrize("config", SAMPLERS.values(), ids=SAMPLERS)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def rays_to(*guides: tuple[float, float]) -> Rays:
    """Rays from the origin along z, from 2 to 6, each with what is known of it."""
    forward = torch.tensor([[0.0, 0, 1]]).expand(len(guides), 3)
    return replace(Rays.through(torch.zeros(len(guides), 3), forward, 2.0, 6.0), guide=torch.tensor(guides))


def edges(config, guide: Guide, rays: Rays, how=MIDDLE, space=BOX) -> Tensor:
    """As in training."""
    torch.manual_seed(0)
    sampler = replace(config, guide=guide).build(MLP, space, how)
    return sampler.propose(rays, MLP.build(space), seeded())[0].detach()


def in_tests(config, guide: Guide, rays: Rays) -> Tensor:
    torch.manual_seed(0)
    sampler = replace(config, guide=guide).build(MLP, BOX, MIDDLE)
    return sampler.propose(rays, MLP.build(BOX), None)[0].detach()


def within(t: Tensor, low: float, high: float) -> int:
    return int(((t >= low) & (t <= high)).sum())


def test_the_window_of_the_paper():
    """Closed forms, 4.5: D* = 4, window .15: 48 samples in [3.85, 4.15] and 16 evenly over [2, 6], of which 2 fall
    inside: 50 of 64. A ray without depth has 64 over [2, 6]."""
    rays = rays_to((4.0, 0.0), (torch.nan, torch.nan))

    def still(bins: int | Tensor) -> Tensor:
        return even_edges(rays, 64, "distance", FREE, LEFT, None, bins)

    t = guided(rays, STILL, 64, FREE, seeded(), still)[:, :-1]  # evaluated at the left, the samples are these
    assert t.shape == (2, 64)
    assert within(t[0], 3.85, 4.15) == 50
    outside = t[0][(t[0] < 3.85) | (t[0] > 4.15)]
    even = torch.linspace(2, 6, 16)
    torch.testing.assert_close(outside, even[(even < 3.85) | (even > 4.15)])
    torch.testing.assert_close(t[1], torch.linspace(2, 6, 64))


def test_the_window_is_even():
    """Unjittered, in the middles of its strata; jittered, one in each."""
    rays = rays_to((4.0, 0.0))
    strata = torch.linspace(3.85, 4.15, 49)
    everything = Guide(1.0, jitter=False)  # but for one bin, that reaches from near to far
    t = edges(Uniform(49), everything, rays, space=FREE)
    torch.testing.assert_close(t[0, 1:-1], 0.5 * (strata[1:] + strata[:-1]))
    assert t[0, [0, -1]].tolist() == [2, 6]
    t = edges(Uniform(49), Guide(1.0), rays, space=FREE)
    assert ((t[0, 1:-1] >= strata[:-1] - 1e-6) & (t[0, 1:-1] <= strata[1:] + 1e-6)).all()


@pytest.mark.parametrize(("mean", "low", "high"), [(2.05, 2.0, 2.2), (5.9, 5.75, 6.0)])
def test_the_window_is_clipped_to_the_ray(mean, low, high):
    t = edges(Uniform(49), Guide(1.0, jitter=False), rays_to((mean, 0.0)), space=FREE)[0, 1:-1]
    strata = torch.linspace(low, high, 49)
    torch.testing.assert_close(t, 0.5 * (strata[1:] + strata[:-1]))


def test_deviations_widen_the_window():
    rays = rays_to((4.0, 0.1), (4.0, 0.0), (4.0, torch.nan))
    t = edges(Uniform(49), Guide(1.0, window=0.1, window_std=2.0), rays, space=FREE)[:, 1:-1]
    for ray, half in zip(t, (0.3, 0.1, 0.1)):
        assert ((ray - 4).abs() <= half + 1e-6).all()
        assert (ray - 4).abs().max() > 0.9 * half


@samplers
def test_so_many_samples_stand_in_the_window(config):
    """The others are where that many samples would be alone; the coarse level stays even."""
    rays = rays_to((4.0, 0.0), (3.0, 0.0))
    t, own = edges(config, STILL, rays), edges(config, Guide(), rays)
    assert t.shape == own.shape
    for ray, distance in zip(t, (4.0, 3.0)):
        inside = within(ray, distance - 0.15, distance + 0.15)
        assert 48 <= inside <= 48 + (16 + 8) * 0.2
    assert (t.diff(dim=1) >= 0).all()
    assert torch.equal(t[:, -1], rays.far)
    assert torch.equal(t[:, 0], rays.near)


@samplers
def test_the_other_samples_are_evenly_many(config):
    """What stands outside of the window is spread like the samples of an unguided ray, four times as thin."""
    rays = rays_to(*[(4.0, 0.0)] * 200)
    t, own = edges(config, Guide(0.75), rays), edges(config, Guide(), rays)
    kept = 8 if isinstance(config, CoarseField) else 0
    for low, high in ((2.01, 2.9), (4.3, 5.2)):
        share = within(t, low, high) / 200, within(own, low, high) / 200
        even = within(torch.linspace(2, 6, kept + 1), low, high) if kept else 0
        assert share[0] - even == pytest.approx((share[1] - even) / 4, rel=0.15, abs=0.5)


@samplers
@pytest.mark.parametrize("guide", [(torch.nan, torch.nan), (2.0, 0.1), (6.0, 0.1), (7.0, 0.1), (1.0, 0.1), (-1.0, 0.0)])
def test_without_a_distance_inside_the_ray_all_samples_are_as_before(config, guide):
    """Closed forms, 4.5: 64 over [2, 6]. And what other rays know changes nothing."""
    rays = rays_to(guide, (4.0, 0.0), guide)
    t, own = edges(config, Guide(0.75), rays), edges(config, Guide(), rays)
    torch.testing.assert_close(t[[0, 2]], own[[0, 2]], rtol=1e-5, atol=1e-5)
    assert not torch.equal(t[1], own[1])


@samplers
def test_tests_are_never_guided(config):
    rays = rays_to((4.0, 0.0))
    assert torch.equal(in_tests(config, Guide(0.75), rays), in_tests(config, Guide(), rays))
    scheduled = Guide(Schedule(((0, 0.5), (9, 0.0))))
    assert torch.equal(in_tests(config, scheduled, rays), in_tests(config, Guide(), rays))


@pytest.mark.parametrize("how", [LEFT, MIDDLE])
@pytest.mark.parametrize("config", [Uniform(12), Uniform(12, "inverse"), CoarseField(6, 12)])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_edges_ascend_in_ndc_too(config, how, share):
    g = seeded()
    directions = torch.cat([0.2 * torch.randn(9, 2, generator=g), torch.ones(9, 1)], dim=1)
    known = torch.stack([2 + 3 * torch.rand(9, generator=g), torch.zeros(9)], dim=1)
    rays = replace(Rays.through(0.1 * torch.randn(9, 3, generator=g), directions, 1.0, 9.0), guide=known)
    t, own = edges(config, Guide(share), rays, how, NDC), edges(config, Guide(), rays, how, NDC)
    assert t.shape == own.shape
    assert t.isfinite().all()
    assert (t.diff(dim=1) >= 0).all()
    torch.testing.assert_close(t[:, -1], own[:, -1])
    wanted = min(round(share * 12), 11)
    assert (((t - known[:, :1]).abs() <= 0.1501).sum(dim=1) >= wanted).all()


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (Guide(50), "sampler.guide.share is 50; expected a share of the samples, from 0 to 1"),
        (Guide(-0.1), "sampler.guide.share is -0.1; expected a share of the samples, from 0 to 1"),
        (Guide(0.5, -1), "sampler.guide has window=-1 and window_std=0; expected no negative width"),
        (Guide(0.5, 1, -2), "sampler.guide has window=1 and window_std=-2; expected no negative width"),
    ],
)
def test_what_is_no_guide_is_refused(guide, message):
    with pytest.raises(UserError) as caught:
        edges(Uniform(8), guide, rays_to((4.0, 0.0)))
    assert str(caught.value) == message

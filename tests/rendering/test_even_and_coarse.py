"""Even samples, and samples that follow a coarse field: where they stand, for every space and way of evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rayprior.fields.field import Field
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.rendering.coarse import CoarseField, CoarseFieldSampler
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.model import Model
from rayprior.rendering.samplers import Uniform
from rayprior.scenes.rays import Rays

FREE, NDC = Space("free"), Space("ndc", ndc=(2.0, 2.5, 1.0))
LEFT, MIDDLE = Compositing("left", opaque_tail=True), Compositing()
SMALL = Mlp(depth=3, width=16, skip=1, density="relu", noise_std=0.5)


class Wall(Field):
    """Density from z = 4 on."""

    def __init__(self, density: float) -> None:
        super().__init__()
        self.value = density

    def density(self, x, generator=None):
        return torch.where(x[..., 2] > 4, self.value, 0.0).to(x.dtype), x

    def colour(self, feature, directions, appearance=None):
        return torch.sigmoid(feature)

    def tables(self):
        return []


def some_rays(count: int = 7, dtype=torch.float64) -> Rays:
    g = torch.Generator().manual_seed(0)
    origins = 0.1 * torch.randn(count, 3, generator=g, dtype=dtype)
    aside = 0.3 * torch.randn(count, 3, generator=g, dtype=dtype)
    return Rays.through(origins, aside + torch.tensor([0.0, 0, 1], dtype=dtype), 2.0, 6.0)


def edges(config: Uniform | CoarseField, space: Space, how: Compositing, generator=None, rays: Rays | None = None):
    sampler = config.build(SMALL, space, how)
    rays = some_rays() if rays is None else rays
    return sampler.to(rays.origins.dtype).propose(rays, Wall(1), generator)[0].detach()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_even_in_distance_and_in_inverse_distance():
    t = edges(Uniform(2), FREE, MIDDLE)
    torch.testing.assert_close(t[0], torch.tensor([2.0, 4, 6], dtype=torch.float64))
    t = edges(Uniform(2, "inverse"), FREE, MIDDLE)
    torch.testing.assert_close(t[0], torch.tensor([2.0, 3, 6], dtype=torch.float64))


def test_left_points_are_those_of_the_paper():
    """`samples` points from near to far inclusive, then far: the last bin has no length."""
    t = edges(Uniform(5), FREE, LEFT)
    torch.testing.assert_close(t[0], torch.tensor([2.0, 3, 4, 5, 6, 6], dtype=torch.float64))


@pytest.mark.parametrize("how", [LEFT, MIDDLE])
def test_jitter_fills_each_stratum_evenly(how):
    rays = some_rays(4000)
    still, moved = edges(Uniform(8), FREE, how, rays=rays), edges(Uniform(8), FREE, how, seeded(), rays)
    assert torch.equal(still, edges(Uniform(8), FREE, how, rays=rays))
    assert torch.equal(moved[:, -1], rays.far)
    step = still[0, 2] - still[0, 1]
    offset = (moved - still)[:, 2:6] / step
    assert offset.min() >= -0.5
    assert offset.max() <= 0.5
    assert offset.mean().abs() < 0.01
    assert offset.std().item() == pytest.approx(12**-0.5, rel=0.03)
    if how is MIDDLE:
        assert torch.equal(moved[:, 0], rays.near)


@pytest.mark.parametrize(("dtype", "training"), [(torch.float32, True), (torch.float64, False)])
@pytest.mark.parametrize("space", [FREE, NDC, Space("contraction")])
@pytest.mark.parametrize("how", [LEFT, MIDDLE])
@pytest.mark.parametrize(
    "config", [Uniform(12), Uniform(12, "inverse"), CoarseField(6, 6), CoarseField(6, 6, "inverse")]
)
def test_invariants(config, how, space, training, dtype):
    """Edges ascend within the ray and are detached; weights are a sub-probability; every parameter learns."""
    torch.manual_seed(0)
    field = SMALL.build(space)
    field.density_head.bias.data += 1
    sampler = config.build(SMALL, space, how)
    model = Model(field, sampler, space, how).to(dtype)
    rays = some_rays(dtype=dtype)
    seen = model.render(rays, seeded() if training else None)
    t, w = seen.distribution.t, seen.distribution.w
    assert t.shape == (7, 13)
    assert w.shape == seen.density.shape == (7, 12)
    assert t.dtype == seen.rgb.dtype == dtype
    assert not t.requires_grad
    assert (t.diff(dim=1) >= 0).all()
    if space is not NDC:
        assert torch.equal(t[:, -1], rays.far)
        assert (t[:, 0] >= rays.near).all()
    assert (w >= 0).all()
    assert (w.sum(dim=1) <= 1 + 1e-6).all()
    loss = seen.rgb.sum() + (0 if seen.coarse is None else seen.coarse.rgb.sum())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("how", [LEFT, MIDDLE])
def test_the_union_holds_the_even_edges(how):
    config = CoarseField(8, 16)
    union, even = edges(config, FREE, how), edges(Uniform(8), FREE, how)
    assert union.shape == (7, 25)
    for r in range(7):
        assert torch.isin(even[r], union[r]).all()


@pytest.mark.parametrize("how", [LEFT, MIDDLE])
@pytest.mark.parametrize("generator", [None, 0])
def test_fine_samples_crowd_where_the_coarse_field_is(how, generator):
    rays = Rays.through(torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]]), 2.0, 6.0)
    sampler = CoarseFieldSampler(CoarseField(64, 128), Wall(1000.0), FREE, how)
    t, coarse = sampler.propose(rays, Wall(1), None if generator is None else seeded())
    assert coarse is not None
    assert coarse.opacity.item() == pytest.approx(1)
    near_wall = (t > 3.9) & (t < 4.15)
    assert near_wall.sum() >= 125


@pytest.mark.parametrize("how", [LEFT, MIDDLE])
def test_on_an_empty_ray_fine_samples_are_even(how):
    rays = Rays.through(torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]]), 2.0, 6.0)
    t, _ = CoarseFieldSampler(CoarseField(8, 80), Wall(0.0), FREE, how).propose(rays, Wall(1), None)
    gaps = t.diff(dim=1)
    assert gaps.max().item() <= 4 / 80 * 1.2 if how is MIDDLE else gaps[0, 4:-4].max().item() <= 4 / 80 * 1.2
    assert t.isfinite().all()


def test_a_point_seen_at_the_left_stands_for_its_surroundings():
    """Its mass lies between the midpoints to the neighbours; the first and the last point have none."""
    sampler = CoarseFieldSampler(CoarseField(5, 1000), Wall(1), FREE, LEFT)
    s = torch.tensor([[2.0, 3, 4, 5, 6, 6]])
    x: Tensor = sampler._finer(s, torch.tensor([[0.9, 0, 0.1, 0, 0.9]]), seeded())
    assert x.min() >= 2.5
    assert x.max() <= 5.5
    assert ((x >= 3.5) & (x <= 4.5)).float().mean() > 0.998


def test_the_coarse_field_is_another_field_and_is_returned():
    torch.manual_seed(0)
    sampler = CoarseField(6, 6).build(SMALL, FREE, LEFT)
    model = Model(SMALL.build(FREE), sampler, FREE, LEFT)
    assert len({id(p) for p in model.parameters()}) == 2 * len(list(model.field.parameters()))
    seen = model.render(some_rays(dtype=torch.float32))
    assert seen.coarse is not None
    assert seen.coarse.distribution.w.shape == (7, 6)
    (gradient,) = torch.autograd.grad(seen.rgb.sum(), next(sampler.parameters()), allow_unused=True)
    assert gradient is None  # samples are detached: the fine colour teaches the coarse field nothing

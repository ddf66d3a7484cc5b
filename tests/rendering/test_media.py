"""Two media in one bin: light is conserved, and what stands in one photograph alone is in no other picture."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch

from rayprior.fields.codes import Codes
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.maths.space import Box
from rayprior.rendering.compositing import Compositing, shares
from rayprior.rendering.model import Model
from rayprior.rendering.samplers import Uniform
from rayprior.scenes.rays import Rays

BOX = Space("box", Box((-2.0, -2.0, 1.0), (2.0, 2.0, 6.0)))
FIELDS = {
    "mlp": Mlp(depth=2, width=16, skip=1, octaves=2, view_octaves=1),
    "grid": Grid(levels=2, coarsest=4, finest=8, log2_entries=8, head="feature", hidden=8),
}
CODES = Codes(transient=4, layers=1, hidden=8, photographs=2)


def model_of(field) -> Model:
    torch.manual_seed(0)
    model = Model.build(field, Uniform(8), BOX, Compositing(), CODES)
    assert model.codes is not None
    model.codes.learns_from((0,))
    return model


def rays_of(cameras: list[int]) -> Rays:
    directions = torch.tensor([[0.0, 0.1, 1.0], [0.1, 0.0, 1.0], [0.1, 0.1, 1.0]])[: len(cameras)]
    rays = Rays.through(torch.zeros(len(cameras), 3), directions, 1.2, 5.5, background=(0.3, 0.5, 0.7))
    return replace(rays, camera=torch.tensor(cameras))


def test_the_two_ways_to_share_a_bin():
    """tau = ln 2 for both: the joint alpha is .75, split .375 + .375, by the paper's alphas .5 + .5 (forms 1.11)."""
    density, length = torch.full((1, 1), log(2)), torch.ones(1, 1)
    for media, each in (("split", 0.375), ("alphas", 0.5)):
        first, second = shares(density, density, length, media)
        assert 0.75 * float(first) == pytest.approx(each)
        assert 0.75 * float(second) == pytest.approx(each)
    for media in ("split", "alphas"):  # no density at all: no share of nothing, and no nan
        first, second = shares(0 * density, 0 * density, length, media)
        assert torch.isfinite(first).all()
        assert torch.isfinite(second).all()


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_the_rendering_is_of_both_media(field):
    """Against a loop over bins: joint weights split by density."""
    model, rays = model_of(field), rays_of([0, 0, 0])
    with torch.no_grad():
        seen = model.render(rays, transient=True)
        assert seen.transient is not None
        assert seen.std is not None
        assert model.medium is not None
        t = seen.distribution.t
        density, feature = model.field.density(rays.at((t[:, 1:] + t[:, :-1]) / 2))
        assert model.codes is not None
        second, colour, claimed = model.medium(feature, model.codes(rays.camera))
        through, value, front, std = torch.ones(3), torch.zeros(3, feature.shape[2]), torch.zeros(3, 3), torch.zeros(3)
        solid = torch.zeros(3)
        for b in range(t.shape[1] - 1):
            both = density[:, b] + second[:, b]
            w = through * (1 - torch.exp(-both * (t[:, b + 1] - t[:, b])))
            first = w * density[:, b] / both
            value += first[:, None] * (feature[:, b] if model.field.deferred else torch.zeros_like(feature[:, b]))
            if not model.field.deferred:
                front += first[:, None] * model.field.colour(feature[:, b], rays.directions)
            front += (w - first)[:, None] * colour[:, b]
            std += (w - first) * claimed[:, b]
            solid, through = solid + first, through - w
        if model.field.deferred:
            front += model.field.colour(value / (solid[:, None] + 1e-3), rays.directions) * solid[:, None]
        rgb = front + through[:, None] * rays.background
    torch.testing.assert_close(seen.rgb, rgb, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.std, std + CODES.least_std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.opacity, 1 - through, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.transient_opacity, 1 - through - solid, rtol=1e-3, atol=1e-5)


def test_the_second_medium_is_in_its_photograph_and_in_training_alone():
    model = model_of(FIELDS["mlp"])
    with torch.no_grad():
        seen = model.render(rays_of([0, 1, -1]), transient=True)
        assert seen.transient_opacity[0] > 0
        assert seen.transient_opacity[1:].tolist() == [0, 0]
        still = model.render(rays_of([0, 1, -1]))
        assert still.transient is None
        assert still.std is None
        assert still.transient_opacity.tolist() == [0, 0, 0]
        drawn = model.render(rays_of([0, 1, -1]), torch.Generator().manual_seed(0))
        assert drawn.transient is not None


def test_it_can_be_sliced_and_detached():
    seen = model_of(FIELDS["mlp"]).render(rays_of([0, 1, -1]), torch.Generator().manual_seed(0))
    part = seen[1:].detach()
    assert part.transient is not None
    assert part.std is not None
    assert part.code is not None
    assert len(part.transient) == len(part.std) == len(part.code.own) == 2
    assert not part.std.requires_grad
    assert not part.code.transient.requires_grad

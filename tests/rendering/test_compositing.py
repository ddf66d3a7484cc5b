"""Compositing: closed forms of what a ray sees, gradients, backgrounds, the faithful options."""

from __future__ import annotations

from math import cos, exp, log, sqrt

import pytest
import torch
from torch import Tensor

from rayprior.fields.field import Field
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.kernels.composite import composite, composite_reference
from rayprior.rendering.compositing import FAINT, Compositing, render_level
from rayprior.scenes.rays import Rays

BOTH = pytest.mark.parametrize(
    ("kernel", "dtype", "tolerance"), [(composite_reference, torch.float64, 1e-9), (composite, torch.float32, 1e-5)]
)


def row(values, dtype=torch.float64) -> Tensor:
    return torch.tensor([values], dtype=dtype)


def random_rays(dtype, opaque: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """(density, lengths, values) of 6 rays in 9 bins; some bins are empty, have no length, or are a wall."""
    g = torch.Generator().manual_seed(3)
    density = torch.rand(6, 9, generator=g, dtype=torch.float64) * 3
    density[torch.rand(6, 9, generator=g) < 0.2] = 0
    lengths = torch.rand(6, 9, generator=g, dtype=torch.float64)
    lengths[torch.rand(6, 9, generator=g) < 0.2] = 0
    if opaque:
        density[:, 4], lengths[:, 4] = 1e6, 1
    return density.to(dtype), lengths.to(dtype), torch.rand(6, 9, 3, generator=g, dtype=torch.float64).to(dtype)


@BOTH
@pytest.mark.parametrize("opaque", [False, True])
def test_against_a_loop(kernel, dtype, tolerance, opaque):
    density, lengths, values = random_rays(dtype, opaque)
    weights, opacity, seen = kernel(density, lengths, values)
    for r in range(6):
        through, colour = 1.0, torch.zeros(3, dtype=torch.float64)
        for i in range(9):
            alpha = 1 - exp(-float(density[r, i]) * float(lengths[r, i]))
            assert weights[r, i].item() == pytest.approx(through * alpha, abs=tolerance)
            colour += through * alpha * values[r, i].double()
            through *= 1 - alpha
        assert opacity[r].item() == pytest.approx(1 - through, abs=tolerance)
        torch.testing.assert_close(seen[r].double(), colour, atol=tolerance, rtol=0)


@BOTH
def test_halving_bins(kernel, dtype, tolerance):
    weights, opacity, seen = kernel(row([log(2)] * 3, dtype), row([1] * 3, dtype), row([[0.5], [1.5], [2.5]], dtype))
    torch.testing.assert_close(weights, row([1 / 2, 1 / 4, 1 / 8], dtype), atol=tolerance, rtol=0)
    assert opacity.item() == pytest.approx(7 / 8, abs=tolerance)
    assert seen.item() == pytest.approx(0.9375, abs=tolerance)


@BOTH
def test_gradients_in_closed_form(kernel, dtype, tolerance):
    density, lengths, values = (x[:1] for x in random_rays(dtype))
    density = density.requires_grad_()
    weights = composite_reference(density, lengths, values)[0][0].detach().double()
    opacity, delta = weights.sum(), lengths[0].double()
    (found,) = torch.autograd.grad(kernel(density, lengths, values)[1].sum(), density)
    torch.testing.assert_close(found[0].double(), delta * (1 - opacity), atol=tolerance, rtol=0)
    ahead = torch.cat([torch.zeros(1), weights.cumsum(dim=0)[:-1]])
    for j in range(9):
        (found,) = torch.autograd.grad(kernel(density, lengths, values)[0][0, j], density)
        own = delta[j] * (1 - ahead[j] - weights[j])  # Delta T (1 - alpha)
        expected = torch.where(torch.arange(9) < j, -delta * weights[j], torch.zeros(9))
        expected[j] = own
        torch.testing.assert_close(found[0].double(), expected, atol=tolerance, rtol=0)
    values = values.requires_grad_()
    (found,) = torch.autograd.grad(kernel(density, lengths, values)[2][0, 1], values)
    torch.testing.assert_close(found[0, :, 1].double(), weights, atol=tolerance, rtol=0)
    assert not found[0, :, [0, 2]].any()


@BOTH
def test_empty_and_opaque_rays_are_finite(kernel, dtype, tolerance):
    density = torch.tensor([[0, 0, 0], [0.5, 1e6, 2]], dtype=dtype, requires_grad=True)
    weights, opacity, _seen = kernel(density, torch.ones(2, 3, dtype=dtype), torch.rand(2, 3, 3, dtype=dtype))
    torch.testing.assert_close(weights[0], torch.zeros(3, dtype=dtype), rtol=0, atol=0)
    through = exp(-0.5)
    expected = torch.tensor([1 - through, through, 0], dtype=dtype)
    torch.testing.assert_close(weights[1], expected, atol=tolerance, rtol=0)
    assert opacity[0].item() == 0
    assert opacity[1].item() == pytest.approx(1, abs=tolerance)
    (weights * torch.rand(2, 3, dtype=dtype)).sum().backward()
    assert density.grad is not None
    assert density.grad.isfinite().all()


@BOTH
def test_opaque_tail(kernel, dtype, tolerance):
    """With a ReLU the last alpha is 0 or 1, even where the last bin has no length."""
    density, lengths = row([0.5, 0.0], dtype), row([1.0, 0.0], dtype)
    values = row([[0.0], [1.0]], dtype)
    assert kernel(density, lengths, values, True)[1].item() == pytest.approx(1 - exp(-0.5), abs=tolerance)
    density[0, 1] = 1e-3
    weights, opacity, _ = kernel(density.requires_grad_(), lengths, values, True)
    torch.testing.assert_close(weights, row([1 - exp(-0.5), exp(-0.5)], dtype), atol=tolerance, rtol=0)
    assert opacity.item() == pytest.approx(1, abs=tolerance)
    (found,) = torch.autograd.grad(weights[0, 1], density)
    torch.testing.assert_close(found, row([-exp(-0.5), 0], dtype), atol=tolerance, rtol=0)


# -- whole rays -------------------------------------------------------------------------------------------------------


class Ball(Field):
    """Constant density in a ball around the origin; red."""

    def __init__(self, density: float = 4.0, radius: float = 0.5) -> None:
        super().__init__()
        self.inside, self.radius = density, radius

    def density(self, x, generator=None):
        return torch.where(x.norm(dim=-1) < self.radius, self.inside, 0.0).to(x.dtype), x

    def colour(self, feature, directions, appearance=None):
        return torch.tensor([1.0, 0, 0], dtype=feature.dtype).expand(feature.shape)

    def tables(self):
        return []


def look_at_ball(impact: float, background: float = 0.0, field: Field | None = None, how: Compositing | None = None):
    """One ray past the ball's centre at distance `impact`; bins that the surface does not cut."""
    chord = 2 * sqrt(max(0.25 - impact**2, 0.0)) or 0.5
    t = torch.tensor([0, 3 - chord / 2, 3 - chord / 5, 3, 3 + chord / 2, 6], dtype=torch.float64)[None]
    origin = row([impact, 0, -3])
    rays = Rays.through(origin, row([0, 0, 1]), 0.0, 6.0, background=(background,) * 3)
    return render_level(field or Ball(), rays, t, Space("free"), how or Compositing())


def test_ball_seen_through_its_centre_and_off_it():
    assert look_at_ball(0.0).opacity.item() == pytest.approx(0.9816844, rel=1e-6)
    assert look_at_ball(0.3).opacity.item() == pytest.approx(0.9592378, rel=1e-6)
    seen = look_at_ball(0.3)
    torch.testing.assert_close(seen.rgb, row([seen.opacity.item(), 0, 0]))
    assert seen.optical_depth.sum().item() == pytest.approx(4 * 0.8)


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2])
def test_slab_under_an_angle(angle):
    length = torch.tensor([[0.7 / cos(angle)]], dtype=torch.float64)
    assert composite(row([2.0]), length, row([[1.0]]))[1].item() == pytest.approx(1 - exp(-2 * 0.7 / cos(angle)))


def test_background():
    """Where nothing is, the background; it shines through by 1 - opacity."""
    torch.testing.assert_close(look_at_ball(0.6, background=1.0).rgb, row([1, 1, 1]))
    torch.testing.assert_close(look_at_ball(0.6, background=0.25).rgb, row([0.25] * 3))
    seen = look_at_ball(0.3, background=1.0)
    left = 1 - seen.opacity.item()
    torch.testing.assert_close(seen.rgb, row([1, left, left]))


def test_left_points_see_the_left_end():
    """The surface stands exactly at an edge: to the left of it a sample is outside, in the middle of the bin inside."""
    step = Compositing("left")
    field = Ball(radius=0.5 + 1e-9)
    assert look_at_ball(0.0, field=field, how=step).opacity.item() == pytest.approx(1 - exp(-4 * (1 + 2.5)))


def test_softplus_with_an_opaque_tail_hides_every_background():
    """Why the two must not be combined: every ray is opaque, wherever it looks."""
    torch.manual_seed(0)
    how = Compositing("left", opaque_tail=True)
    softplus = Mlp(depth=2, width=8, density="softplus").build(Space("free")).double()
    assert look_at_ball(0.6, background=1.0, field=softplus, how=how).opacity.item() == pytest.approx(1, abs=1e-12)
    assert look_at_ball(0.6, background=1.0, how=how).opacity.item() == 0


def test_deferred_colour_is_of_the_mean_feature():
    class Deferred(Ball):
        deferred = True

        def density(self, x, generator=None):
            return super().density(x)[0], torch.ones_like(x) * 0.5

        def colour(self, feature, directions, appearance=None):
            assert feature.shape == directions.shape
            return feature

    seen = look_at_ball(0.3, background=0.0, field=Deferred())
    opacity = seen.opacity[:, None].expand(1, 3)
    torch.testing.assert_close(seen.rgb, 0.5 * opacity * opacity / (opacity + FAINT))

"""Field spaces: coordinates and lengths, and NDC in closed form."""

from __future__ import annotations

import pytest
import torch

from rayprior.fields.space import NDC_REACH, Space
from rayprior.maths.space import Box

WIDTH, HEIGHT, FX, FY, PLANE = 504, 378, 407.0, 411.0, 1.0
NDC = Space("ndc", ndc=(2 * FX / WIDTH, 2 * FY / HEIGHT, PLANE))


def rays_on_the_near_plane(count: int = 50):
    g = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=g, dtype=torch.float64)
    origins[:, 2] = PLANE
    directions = torch.randn(count, 3, generator=g, dtype=torch.float64)
    directions[:, 2] = directions[:, 2].abs() + 0.2
    return origins, directions / directions.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0, 10.0])
def test_ndc_rays_are_straight(distance):
    """The NDC point of o + t d is o' + s d', with o', d', s as in NeRF's appendix C (OpenCV axes)."""
    o, d = rays_on_the_near_plane()
    ax, ay, n = NDC.ndc or (0, 0, 0)
    (ox, oy, oz), (dx, dy, dz) = o.unbind(dim=1), d.unbind(dim=1)
    origin = torch.stack([ax * ox / oz, ay * oy / oz, 1 - 2 * n / oz], dim=1)
    direction = torch.stack([ax * (dx / dz - ox / oz), ay * (dy / dz - oy / oz), 2 * n / oz], dim=1)
    t = torch.full((len(o), 1), distance, dtype=torch.float64)
    s = NDC.along(t, o, d)
    torch.testing.assert_close(s[:, 0], distance * dz / (oz + distance * dz))
    torch.testing.assert_close(NDC.coordinates(o + t * d), origin + s * direction)
    torch.testing.assert_close(NDC.distances(s, o, d), t, rtol=1e-9, atol=1e-9)


def test_ndc_agrees_with_the_projection():
    """The first two coordinates are the pixel, -1..1 across the picture; the near plane is -1, infinity is 1."""
    x = torch.tensor([[0.3, -0.2, 2.0], [1.0, 0.5, PLANE], [0.0, 0.0, 1e9]], dtype=torch.float64)
    c = NDC.coordinates(x)
    u = FX * x[:, 0] / x[:, 2] + WIDTH / 2
    v = FY * x[:, 1] / x[:, 2] + HEIGHT / 2
    torch.testing.assert_close(c[:, 0], 2 * u / WIDTH - 1)
    torch.testing.assert_close(c[:, 1], 2 * v / HEIGHT - 1)
    torch.testing.assert_close(c[:, 2], torch.tensor([0.0, -1, 1], dtype=torch.float64), atol=1e-8, rtol=0)


def test_ndc_half_way_is_twice_the_plane():
    o, d = torch.tensor([[0.0, 0, 1]]), torch.tensor([[0.0, 0, 1]])
    assert NDC.along(torch.ones(1, 1), o, d).item() == pytest.approx(0.5)
    assert NDC.distances(torch.full((1, 1), 0.5), o, d).item() == pytest.approx(1.0)


def test_ndc_starts_at_the_near_plane_and_ends_at_a_finite_distance():
    """Whatever the rays' own bounds are, and wherever the camera stands."""
    origins, d = rays_on_the_near_plane()
    origins[:, 2] = torch.linspace(-0.5, 0.9, len(origins))
    near, far = torch.full((50,), 3.0, dtype=torch.float64), torch.full((50,), 9.0, dtype=torch.float64)
    start, end = NDC.reach(near, far)
    t = NDC.distances(torch.stack([start, end], dim=1), origins, d)
    z = origins[:, 2:] + t * d[:, 2:]
    torch.testing.assert_close(z[:, 0], torch.full((50,), PLANE, dtype=torch.float64))
    torch.testing.assert_close(z[:, 1], torch.full((50,), PLANE * NDC_REACH, dtype=torch.float64))


def test_lengths_add_up():
    o, d = rays_on_the_near_plane()
    t = torch.linspace(0, 20, 33, dtype=torch.float64).expand(50, -1)
    torch.testing.assert_close(NDC.lengths(t, o, d).sum(dim=1), NDC.along(t, o, d)[:, -1])
    torch.testing.assert_close(Space("free").lengths(t, o, d), t.diff(dim=1))
    assert Space("contraction").reach(t[:, 0], t[:, -1])[1] is not None


@pytest.mark.parametrize("space", [Space("box", Box((-1, -2, 0), (3, 1, 2))), Space("contraction"), Space("free")])
def test_positions_invert_coordinates(space):
    x = 3 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(space.positions(space.coordinates(x)), x)


def test_contraction_stays_in_the_unit_ball():
    x = 1000 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (Space("contraction").coordinates(x).norm(dim=1) < 1).all()

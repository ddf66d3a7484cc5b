"""Frequency encoding and spherical harmonics."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import torch

from rayprior.fields.encodings import frequency, spherical_harmonics


@pytest.mark.parametrize(("octaves", "numbers"), [(10, 63), (4, 27), (0, 3)])
def test_count(octaves, numbers):
    assert frequency(torch.zeros(2, 5, 3), octaves).shape == (2, 5, numbers)


def test_zero_is_zero_then_zero_one_pairs():
    encoded = frequency(torch.zeros(3), 4)
    assert encoded.view(9, 3)[:, 0].tolist() == [0, 0, 1, 0, 1, 0, 1, 0, 1]


def test_octaves_without_pi_and_the_raw_input():
    x = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    parts = [x] + [wave(2**k * x) for k in range(6) for wave in (torch.sin, torch.cos)]
    torch.testing.assert_close(frequency(x, 6), torch.cat(parts), rtol=0, atol=0)


@pytest.mark.parametrize(("k", "spacing"), [(9, 6e-5), (15, 0.004), (20, 0.125), (23, 1.0), (25, 4.0)])
def test_octaves_beyond_twenty_are_noise_in_float32(k, spacing):
    """The next float32 after 1.1 is this many radians away at octave k."""
    x = torch.tensor(1.1)
    step = torch.nextafter(x, torch.tensor(2.0)) - x
    assert (step * 2**k).item() == pytest.approx(spacing, rel=0.03)


def test_spherical_harmonics_are_orthonormal():
    """Gauss-Legendre in z and even steps in azimuth integrate degree 6 exactly."""
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(7))
    azimuth = torch.arange(8, dtype=torch.float64) * 2 * pi / 8
    side = (1 - nodes.square()).sqrt()[:, None]
    d = torch.stack([side * azimuth.cos(), side * azimuth.sin(), nodes[:, None].expand(7, 8)], dim=-1)
    basis = spherical_harmonics(d, 3)
    assert basis.shape == (7, 8, 16)
    gram = torch.einsum("nai,naj,n->ij", basis, basis, weights) * 2 * pi / 8
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=1e-12, rtol=0)


def test_lower_degrees_come_first():
    d = torch.nn.functional.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    for degree in range(3):
        torch.testing.assert_close(spherical_harmonics(d, degree), spherical_harmonics(d, 3)[:, : (degree + 1) ** 2])
    with pytest.raises(ValueError, match="degrees 0 to 3, not 4"):
        spherical_harmonics(d, 4)

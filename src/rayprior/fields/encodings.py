"""Encodings: positions and directions written as numbers that a small network can read."""

from __future__ import annotations

from math import pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor


def frequency(x: Float[Tensor, "*b d"], octaves: int) -> Float[Tensor, "*b e"]:
    """[x, sin x, cos x, sin 2x, cos 2x, ..., sin 2^(octaves-1) x, cos 2^(octaves-1) x] (NeRF, eq. 4).

    As in the released code there is no factor pi and the raw input is kept: d (1 + 2 octaves) numbers, x alone for
    0 octaves. Octaves beyond about 20 are noise in float32: neighbouring numbers near 1 are 1 rad apart at 2^23.
    """
    if octaves == 0:
        return x
    angles = x[..., None, :] * 2.0 ** torch.arange(octaves, device=x.device, dtype=x.dtype)[:, None]  # (*b, octaves, d)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-2)  # (*b, octaves, 2, d)
    return torch.cat([x, waves.flatten(start_dim=-3)], dim=-1)


def spherical_harmonics(d: Float[Tensor, "*b 3"], degree: int) -> Float[Tensor, "*b n"]:
    """Real orthonormal spherical harmonics of degrees 0..`degree` (at most 3): (degree + 1)^2 numbers a unit direction.

    Order l = 0, 1, ..., m = -l..l within each; signs without the Condon-Shortley phase.
    """
    if not 0 <= degree <= 3:
        raise ValueError(f"spherical harmonics are written out for degrees 0 to 3, not {degree}")
    x, y, z = d.unbind(dim=-1)
    basis = [torch.full_like(x, sqrt(1 / (4 * pi)))]
    if degree >= 1:
        one = sqrt(3 / (4 * pi))
        basis += [one * y, one * z, one * x]
    if degree >= 2:
        two = sqrt(15 / (4 * pi))
        basis += [two * x * y, two * y * z, two / sqrt(12) * (3 * z * z - 1), two * x * z, two / 2 * (x * x - y * y)]
    if degree >= 3:
        outer, middle, inner = sqrt(35 / (32 * pi)), sqrt(105 / (4 * pi)), sqrt(21 / (32 * pi))
        basis += [
            outer * y * (3 * x * x - y * y),
            middle * x * y * z,
            inner * y * (5 * z * z - 1),
            sqrt(7 / (16 * pi)) * z * (5 * z * z - 3),
            inner * x * (5 * z * z - 1),
            middle / 2 * z * (x * x - y * y),
            outer * x * (x * x - 3 * y * y),
        ]
    return torch.stack(basis, dim=-1)

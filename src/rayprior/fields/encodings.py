"""Encodings: positions and directions written as numbers that a small network can read."""

from __future__ import annotations

from functools import cache
from itertools import product
from math import pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.errors import UserError


def frequency(x: Float[Tensor, "*b d"], octaves: int, visible: float = 1.0) -> Float[Tensor, "*b e"]:
    """[x, sin x, cos x, sin 2x, cos 2x, ..., sin 2^(octaves-1) x, cos 2^(octaves-1) x] (NeRF, eq. 4).

    As in the released code there is no factor pi and the raw input is kept: d (1 + 2 octaves) numbers, x alone for
    0 octaves. Octaves beyond about 20 are noise in float32: neighbouring numbers near 1 are 1 rad apart at 2^23.

    visible  share of these 1 + 2 octaves parts that is there, low frequencies first; the rest is 0 (see `appearing`)
    """
    if octaves == 0:
        return x
    angles = x[..., None, :] * 2.0 ** torch.arange(octaves, device=x.device, dtype=x.dtype)[:, None]  # (*b, octaves, d)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-2)  # (*b, octaves, 2, d)
    if visible != 1:
        waves = waves * appearing(1 + 2 * octaves, visible).to(x)[1:].view(octaves, 2, 1)
    return torch.cat([x, waves.flatten(start_dim=-3)], dim=-1)


def appearing(parts: int, share: float) -> Float[Tensor, "parts"]:
    """Weights of an encoding's parts, from coarse to fine, of which this share is visible: clamp(parts share + 1 - i).

    The first is always there, the next fades in, the rest are 0; all are there from (parts - 1) / parts on. With the
    raw input, sines and cosines as parts it is FreeNeRF's mask (Yang et al., CVPR 2023, section 3.2, and its code).

    UserError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise UserError(f"field.visible is {share:g}; expected the share of the encoding that is visible, from 0 to 1")
    return (parts * share + 1 - torch.arange(parts, dtype=torch.float64)).clamp(0, 1)


def spherical_harmonics(d: Float[Tensor, "*b 3"], degree: int) -> Float[Tensor, "*b n"]:
    """Real orthonormal spherical harmonics of degrees 0..`degree` (at most 3) at unit directions: (degree + 1)^2.

    Order l = 0, 1, ..., m = -l..l within each; signs without the Condon-Shortley phase.
    """
    if not 0 <= degree <= 3:
        raise ValueError(f"spherical harmonics are written out for degrees 0 to 3, not {degree}")
    monomials = [torch.ones_like(d[..., :1]), d]
    for _ in range(degree - 1):  # products of the last degree with x, y, z: 9, then 27 columns
        monomials.append((monomials[-1][..., :, None] * d[..., None, :]).flatten(start_dim=-2))
    return torch.cat(monomials[: degree + 1], dim=-1) @ _harmonics(degree).to(d)


@cache
def _harmonics(degree: int) -> Float[Tensor, "monomials n"]:
    """The harmonics as polynomials: coefficients of 1; x, y, z; xx, xy, ..., zz; xxx, xxy, ..., zzz."""
    columns: list[dict[str, float]] = [{"": sqrt(1 / (4 * pi))}]
    if degree >= 1:
        one = sqrt(3 / (4 * pi))
        columns += [{"y": one}, {"z": one}, {"x": one}]
    if degree >= 2:
        two = sqrt(15 / (4 * pi))
        columns += [{"xy": two}, {"yz": two}, {"zz": two * sqrt(3) / 2, "": -two / sqrt(12)}, {"xz": two}]
        columns += [{"xx": two / 2, "yy": -two / 2}]
    if degree >= 3:
        outer, middle, inner = sqrt(35 / (32 * pi)), sqrt(105 / (4 * pi)), sqrt(21 / (32 * pi))
        columns += [
            {"xxy": 3 * outer, "yyy": -outer},
            {"xyz": middle},
            {"yzz": 5 * inner, "y": -inner},
            {"zzz": 5 * sqrt(7 / (16 * pi)), "z": -3 * sqrt(7 / (16 * pi))},
            {"xzz": 5 * inner, "x": -inner},
            {"xxz": middle / 2, "yyz": -middle / 2},
            {"xxx": outer, "xyy": -3 * outer},
        ]
    rows = [""] + ["".join(axes) for n in range(1, degree + 1) for axes in product("xyz", repeat=n)]
    return torch.tensor([[column.get(row, 0.0) for column in columns] for row in rows], dtype=torch.float64)

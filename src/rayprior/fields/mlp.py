"""The frequency-encoded MLP of vanilla NeRF (Mildenhall et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rayprior.maths.schedules import Schedule


@dataclass(frozen=True)
class Mlp:
    """`depth` layers of `width`; the encoded position enters again after layer `skip`.

    octaves, view_octaves  numbers of octaves of the encodings of position and direction; 0: the raw numbers only
    density                relu (the paper's, with optional noise of `noise_std` before it) or softplus(x - 1)
    """

    depth: int = 8
    width: int = 256
    skip: int = 4
    octaves: int = 10
    view_octaves: int = 4
    view_directions: bool = True
    density: Literal["relu", "softplus"] = "softplus"
    noise_std: float | Schedule = 0.0

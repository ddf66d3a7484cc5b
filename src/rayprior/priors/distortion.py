"""Distortion prior: a ray's weights stand close together (mip-NeRF 360, eq. 15). It removes floaters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rayprior.maths import stepfun
from rayprior.priors.term import Prior
from rayprior.rendering.rendering import Rendering


@dataclass(frozen=True)
class Distortion(Prior):
    """Mean over rays of sum_ij w_i w_j |m_i - m_j| + 1/3 sum w_i^2 width_i.

    Distances are normalised as s = t / (1 + t), so that far bins of unbounded scenes do not outweigh near ones.
    """

    weight: float = 1e-3

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        t = seen.distribution.t
        return stepfun.distortion(t / (1 + t), seen.distribution.w).mean()

"""Distortion prior: a ray's weights stand close together (mip-NeRF 360, eq. 15). It removes floaters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rayprior.kernels.distortion import distortion
from rayprior.maths.schedules import Schedule
from rayprior.maths.space import contract_distance
from rayprior.priors.term import Prior
from rayprior.rendering.rendering import Rendering


@dataclass(frozen=True)
class Distortion(Prior):
    """Mean over rays of sum_ij w_i w_j |m_i - m_j| + 1/3 sum w_i^2 width_i.

    Distances are contracted first, t up to 1 and 2 - 1/t beyond, as space is: far bins of unbounded scenes would
    outweigh all others.
    """

    weight: float | Schedule = 1e-3

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        return distortion(contract_distance(seen.distribution.t), seen.distribution.w).mean()

"""Photometric likelihood: photographed rays have the colour of their pixel (NeRF, eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rayprior.maths.schedules import Schedule
from rayprior.priors.term import Likelihood
from rayprior.rendering.rendering import Rendering


@dataclass(frozen=True)
class Photometric(Likelihood):
    """Mean squared error over rays and channels, of the fine level and, with weight `coarse`, of the coarse one."""

    weight: float | Schedule = 1.0
    coarse: float = 1.0

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        fine = (seen.rgb - known["rgb"]).square().mean()
        if seen.coarse is None:
            return fine
        return fine + self.coarse * (seen.coarse.rgb - known["rgb"]).square().mean()

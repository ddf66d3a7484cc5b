"""Transient content: what stands in one photograph alone, and how sure a colour is (NeRF-W, CVPR 2021).

These judge the second medium that `codes.transient` gives a recipe; without one they do not start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule
from rayprior.priors.term import Likelihood, Prior
from rayprior.rendering.rendering import Rendering


@dataclass(frozen=True)
class Heteroscedastic(Likelihood):
    """Photographed rays have the colour of their pixel, up to a deviation that the rendering states (NeRF-W, eq. 13).

    Mean over rays of e^2 / (2 std^2) + ln std, e^2 the mean squared error over channels: least where std = e, so that
    what cannot be explained costs its logarithm. The paper's constant 3 is left out.

    coarse  weight of the coarse level's squared error, which has no deviation
    """

    weight: float | Schedule = 1.0
    coarse: float = 0.5

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        if seen.std is None:
            raise UserError(_NO_MEDIUM.format("heteroscedastic"))
        error = (seen.rgb - known["rgb"]).square().mean(dim=1)
        fine = (error / (2 * seen.std.square()) + seen.std.log()).mean()
        if seen.coarse is None:
            return fine
        return fine + self.coarse * (seen.coarse.rgb - known["rgb"]).square().mean()


@dataclass(frozen=True)
class Transient(Prior):
    """Little stands in one photograph alone.

    of  'opacity': the mean share of a ray that ends there, at most 1 and the same for any samples; 'density': the mean
        over samples, as in NeRF-W (eq. 13, lambda_u = 0.01)
    """

    weight: float | Schedule = 0.01
    of: Literal["opacity", "density"] = "opacity"

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        if seen.transient is None:
            raise UserError(_NO_MEDIUM.format("transient"))
        return (seen.transient_opacity if self.of == "opacity" else seen.transient).mean()


_NO_MEDIUM = (
    "prior '{}' judges what stands in single photographs alone, and this recipe has no such medium; add --set"
    " codes.transient=16, or take the recipe nerfw"
)

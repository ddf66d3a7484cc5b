"""Occlusion: nothing stands right before a camera (FreeNeRF, Yang et al. 2023).

Where views are few each camera may see a floater of its own there, which no other contradicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths import stepfun
from rayprior.maths.schedules import Schedule
from rayprior.maths.space import contract_distance
from rayprior.priors.term import Prior
from rayprior.rendering.rendering import Rendering


@dataclass(frozen=True)
class Occlusion(Prior):
    """Mean density near the camera along photographed rays, or the mass that ends there.

    of       'density', 1 / working unit, as in the paper; or 'weights'
    reach    how near: this share of the ray, from near to far in contracted distance as `Distortion` has it
    samples  instead of `reach` the first so many samples (10 in the paper). With a sampler that puts its samples where
             density is, these are the surface.

    Raises UserError for a reach or a number of samples that holds nothing.
    """

    weight: float | Schedule = 0.01
    of: Literal["density", "weights"] = "density"
    reach: float = 0.1
    samples: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.reach, float | int) and not 0 < self.reach <= 1:  # else a schedule
            raise UserError(f"reach={self.reach}: expected a share of the ray, above 0 and at most 1")
        if self.samples is not None and self.samples < 1:
            raise UserError(f"samples={self.samples}: expected at least 1")

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        t, w = contract_distance(seen.distribution.t), seen.distribution.w
        if self.samples is not None:
            first = slice(None, self.samples)
            return seen.density[:, first].mean() if self.of == "density" else w[:, first].sum(dim=1).mean()
        end = torch.lerp(t[:, :1], t[:, -1:], self.reach)
        if self.of == "weights":
            return stepfun.mass_before(t, w, end).mean()
        return mean_density_before(t, seen.density, end).mean()


def mean_density_before(
    t: Float[Tensor, "r S+1"], density: Float[Tensor, "r S"], end: Float[Tensor, "r 1"]
) -> Float[Tensor, "r"]:
    """The mean over the ray from its first edge to `end`, each bin by its length there."""
    length = (torch.minimum(t[:, 1:], end) - t[:, :-1]).clamp_min(0)
    return (density * length).sum(dim=1) / length.sum(dim=1).clamp_min(stepfun.TINY)

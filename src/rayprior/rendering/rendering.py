"""Rendering: what a model saw along a batch of rays. The thing that every term judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.fields.codes import Code
from rayprior.maths import stepfun
from rayprior.rendering.raydist import RayDistribution


@dataclass(frozen=True, eq=False)
class Rendering:
    """Per ray: colour, where it ended, the density that it met, and the coarser level that proposed the samples.

    rgb           composited on the ray's background, in [0, 1] up to rounding
    distribution  of the finest level
    density       per bin, 1 / working unit
    coarse        the coarse level's rendering of the same rays, where a coarse field renders (vanilla NeRF)
    code          what is known of the rays' photographs, where the model learns such codes
    transient     density of what stands in one photograph alone (NeRF-W); `distribution` and `density` are of both
                  media together
    std           standard deviation of the ray's colour, as that medium claims it
    """

    rgb: Float[Tensor, "r 3"]
    distribution: RayDistribution
    density: Float[Tensor, "r S"]
    coarse: Rendering | None = None
    code: Code | None = None
    transient: Float[Tensor, "r S"] | None = None
    std: Float[Tensor, "r"] | None = None

    def __len__(self) -> int:
        return self.rgb.shape[0]

    def __getitem__(self, index) -> Rendering:
        return self._each(lambda part: part[index])

    @property
    def optical_depth(self) -> Float[Tensor, "r S"]:
        """density x length of each bin; alpha = 1 - exp(-optical depth)."""
        return self.density * self.distribution.widths

    @property
    def transient_opacity(self) -> Float[Tensor, "r"]:
        """The share that ends in what stands in the photograph alone; 0 where no such medium was rendered."""
        if self.transient is None:
            return torch.zeros_like(self.opacity)
        share = self.transient / self.density.clamp_min(stepfun.TINY)
        return (self.distribution.w * share).sum(dim=-1)

    @property
    def opacity(self) -> Float[Tensor, "r"]:
        return self.distribution.opacity

    @property
    def distance(self) -> Float[Tensor, "r"]:
        """Median distance along the ray, working units: what pictures and exports show."""
        return self.distribution.median

    def detach(self) -> Rendering:
        return self._each(lambda part: part.detach())

    def _each(self, change: Callable[[Any], Any]) -> Rendering:
        """The same with every part that is there changed."""
        parts = {name: change(part) for name, part in vars(self).items() if part is not None}
        return Rendering(**parts)

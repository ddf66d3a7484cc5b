"""Rendering: what a model saw along a batch of rays. The thing that every term judges."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from rayprior.rendering.raydist import RayDistribution


@dataclass(frozen=True, eq=False)
class Rendering:
    """Per ray: colour, where it ended, the density that it met, and the coarser level that proposed the samples.

    rgb           composited on the ray's background, in [0, 1] up to rounding
    distribution  of the finest level
    density       per bin, 1 / working unit
    coarse        the coarse level's rendering of the same rays, where a coarse field renders (vanilla NeRF)
    """

    rgb: Float[Tensor, "r 3"]
    distribution: RayDistribution
    density: Float[Tensor, "r S"]
    coarse: Rendering | None = None

    def __len__(self) -> int:
        return self.rgb.shape[0]

    def __getitem__(self, index) -> Rendering:
        coarse = None if self.coarse is None else self.coarse[index]
        return Rendering(self.rgb[index], self.distribution[index], self.density[index], coarse)

    @property
    def optical_depth(self) -> Float[Tensor, "r S"]:
        """density x length of each bin; alpha = 1 - exp(-optical depth)."""
        return self.density * self.distribution.widths

    @property
    def opacity(self) -> Float[Tensor, "r"]:
        return self.distribution.opacity

    @property
    def distance(self) -> Float[Tensor, "r"]:
        """Median distance along the ray, working units: what pictures and exports show."""
        return self.distribution.median

    def detach(self) -> Rendering:
        coarse = None if self.coarse is None else self.coarse.detach()
        return replace(
            self,
            rgb=self.rgb.detach(),
            distribution=self.distribution.detach(),
            density=self.density.detach(),
            coarse=coarse,
        )

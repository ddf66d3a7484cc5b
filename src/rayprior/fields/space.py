"""Space: how world positions become the coordinates that a field is written in, and how lengths are measured there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.maths.space import Box, contract, uncontract

NDC_REACH = 1e4  # the last edge in NDC lies this many near planes away: s = 0.9999 instead of 1, which is infinity


@dataclass(frozen=True)
class Space:
    """Working-unit positions -> field coordinates.

    auto         settled by the scene: 'box' where the background is known and cameras look inward, else 'contraction'
    box          the box becomes [-1, 1]^3
    contraction  the unit ball around the focus becomes the ball of radius 1/2, all the rest the shell up to radius 1
                 (mip-NeRF 360, eq. 10, halved)
    free         positions as they are (vanilla NeRF on bounded scenes)
    ndc          normalised device coordinates of a forward-facing capture (NeRF, appendix C); lengths along the ray
                 are then measured in NDC, so density is per NDC unit. `ndc` = (2 fx / W, 2 fy / H, near plane z)
    """

    kind: Literal["auto", "box", "contraction", "free", "ndc"] = "auto"
    box: Box | None = None
    ndc: tuple[float, float, float] | None = None

    def coordinates(self, x: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
        if self.kind == "box":
            assert self.box is not None
            return self.box.unit(x) * 2 - 1
        if self.kind == "contraction":
            return contract(x) / 2
        if self.kind == "ndc":
            assert self.ndc is not None
            ax, ay, n = self.ndc
            z = x[..., 2].clamp_min(1e-6)
            return torch.stack([ax * x[..., 0] / z, ay * x[..., 1] / z, 1 - 2 * n / z], dim=-1)
        return x

    def positions(self, coordinates: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
        """The inverse, for 'box', 'contraction' and 'free'."""
        if self.kind == "box":
            assert self.box is not None
            return self.box.inverse_unit((coordinates + 1) / 2)
        if self.kind == "contraction":
            return uncontract(coordinates * 2)
        if self.kind == "ndc":
            raise ValueError("NDC has no bounded inverse")
        return coordinates

    def along(
        self, t: Float[Tensor, "r s"], origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]
    ) -> Float[Tensor, "r s"]:
        """Distances -> the ray's coordinate in which lengths are measured: the distance itself, or NDC's s.

        s = 1 - n / z is 0 on the near plane and 1 at infinity; t dz / (oz + t dz) where the origin is on that plane.
        """
        if self.kind != "ndc":
            return t
        assert self.ndc is not None
        return 1 - self.ndc[2] / (origins[:, 2:] + t * directions[:, 2:]).clamp_min(1e-6)

    def distances(
        self, s: Float[Tensor, "r s"], origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]
    ) -> Float[Tensor, "r s"]:
        """The inverse of `along`: t = (n / (1 - s) - oz) / dz in NDC. Rays are taken to look forward."""
        if self.kind != "ndc":
            return s
        assert self.ndc is not None
        return (self.ndc[2] / (1 - s) - origins[:, 2:]) / directions[:, 2:].clamp_min(1e-6)

    def reach(self, near: Float[Tensor, "r"], far: Float[Tensor, "r"]) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
        """Where sampling starts and ends, as coordinates along the ray.

        NDC ignores the rays' own bounds: it reaches from the near plane to infinity, of which `NDC_REACH` is the finite
        stand-in.
        """
        if self.kind != "ndc":
            return near, far
        return torch.zeros_like(near), torch.full_like(far, 1 - 1 / NDC_REACH)

    def lengths(
        self, t: Float[Tensor, "r S+1"], origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]
    ) -> Float[Tensor, "r S"]:
        """Length of each bin in the unit that density is per: working units, or NDC's s."""
        s = self.along(t, origins, directions)
        return s[..., 1:] - s[..., :-1]

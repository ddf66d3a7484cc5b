"""Space: boxes, ray-box intersection, scene contraction, the similarity between input and working units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Similarity:
    """working = scale * rotation @ input + translation: the one transform between a capture's units and ours."""

    scale: float = 1.0
    rotation: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def _parts(self, like: Tensor) -> tuple[Tensor, Tensor]:
        rotation = torch.tensor(self.rotation, dtype=torch.float64, device=like.device).to(like.dtype)
        translation = torch.tensor(self.translation, dtype=torch.float64, device=like.device).to(like.dtype)
        return rotation, translation

    def points(self, x: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
        rotation, translation = self._parts(x)
        return self.scale * (x @ rotation.T) + translation

    def poses(self, c2w: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
        """Camera-to-world poses: rotations turn, positions move; cameras are not scaled."""
        rotation, _ = self._parts(c2w)
        return torch.cat([rotation @ c2w[:, :, :3], self.points(c2w[:, :, 3])[:, :, None]], dim=2)

    def inverse(self) -> Similarity:
        """working -> input."""
        rotation = torch.tensor(self.rotation, dtype=torch.float64).T
        translation = -(rotation @ torch.tensor(self.translation, dtype=torch.float64)) / self.scale
        return Similarity(1 / self.scale, tuple(map(tuple, rotation.tolist())), tuple(translation.tolist()))

    @staticmethod
    def of(scale: float, rotation: Tensor, translation: Tensor) -> Similarity:
        return Similarity(float(scale), tuple(map(tuple, rotation.tolist())), tuple(translation.tolist()))


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in working units."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def unit(self, x: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
        """Points of the box -> [0, 1]^3."""
        low, high = (torch.tensor(v, dtype=x.dtype, device=x.device) for v in (self.low, self.high))
        return (x - low) / (high - low)

    def inverse_unit(self, u: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
        low, high = (torch.tensor(v, dtype=u.dtype, device=u.device) for v in (self.low, self.high))
        return low + u * (high - low)

    def hit(
        self, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]
    ) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
        """Distances at which rays enter and leave the box (Kay and Kajiya 1986); enter >= leave where they miss."""
        low, high = (torch.tensor(v, dtype=origins.dtype, device=origins.device) for v in (self.low, self.high))
        safe = torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
        a, b = (low - origins) / safe, (high - origins) / safe
        return torch.minimum(a, b).amax(dim=-1), torch.maximum(a, b).amin(dim=-1)


def contract(x: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """All of space -> the ball of radius 2: x inside the unit ball, (2 - 1/|x|) x/|x| outside.

    mip-NeRF 360 (Barron et al. 2022), eq. 10.
    """
    length = x.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return torch.where(length <= 1, x, (2 - 1 / length) * (x / length))


def uncontract(y: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """The inverse of `contract` inside the open ball of radius 2."""
    length = y.norm(dim=-1, keepdim=True).clamp(1e-9, 2 - 1e-6)
    return torch.where(length <= 1, y, y / length / (2 - length))


def contract_distance(t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Distances along a ray contracted as space is: t up to 1, 2 - 1/t beyond; infinity becomes 2."""
    return torch.where(t < 1, t, 2 - 1 / t.clamp_min(1))

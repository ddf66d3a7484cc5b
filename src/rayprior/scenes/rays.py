"""Rays, and Query: rays with what is known of them. Everything a ray needs travels by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rays:
    """A batch of rays in working units; the leading axis is the ray, of every field.

    near, far    where rendering starts and ends, distances along the unit direction
    scene        which scene of a family (0 for a single scene)
    camera       index of the camera in its scene; -1 for a camera that is none of the scene's
    pixel        (u, v) in that camera
    background   the colour behind the scene; truth and rendering composite on this same value
    guide        (mean, std) of a known distance, nan where unknown
    """

    origins: Float[Tensor, "r 3"]
    directions: Float[Tensor, "r 3"]
    near: Float[Tensor, "r"]
    far: Float[Tensor, "r"]
    scene: Int[Tensor, "r"]
    camera: Int[Tensor, "r"]
    pixel: Float[Tensor, "r 2"]
    background: Float[Tensor, "r 3"]
    guide: Float[Tensor, "r 2"]

    def __len__(self) -> int:
        return self.origins.shape[0]

    def __getitem__(self, index) -> Rays:
        return Rays(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device) -> Rays:
        return Rays(*(getattr(self, f.name).to(device) for f in fields(self)))

    def at(self, distance: Float[Tensor, "r s"]) -> Float[Tensor, "r s 3"]:
        """Points at these distances along each ray."""
        return torch.addcmul(self.origins[:, None], self.directions[:, None], distance[..., None])

    @staticmethod
    def cat(parts: Sequence[Rays]) -> Rays:
        if len(parts) == 1:
            return parts[0]
        return Rays(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Rays)))

    @staticmethod
    def through(
        origins: Tensor, directions: Tensor, near: float | Tensor, far: float | Tensor, *, background=(0.0, 0.0, 0.0)
    ) -> Rays:
        """Free rays that belong to no camera: for tests, probes and one's own cameras."""
        count = origins.shape[0]
        return Rays(
            origins=origins,
            directions=directions / directions.norm(dim=-1, keepdim=True),
            near=torch.as_tensor(near, dtype=origins.dtype).expand(count),
            far=torch.as_tensor(far, dtype=origins.dtype).expand(count),
            scene=torch.zeros(count, dtype=torch.long),
            camera=torch.full((count,), -1, dtype=torch.long),
            pixel=torch.zeros(count, 2, dtype=origins.dtype),
            background=torch.as_tensor(background, dtype=origins.dtype).expand(count, 3),
            guide=torch.full((count, 2), torch.nan, dtype=origins.dtype),
        )


@dataclass(frozen=True, eq=False)
class Query:
    """Rays that somebody asks for, and what is known of each: `rgb`, `distance`, `distance_std`, `confidence`, ...

    Structure stays with the asker: patches come in order, partners are the second half. Nothing stores indices.
    """

    rays: Rays
    known: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rays)

    def __getitem__(self, index) -> Query:
        return Query(self.rays[index], {name: value[index] for name, value in self.known.items()})

    def to(self, device) -> Query:
        return Query(self.rays.to(device), {name: value.to(device) for name, value in self.known.items()})

    @staticmethod
    def cat(parts: Sequence[Query]) -> Query:
        """All rays in order; of `known`, the names that every part has."""
        names = set.intersection(*(set(part.known) for part in parts))
        return Query(
            Rays.cat([part.rays for part in parts]),
            {name: torch.cat([part.known[name] for part in parts]) for name in sorted(names)},
        )

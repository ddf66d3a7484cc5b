"""Pairs of pixels that show the same point, and whoever claims to know such pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor


@dataclass(frozen=True, eq=False)
class Matches:
    """Where some pixels of one view are in another, as a source claims.

    pixel   (u, v), sub-pixel, centres at +0.5; nan where not valid
    weight  how much of the source stands behind it, in [0, 1]
    valid   in front of the other camera, inside its picture, and known to the source at all
    """

    pixel: Float[Tensor, "r 2"]
    weight: Float[Tensor, "r"]
    valid: Bool[Tensor, "r"]

    def __len__(self) -> int:
        return len(self.valid)

    @staticmethod
    def of(pixel: Float[Tensor, "r 2"], valid: Bool[Tensor, "r"], weight: Tensor | None = None) -> Matches:
        """With nan and weight 0 where not valid."""
        weight = torch.ones_like(pixel[:, 0]) if weight is None else weight
        return Matches(pixel.where(valid[:, None], torch.nan), weight.where(valid, 0.0), valid)


class Labels(Protocol):
    """A source of matches. With a generator it may draw; without one it is deterministic."""

    def match(
        self, view_s: int, pixels: Float[Tensor, "r 2"], view_t: int, generator: Generator | None = None
    ) -> Matches:
        """Where view t shows what view s shows at `pixels`. Views are positions in the scene's list of frames."""
        ...


@dataclass(frozen=True, eq=False)
class Pairs:
    """Matching pixels of pairs of views, in any order.

    view_s, view_t    positions in the scene's list of frames
    pixel_s, pixel_t  (u, v), sub-pixel, centres at +0.5, float64
    weight            in [0, 1]. A pixel may stand in several rows: their targets and weights are then what is known of
                      where it ends, and a loss that is linear in the target takes them for the whole distribution
    """

    view_s: Int[Tensor, "p"]
    view_t: Int[Tensor, "p"]
    pixel_s: Float[Tensor, "p 2"]
    pixel_t: Float[Tensor, "p 2"]
    weight: Float[Tensor, "p"]

    def __len__(self) -> int:
        return len(self.weight)

    def __getitem__(self, index) -> Pairs:
        return Pairs(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def cat(parts: Sequence[Pairs]) -> Pairs:
        return Pairs(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Pairs)))

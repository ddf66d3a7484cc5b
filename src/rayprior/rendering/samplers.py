"""Samplers: where along a ray to look. Each proposes bin edges from what it knows of the density."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Generator, Tensor, nn

from rayprior.fields.field import Field
from rayprior.maths.schedules import Schedule
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Rays

Spacing = Literal["distance", "inverse"]


class Sampler(nn.Module, ABC):
    """Proposes bin edges. With a generator: training, jittered; without: deterministic."""

    @abstractmethod
    def propose(
        self, rays: Rays, field: Field, generator: Generator | None
    ) -> tuple[Float[Tensor, "r S+1"], Rendering | None]:
        """Edges from near to far, non-decreasing, detached; and the coarse level's rendering where one was made."""

    def refresh(self, step: int, field: Field, generator: Generator) -> None:  # noqa: B027 - most cache nothing
        """Bring what is cached of the field up to date; called after every training step."""


@dataclass(frozen=True)
class Uniform:
    """Evenly spaced bins in distance, or in inverse distance (1/t = (1-s)/near + s/far); stratified in training."""

    samples: int = 128
    spacing: Spacing = "distance"


@dataclass(frozen=True)
class CoarseField:
    """A second field of the same kind is rendered on `coarse` uniform bins; `fine` more samples follow its weights
    (NeRF, section 5.2). guide: the share of the fine samples that goes to a known distance."""

    coarse: int = 64
    fine: int = 128
    spacing: Spacing = "distance"
    guide: float | Schedule = 0.0


@dataclass(frozen=True)
class DensityGrid:
    """One cached grid of density over field coordinates: the maximum that was seen, decayed.

    A ray reads it in `bins`; bin alphas are capped at `cap` (cells overstate density beside a surface, and a ray that
    stopped there would starve what lies behind), padded with a share `uniform`; `samples` bins follow by inverse CDF.
    samples None: settled by the scene, 16 for a box, 24 for contracted space.
    """

    resolution: int = 64
    bins: int = 128
    samples: int | None = None
    test_samples: int = 64
    cap: float = 0.1
    uniform: float = 0.3
    decay: float = 0.95
    refresh_every: int = 32
    refresh_share: float = 0.25
    guide: float | Schedule = 0.0

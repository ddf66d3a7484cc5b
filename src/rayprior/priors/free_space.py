"""Free-space likelihood: nothing stands between a camera and where its ray was measured to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Generator, Tensor

from rayprior.maths import stepfun
from rayprior.maths.schedules import Schedule
from rayprior.priors.depth import At, ask_for_depth, measured, on_levels
from rayprior.priors.term import Likelihood
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Scene


@dataclass(frozen=True)
class FreeSpace(Likelihood):
    """What a ray meets before its known distance, less a margin.

    rays, at    as of `depth`
    of          weight: the share of the ray that ends there, at most 1 and the same for any bins (ours);
                density: the mean density of the samples there, as the four depth strategies' code has it
    std         standard deviation of all distances, working units; None: what is known of each, at least half a bin
    margin      length, working units, before the distance that is left alone
    margin_std  so many standard deviations more
    coarse      weight of the coarse level's part
    """

    weight: float | Schedule = 0.005
    rays: int | None = None
    at: At = "auto"
    of: Literal["weight", "density"] = "weight"
    std: float | None = None
    margin: float = 0.0
    margin_std: float = 2.0
    coarse: float = 1.0

    def query(self, scene: Scene, generator: Generator) -> Query | None:
        """Keypoint rays, or None for the photographed ones. UserError where no depth is known."""
        return ask_for_depth(scene, self.at, self.rays, generator)

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        return on_levels(seen, self.coarse, lambda level: self._judged(level, known))

    def _judged(self, level: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        t, w = level.distribution.t, level.distribution.w
        truth = measured(t, known, self.std)
        end = truth.distance - self.margin - self.margin_std * truth.std
        if self.of == "weight":
            return truth.mean(weight_before(t, w, end))
        return mean_of_samples_before(t, level.density, end, truth.valid)


def weight_before(t: Float[Tensor, "r S+1"], w: Float[Tensor, "r S"], end: Float[Tensor, "r"]) -> Float[Tensor, "r"]:
    """The mass in front of `end`, that of its own bin in proportion; 0 where it lies before the first edge."""
    return stepfun.mass_before(t, w, end[:, None])[:, 0]


def mean_of_samples_before(
    t: Float[Tensor, "r S+1"], density: Float[Tensor, "r S"], end: Float[Tensor, "r"], valid: Bool[Tensor, "r"]
) -> Tensor:
    """Mean density of all bins of valid rays whose middle lies before `end`: a scalar, 0 where there is none."""
    before = (stepfun.midpoints(t) < end[:, None]) & valid[:, None]
    return (density * before).sum() / before.sum().clamp_min(1)

"""Surface likelihood: a ray ends at its known distance, and all of it at one place (strategies hard and hybrid)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Generator, Tensor

from rayprior.maths import stepfun
from rayprior.maths.schedules import Schedule
from rayprior.priors.depth import FAINT, At, Estimate, ask_for_depth, estimated, measured, on_levels
from rayprior.priors.term import Likelihood
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Scene


@dataclass(frozen=True)
class Surface(Likelihood):
    """Mean over the rays with a known distance of |estimated - known| + variance x the spread of where they end.

    rays, at  as of `depth`
    variance  weight of the spread
    estimate  of distance and spread: mean, both over the ray's opacity; raw or left, as the four depth strategies' code
              has them, where a faint ray reads as a wide one
    coarse    weight of the coarse level's part
    """

    weight: float | Schedule = 0.005
    rays: int | None = None
    at: At = "auto"
    variance: float = 0.1
    estimate: Estimate = "mean"
    coarse: float = 1.0

    def query(self, scene: Scene, generator: Generator) -> Query | None:
        """Keypoint rays, or None for the photographed ones. UserError where no depth is known."""
        return ask_for_depth(scene, self.at, self.rays, generator)

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        return on_levels(seen, self.coarse, lambda level: self._judged(level, known))

    def _judged(self, level: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        t, w = level.distribution.t, level.distribution.w
        truth = measured(t, known)
        missed = (estimated(t, w, self.estimate) - truth.distance).abs()
        return truth.mean(missed + self.variance * spread(t, w, self.estimate))


def spread(t: Float[Tensor, "r S+1"], w: Float[Tensor, "r S"], estimate: Estimate = "mean") -> Float[Tensor, "r"]:
    """Variance of where a ray ends, squared working units.

    mean: sum w (m - mean)^2 / sum w, while opacity is above 5 %; raw, left: max(0, sum w x^2 - (sum w x)^2) with x the
    middles or left edges of bins, not divided by opacity.
    """
    at = t[..., :-1] if estimate == "left" else stepfun.midpoints(t)
    middle = estimated(t, w, estimate)
    if estimate != "mean":
        return ((w * at.square()).sum(dim=-1) - middle.square()).clamp_min(0)
    return (w * (at - middle[..., None]).square()).sum(dim=-1) / w.sum(dim=-1).clamp_min(FAINT)

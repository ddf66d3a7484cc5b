"""Ray entropy: a ray ends in one place (InfoNeRF, Kim et al. 2022), also where no photograph looks.

Its forms differ in what is normalised to a probability. The weights w ask for one early end and ignore what is hidden
behind it. The opacities of the bins, 1 - exp(-optical depth), are the paper's: they ask for thin shells, punish density
behind a surface, and do not fall as a surface hardens: a slab over M bins has log2 M bits at every density.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths import stepfun
from rayprior.maths.schedules import Schedule
from rayprior.maths.space import contract_distance
from rayprior.priors.term import Prior
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Poses, Scene


@dataclass(frozen=True)
class Entropy(Prior):
    """Mean entropy of rays that hit something: by default of unseen rays, by weights on equal bins, between 0 and 1.

    rays          how many a step, None: a quarter of the photographed ones
    on            which rays: unseen ones, photographed ones, or half and half
    of            'bins': weights on `bins` equal bins of the ray, so that the value does not depend on the sampler;
                  'weights': those of the samples; 'opacity': of the samples, as in the paper; 'differential': weights
                  by length, -sum p log2(p / width). Distances are contracted first, as `Distortion` has them.
    min_opacity   rays with less are empty and stay so (no gradient)
    per           the mean is over 'masked' rays, those that are not empty, or over all 'rays' as in the release
    normalised    divide by log2 of the number of bins; no meaning for 'differential', which stays in bits
    log           the logarithm of the mean entropy instead
    poses, cameras  where unseen rays come from, see `Scene.unseen_rays`

    Raises UserError for no rays, fewer than 2 bins, and for `log` of a differential entropy, which may be negative.
    """

    weight: float | Schedule = 1e-3
    rays: int | None = None
    on: Literal["unseen", "seen", "both"] = "unseen"
    of: Literal["bins", "weights", "opacity", "differential"] = "bins"
    bins: int = 64
    min_opacity: float = 0.1
    per: Literal["rays", "masked"] = "masked"
    normalised: bool = True
    log: bool = False
    poses: Poses = "between"
    cameras: int = 4

    def __post_init__(self) -> None:
        if self.rays is not None and self.rays < 1:
            raise UserError(f"rays={self.rays}: expected at least 1")
        if self.bins < 2:
            raise UserError(f"bins={self.bins}: a ray of one bin always ends in one place; expected at least 2")
        if self.log and self.of == "differential":
            raise UserError("log=true with of=differential: that entropy may be negative; leave out one of the two")

    def query(self, scene: Scene, generator: Generator) -> Query | None:
        if self.on == "seen":
            return None
        assert self.rays is not None, "settled before training"
        photographed = self.rays // 2 if self.on == "both" else 0
        unseen = scene.unseen_rays(self.rays - photographed, generator, self.poses, self.cameras)
        return Query.cat([scene.photo_rays(photographed, generator), unseen]) if photographed else unseen

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        t, w = contract_distance(seen.distribution.t), seen.distribution.w
        hit = seen.opacity.detach() > self.min_opacity
        bins = w.shape[1]
        if self.of == "bins":
            bins = self.bins
            bits = entropy_of_bins(t, w, hit, bins)
        elif self.of == "weights":
            bits = entropy_of_weights(w, hit)
        elif self.of == "opacity":
            bits = entropy_of_opacity(seen.optical_depth, hit)
        else:
            bits = differential_entropy(t, w, hit)
        value = bits.sum() / (len(bits) if self.per == "rays" else hit.sum().clamp_min(1))
        if self.normalised and self.of != "differential":
            value = value / max(log2(bins), 1.0)
        return (value + stepfun.TINY).log() if self.log else value


def entropy_of_weights(w: Float[Tensor, "*r S"], hit: Bool[Tensor, "*r"]) -> Float[Tensor, "*r"]:
    """-sum p log2 p in bits, p = w / sum w, 0 to log2 S; exactly 0, with no gradient, where `hit` is False."""
    return torch.where(hit, stepfun.entropy(_or_flat(w, hit)), 0.0)


def entropy_of_bins(
    t: Float[Tensor, "*r S+1"], w: Float[Tensor, "*r S"], hit: Bool[Tensor, "*r"], bins: int
) -> Float[Tensor, "*r"]:
    """The same of the weights on `bins` equal bins from the first edge to the last, by exact overlap."""
    return entropy_of_weights(on_equal_bins(t, w, t[..., :1], t[..., -1:], bins), hit)


def entropy_of_opacity(optical_depth: Float[Tensor, "*r S"], hit: Bool[Tensor, "*r"]) -> Float[Tensor, "*r"]:
    """The same of each bin's own opacity 1 - exp(-optical depth), whatever stands before it: InfoNeRF's."""
    return entropy_of_weights(-torch.expm1(-optical_depth), hit)


def differential_entropy(
    t: Float[Tensor, "*r S+1"], w: Float[Tensor, "*r S"], hit: Bool[Tensor, "*r"]
) -> Float[Tensor, "*r"]:
    """-sum p log2(p / width) in bits, p = w / sum w: independent of how bins are cut; 0 where `hit` is False.

    log2 of the length where p is even in t, and without lower limit: minus infinity for a point.
    """
    w = _or_flat(w, hit)
    p = w / w.sum(dim=-1, keepdim=True).clamp_min(stepfun.TINY)
    width = stepfun.widths(t).clamp_min(stepfun.TINY)
    return torch.where(hit, stepfun.entropy(w) + (p * width.log2()).sum(dim=-1), 0.0)


def on_equal_bins(
    t: Float[Tensor, "*r S+1"],
    w: Float[Tensor, "*r S"],
    start: Float[Tensor, "*r 1"],
    end: Float[Tensor, "*r 1"],
    bins: int,
) -> Float[Tensor, "*r bins"]:
    """The weights on `bins` equal bins from start to end, by exact overlap."""
    share = torch.linspace(0, 1, bins + 1, dtype=t.dtype, device=t.device).expand(*t.shape[:-1], -1)
    return stepfun.resample(t, w, torch.lerp(start, end, share)).clamp_min(0)  # of rounding


def _or_flat(w: Tensor, hit: Tensor) -> Tensor:
    """Weights, and ones for rays that do not count: what is divided and logged is finite, and so is the gradient."""
    return torch.where(hit[..., None], w, 1.0)

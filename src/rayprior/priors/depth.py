"""Depth likelihood: a ray ends where its distance was measured (DS-NeRF, URF, the strategies' soft loss, and ours).

Judgements are functions of bin edges t, weights w, a known distance and its standard deviation, one value a ray; all
in working units. The lower half of this file (which rays, what is known of them, means) serves `free_space` and
`surface` too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths import stepfun
from rayprior.maths.schedules import Schedule, number
from rayprior.priors.photometric import Photometric
from rayprior.priors.term import Likelihood
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Scene

At = Literal["auto", "pixels", "keypoints"]
Estimate = Literal["mean", "raw", "left"]
Judgement = Literal["termination", "mse", "weighted", "relative", "normalised", "gaussian", "urf", "robust", "l1"]
AS_RELEASED = ("mse", "relative", "gaussian")  # DS-NeRF's code judges these without confidence
WEIGHT_FLOOR = 1e-7  # inside the logarithm of `termination`: an empty bin costs at most 16 nats
FAINT = 0.05  # opacity below which the mean of a ray is no quotient any more: its gradient would have no bound
OUTLIER = 3.0  # standard deviations from which `robust` grows linearly
WINDOW = 3.0  # URF's window is this many standard deviations to both sides


@dataclass(frozen=True)
class Depth(Likelihood):
    """Mean over the rays with a known distance of how badly they end there.

    rays       how many keypoint rays to ask for; photographed rays are those of the batch
    at         pixels: the photographed rays, with depth maps; keypoints: rays through sparse points; auto: pixels
               where a depth map covers a training view, else keypoints
    loss       termination  KL from N(distance, std), as mass in each bin, to the weights (ours): proper for any bins
               gaussian     DS-NeRF's paper, eq. 6: the same with the density's value at bin middles
               urf          squared error, and Urban Radiance Fields' line of sight: no mass before the surface
               mse, l1, relative, robust (Huber, in units of std)   of one estimated distance
               weighted, normalised   mse times confidence; and of errors over the largest distance
               An unbounded scene has bins as long as its distance: those that judge one estimate follow few far rays.
    std        standard deviation of all distances, working units; None: what is known of each
    std_scale  times that; a schedule from 5 to 1 begins with wide targets. Never less than half a bin
    estimate   mean: sum w m / sum w; raw: sum w m; left: sum w t_left, as in DS-NeRF's code
    coarse     weight of the coarse level's part
    colour     weight of the colour's squared error of keypoint rays, beside the depth's

    Confidence multiplies where it is known, except in mse, relative and gaussian.
    """

    weight: float | Schedule = 0.1
    rays: int | None = None
    at: At = "auto"
    judgement: Judgement = field(default="termination", metadata={"key": "loss"})
    std: float | None = None
    std_scale: float | Schedule = 1.0
    estimate: Estimate = "mean"
    coarse: float = 1.0
    colour: float = 1.0

    def __post_init__(self) -> None:
        if self.std is not None and not self.std > 0:
            raise ValueError(f"std is {self.std}; expected a positive length in working units, or null")

    def query(self, scene: Scene, generator: Generator) -> Query | None:
        """Keypoint rays, or None for the photographed ones. UserError where no depth is known."""
        asked = ask_for_depth(scene, self.at, self.rays, generator)
        if asked is None:
            return None
        return Query(asked.rays, {**asked.known, "colour": asked.known["rgb"]})  # photographed rays have theirs judged

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        depth = on_levels(seen, self.coarse, lambda level: self._judged(level.distribution, known))
        if "colour" not in known:
            return depth
        return depth + self.colour * Photometric(coarse=self.coarse).loss(seen, {"rgb": known["colour"]})

    def _judged(self, distribution: RayDistribution, known: Mapping[str, Tensor]) -> Tensor:
        t, w = distribution.t, distribution.w
        truth = measured(t, known, self.std, number(self.std_scale))
        distance, std = truth.distance, truth.std
        found = estimated(t, w, self.estimate)
        match self.judgement:
            case "termination":
                value = termination(t, w, distance, std)
            case "gaussian":
                value = gaussian(t, w, distance, std)
            case "urf":
                value = (found - distance).square() + line_of_sight(t, w, distance, std)
            case "mse" | "weighted":
                value = (found - distance).square()
            case "relative":
                value = ((found - distance) / distance).square()
            case "normalised":
                largest = (distance * truth.valid).amax().clamp_min(stepfun.TINY)
                value = ((found - distance) / largest).square()
            case "robust":
                value = huber((found - distance) / std)
            case "l1":
                value = (found - distance).abs()
        return truth.mean(value, confident=self.judgement not in AS_RELEASED)


# -- judgements --------------------------------------------------------------------------------------------------------


def termination(
    t: Float[Tensor, "r S+1"], w: Float[Tensor, "r S"], distance: Float[Tensor, "r"], std: Float[Tensor, "r"]
) -> Float[Tensor, "r"]:
    """sum_k p_k ln(p_k / (w_k + 1e-7)), nats, p the mass that N(distance, std) has in each bin: 0 where w = p.

    Ours, after DS-NeRF's eq. 6, which it equals for fine bins: KL from where the ray was measured to end.
    """
    p = gaussian_mass(t, distance, std)
    return (torch.xlogy(p, p) - p * (w + WEIGHT_FLOOR).log()).sum(dim=-1)


def gaussian(
    t: Float[Tensor, "r S+1"], w: Float[Tensor, "r S"], distance: Float[Tensor, "r"], std: Float[Tensor, "r"]
) -> Float[Tensor, "r"]:
    """-sum_k ln(w_k + 1e-5) exp(-(m_k - distance)^2 / (2 std^2)) width_k (DS-NeRF, eq. 6; the sum of its code)."""
    return RayDistribution(t, w).cross_entropy(distance, std)


def line_of_sight(
    t: Float[Tensor, "r S+1"], w: Float[Tensor, "r S"], distance: Float[Tensor, "r"], std: Float[Tensor, "r"]
) -> Float[Tensor, "r"]:
    """Urban Radiance Fields' near and empty losses: sum (w_k - p_k)^2 within 3 std, sum w_k^2 in front of that.

    p is the mass of N(distance, std) in each bin (the port compares a mass with a density). Bins belong where their
    middle lies. Nothing is asked behind the window.
    """
    middles, end, reach = stepfun.midpoints(t), distance[..., None], WINDOW * std[..., None]
    near = (middles - end).abs() <= reach
    empty = middles < end - reach
    missed = w - torch.where(near, gaussian_mass(t, distance, std), 0.0)
    return (missed.square() * (near | empty)).sum(dim=-1)


def huber(residual: Float[Tensor, "r"]) -> Float[Tensor, "r"]:
    """x^2 / 2 up to 3, 3 |x| - 4.5 beyond: outliers pull with bounded force (Huber 1964)."""
    size = residual.abs()
    inner = size.clamp_max(OUTLIER)
    return inner * (size - 0.5 * inner)


def estimated(t: Float[Tensor, "r S+1"], w: Float[Tensor, "r S"], estimate: Estimate = "mean") -> Float[Tensor, "r"]:
    """One distance a ray. mean: sum w m / sum w, while opacity is above 5 %; raw: sum w m; left: sum w t_left."""
    raw = (w * (t[..., :-1] if estimate == "left" else stepfun.midpoints(t))).sum(dim=-1)
    return raw / w.sum(dim=-1).clamp_min(FAINT) if estimate == "mean" else raw


def gaussian_mass(
    t: Float[Tensor, "r S+1"], distance: Float[Tensor, "r"], std: Float[Tensor, "r"]
) -> Float[Tensor, "r S"]:
    """The mass of N(distance, std) in each bin; what lies outside the edges is cut off and the rest scaled to 1."""
    x = (t - distance[..., None]) / std[..., None]
    tail = 0.5 * torch.special.erfc(x.abs() * sqrt(0.5))  # the smaller tails keep their digits far from the middle
    low, high = x[..., :-1] < 0, x[..., 1:] > 0
    one_side = (tail[..., 1:] - tail[..., :-1]).abs()
    mass = torch.where(low & high, 1 - tail[..., 1:] - tail[..., :-1], one_side)
    return mass / mass.sum(dim=-1, keepdim=True).clamp_min(stepfun.TINY)


# -- which rays, and what is known of them -----------------------------------------------------------------------------


def ask_for_depth(scene: Scene, at: At, rays: int | None, generator: Generator) -> Query | None:
    """None where the photographed rays have depth, else `rays` keypoint rays; `at` may insist on one of the two.

    Raises UserError that names the ways to get depth where there is none.
    """
    if at != "keypoints" and scene.has_depth:
        return None
    if at != "pixels" and len(scene.keypoints):
        assert rays is not None, "settled before training"
        return scene.keypoint_rays(rays, generator)
    path = scene.path or scene.name
    if at == "pixels":
        what = "no depth map covers a training view (at=pixels)"
        other = "; or leave at=auto, which finds keypoints here" if len(scene.keypoints) else ""
    elif at == "keypoints":
        what = f"{scene.keypoints.summary} (at=keypoints)"
        other = "; or leave at=auto, which finds depth maps here" if scene.has_depth else ""
    else:
        what, other = f"no depth map covers a training view, and {scene.keypoints.summary}", ""
    raise UserError(
        f"{path}: nothing tells where rays end: {what}. Get some: a COLMAP model with its points (sparse/0), depth"
        f" maps beside the pictures, or those of a trained run (rayprior depth make {path} --from RUN){other}"
    )


@dataclass(frozen=True, eq=False)
class Measured:
    """What is known of where rays end. Rays of which nothing is known hold harmless values and are not `valid`.

    std  never below half the bin in which the distance lies
    """

    distance: Float[Tensor, "r"]
    std: Float[Tensor, "r"]
    confidence: Float[Tensor, "r"]
    valid: Bool[Tensor, "r"]

    def mean(self, value: Float[Tensor, "r"], confident: bool = True) -> Tensor:
        """Mean over the valid rays of confidence x value; exactly 0 without a valid ray, and so is its gradient."""
        weight = self.confidence * self.valid if confident else self.valid.to(value.dtype)
        return (weight * value).sum() / self.valid.sum().clamp_min(1)


def measured(
    t: Float[Tensor, "r S+1"], known: Mapping[str, Tensor], std: float | None = None, std_scale: float = 1.0
) -> Measured:
    """The known `distance`, `distance_std` and `confidence` of rays with bin edges t, made safe to reckon with.

    Not valid are distances that are nan, at most 0, or outside the edges, and infinite standard deviations. std: one
    for all. A standard deviation of 0, or nan, is unknown and thus half a bin.
    """
    t = t.detach()
    distance = known["distance"].to(t)
    spread = known["distance_std"].to(t) if "distance_std" in known else torch.zeros_like(distance)
    if std is not None:
        spread = torch.full_like(distance, std)
    start, end = t[:, 0], t[:, -1]
    valid = (distance > 0) & (distance >= start) & (distance <= end) & (spread != torch.inf)
    distance = torch.where(valid, distance, 0.5 * (start + end))
    after = torch.searchsorted(t.contiguous(), distance[:, None].contiguous(), right=True).clamp(1, t.shape[1] - 1)
    half_bin = 0.5 * (t.gather(1, after) - t.gather(1, after - 1))[:, 0]
    spread = torch.where(valid, spread, 0.0).nan_to_num(0.0) * std_scale
    confidence = known["confidence"].to(t).nan_to_num(0.0) if "confidence" in known else torch.ones_like(distance)
    return Measured(distance, torch.maximum(spread, half_bin).clamp_min(1e-6), confidence, valid)


def on_levels(seen: Rendering, coarse: float, judge: Callable[[Rendering], Tensor]) -> Tensor:
    """A judgement of the finest level, plus `coarse` times that of the level that proposed its samples."""
    fine = judge(seen)
    return fine if seen.coarse is None or coarse == 0 else fine + coarse * judge(seen.coarse)

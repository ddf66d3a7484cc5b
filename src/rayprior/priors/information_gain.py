"""Information gain: neighbouring rays end in similar places (InfoNeRF, Kim et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths import stepfun
from rayprior.maths.schedules import Schedule
from rayprior.maths.space import contract_distance
from rayprior.priors.entropy import on_equal_bins
from rayprior.priors.term import Prior
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Nearby, Poses, Scene

Direction = Literal["code", "paper"]


@dataclass(frozen=True)
class InformationGain(Prior):
    """How much the end of a ray's neighbour tells beyond that of the ray itself: mean over pairs, in nats.

    rays          how many a step, ray and neighbour counted each; None: a quarter of the photographed ones
    near          the neighbour: the same pixel of a camera turned about the focus by up to `angle_deg` an axis, or up
                  to `pixels` pixels away; see `Scene.nearby_rays`
    direction     'code': KL(neighbour || ray), as released; 'paper': KL(ray || neighbour)
    of            'bins': weights on `bins` equal bins that both rays share; 'opacity': opacity of the samples, matched
                  by their index although they lie at different distances, as released
    measure       'kl', or 'wasserstein': how far, in contracted distance, mass would have to move, whatever `of` says
    floor         added to every probability, so that an end that only one of the two has costs a finite price; 1e-10 in
                  the release, where its gradient can be as large as 1e10
    min_opacity   pairs in which one ray has less count as equal (no gradient)
    on            unseen rays, or half of them photographed ones
    poses, cameras  where unseen rays come from, see `Scene.unseen_rays`

    Both rays are given gradients. Distances are contracted first, as `Distortion` has them. Raises UserError for fewer
    than 2 bins or 2 rays.
    """

    weight: float | Schedule = 1e-5
    rays: int | None = None
    near: Nearby = "orbit"
    angle_deg: float = 5.0
    pixels: int = 1
    direction: Direction = "code"
    of: Literal["bins", "opacity"] = "bins"
    bins: int = 64
    measure: Literal["kl", "wasserstein"] = "kl"
    floor: float = 1e-5
    min_opacity: float = 0.1
    on: Literal["unseen", "both"] = "unseen"
    poses: Poses = "between"
    cameras: int = 4

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise UserError(f"bins={self.bins}: on one bin all rays end alike; expected at least 2")
        if self.rays is not None and self.rays < 2:
            raise UserError(f"rays={self.rays}: a ray and its neighbour are two; expected at least 2")
        if self.pixels < 1:
            raise UserError(f"pixels={self.pixels}: expected at least 1")

    def query(self, scene: Scene, generator: Generator) -> Query:
        """Rays, then their neighbours in the same order."""
        assert self.rays is not None, "settled before training"
        pairs = self.rays // 2
        photographed = pairs // 2 if self.on == "both" else 0
        first = scene.unseen_rays(pairs - photographed, generator, self.poses, self.cameras)
        if photographed:
            first = Query.cat([scene.photo_rays(photographed, generator), first])
        second = scene.nearby_rays(first.rays, generator, self.near, self.angle_deg, self.pixels)
        return Query.cat([first, second])

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        ray, neighbour = slice(None, len(seen) // 2), slice(len(seen) // 2, None)
        opacity = seen.opacity.detach() > self.min_opacity
        hit = opacity[ray] & opacity[neighbour]
        t = contract_distance(seen.distribution.t)
        w = torch.where(hit.repeat(2)[:, None], seen.distribution.w, 1.0)  # no quotient of nothings
        if self.measure == "wasserstein":
            gain = stepfun.wasserstein(t[ray], w[ray], t[neighbour], w[neighbour])
        elif self.of == "bins":
            start = torch.minimum(t[ray, :1], t[neighbour, :1])
            end = torch.maximum(t[ray, -1:], t[neighbour, -1:])
            p, q = (on_equal_bins(t[part], w[part], start, end, self.bins) for part in (ray, neighbour))
            gain = information_gain(p, q, self.direction, self.floor)
        else:
            alpha = torch.where(hit.repeat(2)[:, None], -torch.expm1(-seen.optical_depth), 1.0)
            gain = information_gain(alpha[ray], alpha[neighbour], self.direction, self.floor)
        return torch.where(hit, gain, 0.0).mean()


def information_gain(
    ray: Float[Tensor, "*r S"], neighbour: Float[Tensor, "*r S"], direction: Direction, floor: float
) -> Float[Tensor, "*r"]:
    """sum q ln(q / p) ('code') or sum p ln(p / q) ('paper') in nats, p of the ray and q of its neighbour, each over
    its sum, plus the floor."""
    p, q = (a / a.sum(dim=-1, keepdim=True).clamp_min(stepfun.TINY) + floor for a in (ray, neighbour))
    if direction == "paper":
        p, q = q, p
    return (q * (q / p).log()).sum(dim=-1)

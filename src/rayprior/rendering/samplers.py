"""Samplers: where along a ray to look. Each proposes bin edges from what it knows of the density."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from rayprior.errors import UserError
from rayprior.fields.codes import Code
from rayprior.fields.field import Field
from rayprior.fields.space import Space
from rayprior.maths import stepfun
from rayprior.maths.draws import uniform
from rayprior.maths.schedules import Schedule, number
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Rays

Spacing = Literal["distance", "inverse"]


class Sampler(nn.Module, ABC):
    """Proposes bin edges. With a generator: training, jittered; without: deterministic."""

    config: Any  # the values it was built from; while training, with schedules resolved

    @abstractmethod
    def propose(
        self, rays: Rays, field: Field, generator: Generator | None, code: Code | None = None
    ) -> tuple[Float[Tensor, "r S+1"], Rendering | None]:
        """Edges from near to far, non-decreasing, detached; and the coarse level's rendering where one was made, in the
        light of the rays' codes."""

    def refresh(self, step: int, field: Field, generator: Generator) -> None:
        """Bring what is cached of the field up to date; called before every training step."""


@dataclass(frozen=True)
class Guide:
    """While training, part of a ray's samples stands around the distance that is known of it (`Rays.guide`).

    share       of the samples of a ray with a known distance; rays without one, and tests, are sampled as with 0
    window      half the window's width, in working units
    window_std  so many standard deviations of the known distance are added to that half
    jitter      the samples of the window are stratified; False: each stands in the middle of its stratum
    """

    share: float | Schedule = 0.0
    window: float = 0.15
    window_std: float = 0.0
    jitter: bool = True


@dataclass(frozen=True)
class Uniform:
    """Evenly spaced bins in distance, or in inverse distance (1/t = (1-s)/near + s/far); stratified in training.

    In NDC even steps are steps of inverse depth already, and `spacing` says nothing more.
    """

    samples: int = 128
    spacing: Spacing = "distance"
    guide: Guide = default(default_factory=Guide)

    def build(
        self, field: object, space: Space, compositing: Compositing, appearance: int = 0, latent: int = 0
    ) -> UniformSampler:
        """Needs no field of its own; every sampler's config is given the field's."""
        return UniformSampler(self, space, compositing)


class UniformSampler(Sampler):
    """Even bins, whatever the field."""

    def __init__(self, config: Uniform, space: Space, compositing: Compositing) -> None:
        super().__init__()
        self.config = config
        self.space = space
        self.compositing = compositing

    def propose(
        self, rays: Rays, field: Field, generator: Generator | None, code: Code | None = None
    ) -> tuple[Float[Tensor, "r S+1"], Rendering | None]:
        config, space = self.config, self.space

        def edges(bins: int | Tensor) -> Tensor:
            s = even_edges(rays, config.samples, config.spacing, space, self.compositing, generator, bins)
            return space.distances(s, rays.origins, rays.directions)

        return guided(rays, config.guide, config.samples, space, generator, edges), None


def guided(
    rays: Rays,
    guide: Guide,
    samples: int,
    space: Space,
    generator: Generator | None,
    edges: Callable[[int | Int[Tensor, "r 1"]], Float[Tensor, "r n"]],
) -> Float[Tensor, "r n"]:
    """`edges(samples)`; but of a ray whose distance is known, k = round(share x samples) stand evenly in a window
    around it, clipped to the ray, and `edges(samples - k)` is what the others would be alone. In order.

    edges  distances along the ray for this many samples, which may differ from ray to ray. The width of its answer does
           not: what is left over before the last column is replaced by the window's.

    UserError for a share outside [0, 1] or a window less than nothing.
    """
    share = 0.0 if generator is None else number(guide.share)
    if not 0 <= share <= 1:
        raise UserError(f"sampler.guide.share is {share:g}; expected a share of the samples, from 0 to 1")
    if guide.window < 0 or guide.window_std < 0:
        raise UserError(
            f"sampler.guide has window={guide.window:g} and window_std={guide.window_std:g}; expected no negative width"
        )
    count = min(round(share * samples), samples - 1)
    if count <= 0:
        return edges(samples)
    start, end = (space.distances(x[:, None], rays.origins, rays.directions) for x in space.reach(rays.near, rays.far))
    distance, std = rays.guide[:, :1], rays.guide[:, 1:]
    known = (distance > start) & (distance < end)  # not of nan
    t = edges(torch.where(known, samples - count, samples))
    half = guide.window + guide.window_std * std.nan_to_num()
    low, high = torch.maximum(distance - half, start), torch.minimum(distance + half, end)
    window = low + (high - low) * stratified(len(rays), count, generator if guide.jitter else None, like=low)
    replaced = torch.where(known, window, t[:, -1 - count : -1])
    return torch.cat([t[:, : -1 - count], replaced, t[:, -1:]], dim=1).sort(dim=1).values


def even_edges(
    rays: Rays,
    samples: int,
    spacing: Spacing,
    space: Space,
    how: Compositing,
    generator: Generator | None,
    bins: int | Int[Tensor, "r 1"] | None = None,
) -> Float[Tensor, "r S+1"]:
    """Edges of `samples` even bins, as coordinates along the ray (`Space.along`). With a generator each is moved
    uniformly between the midpoints to its neighbours (NeRF, eq. 2).

    Evaluated in the middle, bins have samples + 1 even edges, the outer two on near and far. Evaluated at the left, it
    is the `samples` points that are even, from near to far inclusive as in NeRF's code, and far stands once more at the
    end: without jitter the last bin has no length.

    bins  of each ray fewer than `samples`, for `guided`: the first `bins` columns and the last are theirs
    """
    left = how.at == "left"
    start, end = (x[:, None] for x in space.reach(rays.near, rays.far))
    share = torch.linspace(0, 1, samples if left else samples + 1, dtype=start.dtype, device=start.device)
    if isinstance(bins, Tensor):
        order = torch.arange(len(share), device=start.device)
        steps = (bins - 1).clamp_min(1) if left else bins
        share = (order / steps).to(start.dtype).clamp_max(1)
    if spacing == "inverse" and space.kind != "ndc":
        s = torch.minimum(1 / ((1 - share) / start + share / end), end)
    else:
        s = (1 - share) * start + share * end
    if generator is not None:
        middles = stepfun.midpoints(s)
        low, high = torch.cat([s[:, :1], middles], dim=1), torch.cat([middles, s[:, -1:]], dim=1)
        moved = low + (high - low) * _random(s.shape, generator, like=s)
        s = moved if left else torch.cat([s[:, :1], moved[:, 1:-1], s[:, -1:]], dim=1)
    return torch.cat([s, end], dim=1) if left else s


def stratified(rays: int, count: int, generator: Generator | None, like: Tensor) -> Float[Tensor, "r n"]:
    """`count` uniforms a ray in ascending order, one in each of as many strata; without a generator their middles."""
    order = torch.arange(count, dtype=like.dtype, device=like.device).expand(rays, -1)
    return (order + (0.5 if generator is None else _random(order.shape, generator, like))) / count


def _random(shape: Sequence[int], generator: Generator, like: Tensor) -> Tensor:
    return uniform(shape, generator, like.dtype).to(like.device)

"""Samplers: where along a ray to look. Each proposes bin edges from what it knows of the density."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from rayprior.fields.field import Field
from rayprior.fields.space import Space
from rayprior.maths import stepfun
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Rays

Spacing = Literal["distance", "inverse"]


class Sampler(nn.Module, ABC):
    """Proposes bin edges. With a generator: training, jittered; without: deterministic."""

    config: Any  # the values it was built from; while training, with schedules resolved

    @abstractmethod
    def propose(
        self, rays: Rays, field: Field, generator: Generator | None
    ) -> tuple[Float[Tensor, "r S+1"], Rendering | None]:
        """Edges from near to far, non-decreasing, detached; and the coarse level's rendering where one was made."""

    def refresh(self, step: int, field: Field, generator: Generator) -> None:
        """Bring what is cached of the field up to date; called after every training step."""


@dataclass(frozen=True)
class Uniform:
    """Evenly spaced bins in distance, or in inverse distance (1/t = (1-s)/near + s/far); stratified in training.

    In NDC even steps are steps of inverse depth already, and `spacing` says nothing more.
    """

    samples: int = 128
    spacing: Spacing = "distance"

    def build(self, field: object, space: Space, compositing: Compositing) -> UniformSampler:
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
        self, rays: Rays, field: Field, generator: Generator | None
    ) -> tuple[Float[Tensor, "r S+1"], Rendering | None]:
        s = even_edges(rays, self.config.samples, self.config.spacing, self.space, self.compositing, generator)
        return self.space.distances(s, rays.origins, rays.directions), None


def even_edges(
    rays: Rays, samples: int, spacing: Spacing, space: Space, how: Compositing, generator: Generator | None
) -> Float[Tensor, "r S+1"]:
    """Edges of `samples` even bins, as coordinates along the ray (`Space.along`). With a generator each is moved
    uniformly between the midpoints to its neighbours (NeRF, eq. 2).

    Evaluated in the middle, bins have samples + 1 even edges, the outer two on near and far. Evaluated at the left, it
    is the `samples` points that are even, from near to far inclusive as in NeRF's code, and far stands once more at the
    end: without jitter the last bin has no length.
    """
    left = how.at == "left"
    start, end = (x[:, None] for x in space.reach(rays.near, rays.far))
    share = torch.linspace(0, 1, samples if left else samples + 1, dtype=start.dtype, device=start.device)
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
    return torch.rand(*shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)

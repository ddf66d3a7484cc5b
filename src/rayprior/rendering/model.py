"""Model: field + sampler + space. The one thing that is trained, saved, loaded, viewed, evaluated."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, nn

from rayprior.fields.field import Field
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing, render_level
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.rendering import Rendering
from rayprior.rendering.samplers import Sampler, Uniform
from rayprior.scenes.rays import Rays


class Model(nn.Module):
    """`render(rays) -> Rendering`. With a generator: training (jittered samples); without: deterministic."""

    def __init__(self, field: Field, sampler: Sampler, space: Space, compositing: Compositing) -> None:
        super().__init__()
        self.field = field
        self.sampler = sampler
        self.space = space
        self.compositing = compositing

    @staticmethod
    def build(field: Grid | Mlp, sampler: Uniform | CoarseField | DensityGrid, space: Space, how: Compositing) -> Model:
        """From a settled recipe's values, with parameters drawn from torch's global generator."""
        return Model(field.build(space), sampler.build(field, space, how), space, how)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def render(self, rays: Rays, generator: Generator | None = None) -> Rendering:
        """What each ray sees, leading axis = ray."""
        t, coarse = self.sampler.propose(rays, self.field, generator)
        return render_level(self.field, rays, t, self.space, self.compositing, generator, coarse)

    @torch.no_grad()
    def render_in_chunks(self, rays: Rays, chunk: int = 1024) -> Iterator[Rendering]:
        """Renderings of consecutive chunks of many rays, without gradients: pictures in bounded memory."""
        for start in range(0, len(rays), chunk):
            yield self.render(rays[start : start + chunk].to(self.device))

    def refresh(self, step: int, generator: Generator) -> None:
        """What the sampler caches of the field is brought up to date; called before every training step."""
        self.sampler.refresh(step, self.field, generator)

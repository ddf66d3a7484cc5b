"""Model: field + sampler + space. The one thing that is trained, saved, loaded, viewed, evaluated."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, nn

from rayprior.fields.codes import Code, Codes, CodeTable, TransientMedium
from rayprior.fields.field import Field
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing, Unlit, render_level, unlit
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.rendering import Rendering
from rayprior.rendering.samplers import Sampler, Uniform
from rayprior.scenes.rays import Rays


class Model(nn.Module):
    """`render(rays) -> Rendering`. With a generator: training (jittered samples); without: deterministic."""

    def __init__(
        self,
        field: Field,
        sampler: Sampler,
        space: Space,
        compositing: Compositing,
        codes: CodeTable | None = None,
        medium: TransientMedium | None = None,
    ) -> None:
        super().__init__()
        self.field = field
        self.sampler = sampler
        self.space = space
        self.compositing = compositing
        self.codes = codes
        self.medium = medium

    @staticmethod
    def build(
        field: Grid | Mlp,
        sampler: Uniform | CoarseField | DensityGrid,
        space: Space,
        how: Compositing,
        codes: Codes | None = None,
    ) -> Model:
        """From a settled recipe's values, with parameters drawn from torch's global generator."""
        codes = codes or Codes()
        built, light = field.build(space, codes.appearance), codes.appearance
        medium = TransientMedium(codes, built.features) if codes.transient else None
        return Model(built, sampler.build(field, space, how, light), space, how, codes.build(), medium)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def render(
        self,
        rays: Rays,
        generator: Generator | None = None,
        *,
        code: Code | None = None,
        transient: bool | None = None,
    ) -> Rendering:
        """What each ray sees, leading axis = ray.

        code       instead of those of the rays' photographs
        transient  with what stands in single photographs alone; by default in training
        """
        if code is None and self.codes is not None:
            code = self.codes(rays.camera)
        with_medium = generator is not None if transient is None else transient
        t, coarse = self.sampler.propose(rays, self.field, generator, code)
        medium = self.medium if with_medium else None
        return render_level(self.field, rays, t, self.space, self.compositing, generator, coarse, code, medium)

    @torch.no_grad()
    def unlit(self, rays: Rays) -> Unlit:
        """What rays see in every light alike, without what stands in single photographs; deterministic."""
        code = None if self.codes is None else self.codes(rays.camera)
        t, _ = self.sampler.propose(rays, self.field, None, code)
        return unlit(self.field, rays, t, self.space, self.compositing)

    @torch.no_grad()
    def render_in_chunks(self, rays: Rays, chunk: int = 1024, *, transient: bool | None = None) -> Iterator[Rendering]:
        """Renderings of consecutive chunks of many rays, without gradients: pictures in bounded memory."""
        for start in range(0, len(rays), chunk):
            yield self.render(rays[start : start + chunk].to(self.device), transient=transient)

    def refresh(self, step: int, generator: Generator) -> None:
        """What the sampler caches of the field is brought up to date; called before every training step."""
        self.sampler.refresh(step, self.field, generator)

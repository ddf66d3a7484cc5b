"""Model: field + sampler + space. The one thing that is trained, saved, loaded, viewed, evaluated."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from rayprior.errors import UserError
from rayprior.fields.codes import Code, Codes, CodeTable, Posterior, TransientMedium
from rayprior.fields.field import Field
from rayprior.fields.kinds import FieldConfig
from rayprior.fields.space import Space
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing, Unlit, render_level, unlit
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.inference import Inference, Inferrer
from rayprior.rendering.rendering import Rendering
from rayprior.rendering.samplers import Sampler, Uniform
from rayprior.scenes.family import Views
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
        inferrer: Inferrer | None = None,
    ) -> None:
        super().__init__()
        self.field = field
        self.sampler = sampler
        self.space = space
        self.compositing = compositing
        self.codes = codes
        self.medium = medium
        self.inferrer = inferrer

    @staticmethod
    def build(
        field: FieldConfig,
        sampler: Uniform | CoarseField | DensityGrid,
        space: Space,
        how: Compositing,
        codes: Codes | None = None,
        inference: Inference | None = None,
    ) -> Model:
        """From a settled recipe's values, with parameters drawn from torch's global generator."""
        codes = codes or Codes()
        built = field.build(space, codes.appearance, codes.latent)
        proposing = sampler.build(field, space, how, codes.appearance, codes.latent)
        medium = TransientMedium(codes, built.features) if codes.transient else None
        inferrer = inference.build(codes.latent) if inference is not None else None
        return Model(built, proposing, space, how, codes.build(), medium, inferrer)

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

    def density(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n f"]]:
        """Density, per unit of the field's space, and feature at working-unit positions of the one scene that the
        model holds."""
        latent = None if self.codes is None else self.codes.latent
        if latent is None:
            return self.field.density(x)
        density, feature = self.field.density(x[None], None, latent)
        return density[0], feature[0]

    def infer(
        self, views: Views, generator: Generator | None = None, refinements: int | None = None
    ) -> list[Posterior]:
        """What these pictures say of the latents of their scenes, after 0, 1, ..., K refinements (`Inferrer`).

        UserError where the model infers none.
        """
        if self.inferrer is None:
            raise UserError("this run fits one scene and infers none; expected a run of nerf-vae on a family of scenes")

        def render(rays: Rays, generator: Generator | None, code: Code) -> Rendering:
            return self.render(rays, generator, code=code, transient=False)

        return self.inferrer(views, render, generator, refinements)

    @torch.no_grad()
    def unlit(self, rays: Rays) -> Unlit:
        """What rays see in every light alike, without what stands in single photographs; deterministic."""
        code = None if self.codes is None else self.codes(rays.camera)
        t, _ = self.sampler.propose(rays, self.field, None, code)
        return unlit(self.field, rays, t, self.space, self.compositing, code)

    @torch.no_grad()
    def render_in_chunks(self, rays: Rays, chunk: int = 1024, *, transient: bool | None = None) -> Iterator[Rendering]:
        """Renderings of consecutive chunks of many rays, without gradients: pictures in bounded memory."""
        for start in range(0, len(rays), chunk):
            yield self.render(rays[start : start + chunk].to(self.device), transient=transient)

    def refresh(self, step: int, generator: Generator) -> None:
        """What the sampler caches of the field is brought up to date; called before every training step."""
        self.sampler.refresh(step, self.field, generator)

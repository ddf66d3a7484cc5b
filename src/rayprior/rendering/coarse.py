"""The coarse field: a second, separate field looks first, and the samples follow what it saw (NeRF, section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as default

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from rayprior.fields.codes import Code
from rayprior.fields.field import Field
from rayprior.fields.kinds import FieldConfig
from rayprior.fields.space import Space
from rayprior.maths import stepfun
from rayprior.rendering.compositing import Compositing, render_level
from rayprior.rendering.rendering import Rendering
from rayprior.rendering.samplers import Guide, Sampler, Spacing, even_edges, guided, stratified
from rayprior.scenes.rays import Rays

FLOOR = 1e-5  # added to every weight: an empty ray is sampled evenly, and no bin is ever out of reach


@dataclass(frozen=True)
class CoarseField:
    """A field of the same kind is rendered on `coarse` even bins; `fine` more samples follow its weights, but for the
    share that a guide has."""

    coarse: int = 64
    fine: int = 128
    spacing: Spacing = "distance"
    guide: Guide = default(default_factory=Guide)

    def build(
        self, field: FieldConfig, space: Space, compositing: Compositing, appearance: int = 0, latent: int = 0
    ) -> CoarseFieldSampler:
        return CoarseFieldSampler(self, field.build(space, appearance, latent), space, compositing)


class CoarseFieldSampler(Sampler):
    """Owns the coarse field. Its rendering of the rays is returned beside the edges, for its own colour loss."""

    def __init__(self, config: CoarseField, field: Field, space: Space, compositing: Compositing) -> None:
        super().__init__()
        self.config = config
        self.field = field
        self.space = space
        self.compositing = compositing

    def propose(
        self, rays: Rays, field: Field, generator: Generator | None, code: Code | None = None
    ) -> tuple[Float[Tensor, "r S+1"], Rendering | None]:
        """coarse + fine bins: the sorted union of even edges and of the fine samples, which carry no gradient."""
        config, space = self.config, self.space
        s = even_edges(rays, config.coarse, config.spacing, space, self.compositing, generator)
        t = space.distances(s, rays.origins, rays.directions)
        coarse = render_level(self.field, rays, t, space, self.compositing, generator, code=code)

        def edges(fine: int | Tensor) -> Tensor:
            finer = self._finer(s, coarse.distribution.w, generator, fine)
            union = torch.cat([s[:, :-1], finer, s[:, -1:]], dim=1)
            return space.distances(union, rays.origins, rays.directions)

        return guided(rays, config.guide, config.fine, space, generator, edges).sort(dim=1).values, coarse

    def _finer(
        self, s: Tensor, w: Tensor, generator: Generator | None, fine: int | Int[Tensor, "r 1"] | None = None
    ) -> Float[Tensor, "r n"]:
        """Coordinates along the ray by inverse CDF of the coarse weights; `fine` of each ray, all at far after those.

        A weight seen at the left end of its bin stands for its surroundings: as in NeRF's code, its mass lies between
        the midpoints to the neighbouring points, and the first and the last point have none.
        """
        u = stratified(len(s), self.config.fine, generator, like=s)
        if self.compositing.at == "left":
            s, w = stepfun.midpoints(s[:, :-1]), w[:, 1:-1]
            if generator is None:  # evenly spaced, both ends included
                u = torch.linspace(0, 1, u.shape[1], dtype=u.dtype, device=u.device).expand_as(u)
        if isinstance(fine, Tensor):
            u = u * (self.config.fine / fine)
        return stepfun.sample(s, w + FLOOR, u)

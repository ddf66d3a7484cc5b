"""The cached density grid: one coarse memory of where density is, read along each ray to place its samples.

Ours, in the spirit of instant-ngp's occupancy grid, but a proposal and never a stop: a ray that stopped where the grid
says 'opaque' would starve what lies behind, since cell maxima overstate density beside a surface. Hence the alpha cap.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as default

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rayprior.fields.codes import Code
from rayprior.fields.field import Field
from rayprior.fields.space import Space
from rayprior.kernels.march import march
from rayprior.rendering.rendering import Rendering
from rayprior.rendering.samplers import Guide, Sampler, guided
from rayprior.scenes.rays import Rays


@dataclass(frozen=True)
class DensityGrid:
    """A grid of resolution^3 cells over field coordinates: the maximum density seen in each, decayed.

    A ray reads it in `bins`; bin alphas are capped at `cap` and padded with a share `uniform`; `samples` bins follow by
    inverse CDF. samples None: settled by the scene, 16 for a box, 24 for contracted space.
    Every `refresh_every` steps a random `refresh_share` of the cells is evaluated anew: at random, not where training
    samples fall, or what is empty by mistake stays empty.
    """

    resolution: int = 64
    bins: int = 128
    samples: int | None = None
    test_samples: int = 64
    cap: float = 0.1
    uniform: float = 0.1
    decay: float = 0.95
    refresh_every: int = 32
    refresh_share: float = 0.25
    guide: Guide = default(default_factory=Guide)

    def build(
        self, field: object, space: Space, compositing: object, appearance: int = 0, latent: int = 0
    ) -> DensityGridSampler:
        """Needs the space alone; the others are what every sampler's config is given."""
        return DensityGridSampler(self, space)


class DensityGridSampler(Sampler):
    """Owns the cells, densities in field coordinates, and reads them along each ray."""

    cells: Tensor
    reachable: Tensor

    def __init__(self, config: DensityGrid, space: Space) -> None:
        super().__init__()
        self.config = config
        self.space = space
        side = config.resolution
        self.register_buffer("cells", torch.ones(side, side, side))  # [z, y, x]
        corner = torch.arange(side) * 2 / side - 1 + 1 / side
        z, y, x = torch.meshgrid(corner, corner, corner, indexing="ij")
        inside = (
            (x * x + y * y + z * z).sqrt() < 1 + 2 / side if space.kind == "contraction" else torch.ones_like(x) > 0
        )
        self.register_buffer("reachable", inside.reshape(-1).nonzero()[:, 0], persistent=False)

    def propose(
        self, rays: Rays, field: Field, generator: Generator | None, code: Code | None = None
    ) -> tuple[Float[Tensor, "r S+1"], Rendering | None]:
        config = self.config
        count = config.test_samples if generator is None else config.samples
        assert count is not None
        u = torch.arange(count + 1).expand(len(rays), -1)
        if generator is not None:  # one shift a ray for its inner edges; the outer ones stay on near and far
            u = u + (torch.rand(len(rays), 1, generator=generator) - 0.5)
        u = u.to(rays.near)

        def edges(bins: int | Tensor) -> Tensor:
            return march(
                rays.origins, rays.directions, rays.near, rays.far, u / bins, self.cells,
                self.space.box, config.bins, config.cap, config.uniform,
            )  # fmt: skip

        return guided(rays, config.guide, count, self.space, generator, edges), None

    @torch.no_grad()
    def refresh(self, step: int, field: Field, generator: Generator) -> None:
        """Re-evaluate a random share of the cells (all of them at step 0)."""
        if step % self.config.refresh_every:
            return
        chosen, cells = self.reachable, self.cells.view(-1)
        if step > 0:
            count = int(len(chosen) * self.config.refresh_share)
            chosen = chosen[torch.randint(len(chosen), (count,), generator=generator).to(chosen.device)]
        side = self.config.resolution
        cell = torch.stack([chosen % side, chosen // side % side, chosen // side**2], dim=1)
        inside = torch.rand(len(chosen), 3, generator=generator).to(cells)
        density, _ = field.density(self.space.positions((cell + inside) * (2 / side) - 1))
        cells[chosen] = density if step == 0 else torch.maximum(cells[chosen] * self.config.decay, density)

"""The small hash grid: a multiresolution table of features and one small head (instant-ngp, Mueller et al. 2022).

Small enough that a level stays in a core's L2 cache: on a CPU that decides the speed, not the operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from rayprior.fields.encodings import appearing, spherical_harmonics
from rayprior.fields.field import Field
from rayprior.fields.space import Space
from rayprior.kernels.encode import FEATURES, encode, level_resolutions
from rayprior.kernels.unpack import unpack
from rayprior.maths.schedules import Schedule, number


@dataclass(frozen=True)
class Grid:
    """levels x 2^log2_entries entries of two features, resolutions `coarsest` to `finest` in geometric steps.

    None: settled by the scene. finest: 192 cells across a box, 512 across contracted space, of which the subject fills
    the middle; log2_entries: 16 and 15.

    head  feature  one linear layer to density and features, composited; then a small MLP a ray (contracted space)
          sh       one linear layer to density and spherical-harmonics colour, composited (objects)
          mlp      a small MLP a sample
          auto     settled by the scene: sh for a box, feature else

    degree   of the spherical harmonics by which colour depends on the direction, 0 (not at all) to 3
    visible  share of the levels that is visible, coarse ones first: 0 the coarsest alone, 1 all
    """

    levels: int = 8
    coarsest: int = 16
    finest: int | None = None
    log2_entries: int | None = None
    head: Literal["auto", "feature", "sh", "mlp"] = "auto"
    hidden: int = 32
    degree: int = 2
    visible: float | Schedule = 1.0

    def build(self, space: Space, appearance: int = 0, latent: int = 0) -> GridField:
        """appearance: length of the code that colour reads (`fields.codes`); not with head=sh, which has no network.
        A table is of one scene, and reads no latent."""
        return GridField(self, space, appearance)


class GridField(Field):
    """Density exp(x - 1) from the first output of the linear layer; the others are the feature that colour reads."""

    def __init__(self, config: Grid, space: Space, appearance: int = 0) -> None:
        super().__init__()
        if space.kind not in ("box", "contraction"):
            raise ValueError(f"a grid lives in a box or in contracted space, not in '{space.kind}'")
        self.config = config
        self.space = space
        self.deferred = config.head != "mlp"
        assert config.finest is not None
        assert config.log2_entries is not None
        self.resolutions = level_resolutions(config.levels, config.coarsest, config.finest)
        self.table = nn.Parameter(torch.empty(config.levels, 2**config.log2_entries, FEATURES).uniform_(-0.1, 0.1))
        basis = (config.degree + 1) ** 2
        width = 3 * basis if config.head == "sh" else 15
        self.features = width
        self.linear = nn.Linear(config.levels * FEATURES, 1 + width)
        if config.head != "sh":
            self.colour_net = nn.Sequential(
                nn.Linear(width + basis + appearance, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 3)
            )

    def density(
        self, x: Float[Tensor, "*b 3"], generator: Generator | None = None, latent: Tensor | None = None
    ) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b f"]]:
        encoded = encode(x.reshape(-1, 3), self.table, self.resolutions, self.space.box)
        visible = number(self.config.visible)
        if visible != 1:
            encoded = encoded * appearing(self.config.levels, visible).to(encoded).repeat_interleave(FEATURES)
        density, feature = unpack(self.linear(encoded))
        return density.view(x.shape[:-1]), feature.view(*x.shape[:-1], -1)

    def colour(
        self,
        feature: Float[Tensor, "*b f"],
        directions: Float[Tensor, "*b 3"],
        appearance: Float[Tensor, "*b a"] | None = None,
    ) -> Float[Tensor, "*b 3"]:
        basis = spherical_harmonics(directions, self.config.degree)
        if self.config.head == "sh":
            return torch.sigmoid((feature.view(*feature.shape[:-1], 3, -1) * basis[..., None, :]).sum(dim=-1))
        light = [] if appearance is None else [appearance]
        return torch.sigmoid(self.colour_net(torch.cat([feature, basis, *light], dim=-1)))

    def tables(self) -> list[nn.Parameter]:
        return [self.table]

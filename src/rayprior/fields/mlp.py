"""The frequency-encoded MLP of vanilla NeRF (Mildenhall et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from rayprior.fields.encodings import frequency
from rayprior.fields.field import Field
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule, number


@dataclass(frozen=True)
class Mlp:
    """`depth` layers of `width`; the encoded position enters again after layer `skip` (counted from 0).

    octaves, view_octaves  numbers of octaves of the encodings of position and direction; 0: the raw numbers only
    view_directions        False: colour is the same from everywhere
    density                relu (the paper's, with optional noise of `noise_std` before it) or softplus(x - 1)
    visible                share of both encodings that is visible, low frequencies first; at 0 the raw numbers alone
    """

    depth: int = 8
    width: int = 256
    skip: int = 4
    octaves: int = 10
    view_octaves: int = 4
    view_directions: bool = True
    density: Literal["relu", "softplus"] = "softplus"
    noise_std: float | Schedule = 0.0
    visible: float | Schedule = 1.0

    def build(self, space: Space, appearance: int = 0, latent: int = 0) -> MlpField:
        """appearance: length of the code that colour reads (`fields.codes`). It is of one scene, and reads no latent:
        `SceneFunction` is of many."""
        return MlpField(self, space, appearance)


class MlpField(Field):
    """Position -> trunk -> density and feature; feature and direction -> one hidden layer of half the width -> colour.

    595,844 parameters at full size. `config` may be replaced while training by one with its schedules resolved; only
    `noise_std` and `visible` are read after construction.
    """

    def __init__(self, config: Mlp, space: Space, appearance: int = 0) -> None:
        super().__init__()
        self.config = config
        self.space = space
        self.features = config.width
        encoded, width = 3 + 6 * config.octaves, config.width
        inputs = [encoded] + [width + encoded if i == config.skip + 1 else width for i in range(1, config.depth)]
        self.trunk = nn.ModuleList(nn.Linear(size, width) for size in inputs)
        self.density_head = nn.Linear(width, 1)
        if config.view_directions:
            self.feature = nn.Linear(width, width)
            self.view = nn.Linear(width + 3 + 6 * config.view_octaves + appearance, width // 2)
            self.rgb = nn.Linear(width // 2, 3)
        else:
            self.rgb = nn.Linear(width + appearance, 3)

    def density(
        self, x: Float[Tensor, "*b 3"], generator: Generator | None = None, latent: Tensor | None = None
    ) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b f"]]:
        """Density and the trunk's output, of which `colour` makes the rest: samplers never pay for colour."""
        encoded = frequency(self.space.coordinates(x), self.config.octaves, number(self.config.visible))
        h = encoded
        for i, layer in enumerate(self.trunk):
            if i == self.config.skip + 1:
                h = torch.cat([encoded, h], dim=-1)
            h = F.relu(layer(h))
        raw = self.density_head(h)[..., 0]
        std = self.config.noise_std
        if generator is not None and std:
            assert not isinstance(std, Schedule), "schedules are resolved by the training loop"
            noise = torch.randn(raw.shape, generator=generator, device=generator.device, dtype=raw.dtype)
            raw = raw + std * noise.to(raw.device)
        return (F.relu(raw) if self.config.density == "relu" else F.softplus(raw - 1)), h

    def colour(
        self,
        feature: Float[Tensor, "*b f"],
        directions: Float[Tensor, "*b 3"],
        appearance: Float[Tensor, "*b a"] | None = None,
    ) -> Float[Tensor, "*b 3"]:
        light = [] if appearance is None else [appearance]
        if not self.config.view_directions:
            return torch.sigmoid(self.rgb(torch.cat([feature, *light], dim=-1)))
        encoded = frequency(directions, self.config.view_octaves, number(self.config.visible))
        seen = torch.cat([self.feature(feature), encoded, *light], dim=-1)
        return torch.sigmoid(self.rgb(F.relu(self.view(seen))))

    def tables(self) -> list[nn.Parameter]:
        return []

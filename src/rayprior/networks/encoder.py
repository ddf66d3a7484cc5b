"""Encoder: some views of a scene, in any number and order -> what is believed of its latent: mean and deviation.

The page of NeRF-VAE (Kosiorek et al., ICML 2021) that was at hand says no sizes: these are the house's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rayprior.errors import UserError

CHANNELS = 9  # colour, origin and direction of each pixel's ray
GROUP = 8  # channels that are normalised together
LEAST_PX = 8


@dataclass(frozen=True)
class Encoder:
    """A small residual network over each view's picture and ray maps, then the mean over views.

    width    channels of the first stage; the next have twice and three times as many
    hidden   of the head of a vector latent
    spatial  the latent is 8 x 8 tokens in rows of the picture plane, one head shared by all; else one vector
    std      standard deviation of the latent that every scene starts with, before anything is learned
    """

    width: int = 32
    hidden: int = 256
    spatial: bool = False
    std: float = 0.3

    @property
    def cells(self) -> int:
        """Cells a side of the map that is left of a picture."""
        return 8 if self.spatial else 4

    @property
    def tokens(self) -> int:
        """How many tokens a latent is made of."""
        return self.cells**2 if self.spatial else 1

    def build(self, latent: int) -> SceneEncoder:
        """latent: how many numbers describe a scene. UserError where tokens cannot share them evenly."""
        if latent < 1 or latent % self.tokens:
            raise UserError(
                f"a latent of {latent} numbers cannot be shared by the encoder's {self.tokens} tokens; expected a "
                f"multiple of {self.tokens}, such as {16 * self.tokens}"
            )
        return SceneEncoder(self, latent)


class SceneEncoder(nn.Module):
    """features: the length of an embedding. About 300,000 parameters at the usual width and 128 latent numbers.

    GroupNorm, since batches mix numbers of views. A mean over views is what makes their order nothing.
    """

    def __init__(self, config: Encoder, latent: int) -> None:
        super().__init__()
        self.config = config
        one, two, three = (config.width * n for n in (1, 2, 3))
        self.view = nn.Sequential(
            nn.Conv2d(CHANNELS, one, 3, stride=2, padding=1),
            Residual(one, one, 1),
            Residual(one, two, 2),
            Residual(two, three, 1 if config.spatial else 2),
            nn.GroupNorm(groups(three), three),
            nn.ReLU(),
        )
        numbers = 2 * latent // config.tokens
        if config.spatial:
            self.narrow = nn.Identity()
            self.outputs = nn.Sequential(nn.Linear(three, numbers))
            self.features = three * config.tokens
        else:
            self.narrow = nn.Sequential(nn.Conv2d(three, config.width // 2, 1), nn.ReLU())
            self.features = config.width // 2 * config.cells**2
            self.outputs = nn.Sequential(
                nn.Linear(self.features, config.hidden), nn.ReLU(), nn.Linear(config.hidden, numbers)
            )
        last = self.outputs[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.zero_()
            last.weight[numbers // 2 :] = 0
            last.bias[numbers // 2 :] = log(config.std)

    def forward(
        self,
        rgb: Float[Tensor, "b v h w 3"],
        origins: Float[Tensor, "b v h w 3"],
        directions: Float[Tensor, "b v h w 3"],
        present: Bool[Tensor, "b v"],
    ) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Mean and logarithm of the standard deviation of each scene's latent."""
        return self.head(self.embed(rgb, origins, directions, present))

    def head(self, embedding: Float[Tensor, "b f"]) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """What an embedding says of the latent: mean and logarithm of the standard deviation."""
        tokens = embedding.unflatten(1, (self.config.tokens, -1))
        mean, log_std = self.outputs(tokens).chunk(2, dim=-1)
        return mean.flatten(start_dim=1), log_std.flatten(start_dim=1)

    def embed(
        self,
        rgb: Float[Tensor, "b v h w 3"],
        origins: Float[Tensor, "b v h w 3"],
        directions: Float[Tensor, "b v h w 3"],
        present: Bool[Tensor, "b v"],
    ) -> Float[Tensor, "b f"]:
        """The mean over present views of what the network makes of each. Views that are not present are not looked at;
        of a scene without any the embedding is 0.

        rgb in [0, 1]; origins and unit directions of the pixels' rays in working units. Token by token where the
        latent is spatial. UserError for pictures of less than 8 px.
        """
        height, width = rgb.shape[2:4]
        if min(height, width) < LEAST_PX:
            raise UserError(
                f"the encoder was shown pictures of {width} x {height} px; expected at least {LEAST_PX} px a side "
                "(it is made for 16 to 128)"
            )
        maps = torch.cat([rgb[present], origins[present], directions[present]], dim=-1)  # (n, h, w, 9)
        seen = self.view(maps.movedim(-1, 1))
        seen = self.narrow(F.adaptive_avg_pool2d(seen, self.config.cells))  # (n, c, cells, cells)
        each = seen.movedim(1, -1).flatten(start_dim=1)  # (n, f)
        spread = each.new_zeros(*present.shape, self.features).masked_scatter(present[..., None], each)
        return spread.sum(dim=1) / present.sum(dim=1, keepdim=True).clamp_min(1)


class Residual(nn.Module):
    """x + what two convolutions make of it, each after GroupNorm and ReLU (He et al. 2016, pre-activation)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(groups(before), before), nn.ReLU(), nn.Conv2d(before, after, 3, stride=stride, padding=1)
        )
        self.second = nn.Sequential(
            nn.GroupNorm(groups(after), after), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1)
        )
        same = before == after and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(before, after, 1, stride=stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h/s w/s"]:
        return self.skip(x) + self.second(self.first(x))


def groups(channels: int) -> int:
    """How many groups of channels are normalised, each by itself."""
    return channels // GROUP if channels % GROUP == 0 else 1

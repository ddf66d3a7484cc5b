"""Encoder: some views of a scene, in any number and order -> what is believed of its latent: mean and deviation.

The page of NeRF-VAE (Kosiorek et al., ICML 2021) that was at hand says no sizes: these are the house's own. Layers see
a whole picture at once: a residual convolutional network of the same cost learned the walls' colour four times slower
(docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rayprior.errors import UserError

MIDDLE, SPREAD = 0.5, 0.25  # of colours, which are brought to about zero mean and unit variance
RAYS_SIDE = 4  # how finely a view is told where its rays go: a camera without distortion needs no more
LEAST_PX = 8


@dataclass(frozen=True)
class Encoder:
    """A residual network over each view's small picture and its rays, then the mean over views, then two layers.

    side    each view's picture is averaged to side x side pixels
    hidden  width of all layers
    blocks  of two layers each, whose result is added to what they were given
    std     standard deviation of the latent that every scene starts with, before anything is learned
    """

    side: int = 16
    hidden: int = 384
    blocks: int = 2
    std: float = 0.3

    def build(self, latent: int) -> SceneEncoder:
        """latent: how many numbers describe a scene. UserError where it or one of the sizes is less than 1."""
        if latent < 1:
            raise UserError(f"codes.latent is {latent}; expected at least 1 number, such as 128")
        for name in ("side", "hidden"):
            if getattr(self, name) < 1:
                raise UserError(f"inference.encoder.{name} is {getattr(self, name)}; expected at least 1")
        return SceneEncoder(self, latent)


class SceneEncoder(nn.Module):
    """features: the length of an embedding. About a million parameters at the usual sizes.

    LayerNorm, since batches mix numbers of views. A mean over views is what makes their order nothing.
    """

    def __init__(self, config: Encoder, latent: int) -> None:
        super().__init__()
        self.config = config
        self.features = config.hidden
        self.first = nn.Linear(3 * config.side**2 + 6 * RAYS_SIDE**2, config.hidden)
        self.blocks = nn.ModuleList(Block(config.hidden) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.hidden)
        self.last = nn.Linear(config.hidden, config.hidden)
        self.outputs = nn.Linear(config.hidden, 2 * latent)
        mean, log_std = self.outputs.weight.data.split(latent)
        nn.init.normal_(mean, std=(6 / config.hidden) ** 0.5)  # of about unit variance: what drowns in the draw's noise
        log_std.zero_()  # is not read, and what is not read does not learn to say anything
        self.outputs.bias.data.zero_()[latent:] = log(config.std)

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
        mean, log_std = self.outputs(self.last(embedding).relu()).chunk(2, dim=-1)
        return mean, log_std

    def embed(
        self,
        rgb: Float[Tensor, "b v h w 3"],
        origins: Float[Tensor, "b v h w 3"],
        directions: Float[Tensor, "b v h w 3"],
        present: Bool[Tensor, "b v"],
    ) -> Float[Tensor, "b f"]:
        """The mean over present views of what the network makes of each. Views that are not present are not looked at;
        of a scene without any the embedding is 0.

        rgb in [0, 1]; origins and unit directions of the pixels' rays in working units. UserError for pictures of less
        than 8 px.
        """
        height, width = rgb.shape[2:4]
        if min(height, width) < LEAST_PX:
            raise UserError(
                f"the encoder was shown pictures of {width} x {height} px; expected at least {LEAST_PX} px a side "
                "(it is made for 16 to 128)"
            )
        each = self.look(rgb[present], origins[present], directions[present])
        spread = each.new_zeros(*present.shape, self.features).masked_scatter(present[..., None], each)
        return spread.sum(dim=1) / present.sum(dim=1, keepdim=True).clamp_min(1)

    def look(
        self, rgb: Float[Tensor, "n h w 3"], origins: Float[Tensor, "n h w 3"], directions: Float[Tensor, "n h w 3"]
    ) -> Float[Tensor, "n f"]:
        """What the network makes of each view by itself."""
        colours = shrunk((rgb - MIDDLE) / SPREAD, self.config.side)
        rays = shrunk(torch.cat([origins, directions], dim=-1), RAYS_SIDE)
        each = self.first(torch.cat([colours, rays], dim=1)).relu()
        for block in self.blocks:
            each = each + block(each)
        return self.norm(each)


class Block(nn.Sequential):
    """Two layers of what was normalised."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def shrunk(maps: Float[Tensor, "n h w c"], side: int) -> Float[Tensor, "n k"]:
    """Maps averaged to side x side (repeated where they are smaller), flat."""
    return F.adaptive_avg_pool2d(maps.movedim(-1, 1), side).flatten(start_dim=1)

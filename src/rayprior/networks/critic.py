"""Critic: square tiles of pictures -> one logit each, how much a tile looks like one of a photograph.

`residual` is StyleGAN2's discriminator (Karras et al., CVPR 2020) sized to its tile, as GANeRF (SIGGRAPH Asia 2023) has
it; `small` is three plain convolutions, for CPUs. Beside them the losses that a critic and its opponent are trained by.
Pixels are in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rayprior.errors import UserError

Kind = Literal["small", "residual"]
SLOPE = 0.2  # of the leaky ReLU
CLAMP = 256.0  # activations of the residual critic end here
WIDTH = 256  # channels of the residual critic at full side, as GANeRF has it at 64 and at 128 pixels
GROUP = 4  # tiles that are compared with each other
BLUR = (1.0, 3.0, 3.0, 1.0)  # before every second pixel is dropped


@dataclass(frozen=True)
class Critic:
    """A critic of tiles with `tile` pixels a side.

    small     any multiple of 8
    residual  a power of two, 8 to 1024; 23.41 M parameters at 64, 28.39 M at 128

    Raises UserError for another side.
    """

    kind: Kind = "small"
    tile: int = 16

    def __post_init__(self) -> None:
        if self.kind == "small" and (self.tile < 8 or self.tile % 8):
            raise UserError(f"tile={self.tile}: the small critic takes tiles with a multiple of 8 pixels a side")
        if self.kind == "residual" and self.tile not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise UserError(
                f"tile={self.tile}: the residual critic halves its tile down to 4 pixels; expected a power of two from"
                " 8 to 1024"
            )

    def build(self) -> SmallCritic | ResidualCritic:
        """With parameters drawn from torch's global generator."""
        return SmallCritic(self.tile) if self.kind == "small" else ResidualCritic(self.tile)


class SmallCritic(nn.Module):
    """Three convolutions of stride 2 and one linear layer: 0.17 M parameters for tiles of 16."""

    def __init__(self, tile: int, width: int = 32) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        self.last = nn.Linear(widths[-1] * (tile // 8) ** 2, 1)

    def forward(self, tiles: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n"]:
        x = tiles
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
        return self.last(x.flatten(1))[:, 0]


class ResidualCritic(nn.Module):
    """StyleGAN2's discriminator without labels: residual blocks down to 4 x 4, minibatch deviation, two linear layers.

    256 channels at full side, 512 below.
    """

    def __init__(self, tile: int) -> None:
        super().__init__()
        sides = [tile >> i for i in range(tile.bit_length() - 2)]  # tile, ..., 8, 4
        wide = [WIDTH if side == tile else 2 * WIDTH for side in sides]
        self.first = Equalised(3, wide[0], 1)
        self.blocks = nn.ModuleList(Block(a, b) for a, b in pairwise(wide))
        self.mixed = Equalised(wide[-1] + 1, wide[-1], 3)
        self.hidden = Equalised(wide[-1] * 16, wide[-1])
        self.last = Equalised(wide[-1], 1)

    def forward(self, tiles: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n"]:
        x = activated(self.first(tiles))
        for block in self.blocks:
            x = block(x)
        x = activated(self.mixed(torch.cat([x, minibatch_deviation(x)], dim=1)))
        x = activated(self.hidden(x.flatten(1)), clamp=None)
        return self.last(x)[:, 0]


class Block(nn.Module):
    """Two convolutions beside a linear way, both to half the side; each is scaled so that their sum keeps variance."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.same = Equalised(before, before, 3)
        self.down = Equalised(before, after, 3, stride=2)
        self.skip = Equalised(before, after, 1, bias=False)

    def forward(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n k s/2 s/2"]:
        beside = self.skip(blurred(x, padding=1, stride=2))
        x = activated(self.down(blurred(activated(self.same(x)), padding=2)))
        return (x + beside) * sqrt(0.5)


class Equalised(nn.Module):
    """A convolution, or with kernel 0 a linear layer, whose parameters are N(0, 1) and scaled by 1 / sqrt(fan in) when
    used: an optimiser that normalises gradients then moves all layers at one relative rate (Karras et al. 2018)."""

    def __init__(self, before: int, after: int, kernel: int = 0, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        shape = (after, before, kernel, kernel) if kernel else (after, before)
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None
        self.kernel, self.stride = kernel, stride
        self.gain = 1 / sqrt(before * max(kernel, 1) ** 2)

    def forward(self, x: Tensor) -> Tensor:
        if not self.kernel:
            return F.linear(x, self.weight * self.gain, self.bias)
        padding = self.kernel // 2 if self.stride == 1 else 0  # what is strided was padded by its blur
        return F.conv2d(x, self.weight * self.gain, self.bias, self.stride, padding)


def activated(x: Tensor, clamp: float | None = CLAMP) -> Tensor:
    """Leaky ReLU, scaled by sqrt 2 so that variance is kept, and cut off."""
    x = F.leaky_relu(x, SLOPE) * sqrt(2)
    return x if clamp is None else x.clamp(-clamp, clamp)


def blurred(x: Float[Tensor, "n c h w"], padding: int, stride: int = 1) -> Float[Tensor, "n c i j"]:
    """Each channel filtered by BLUR in both directions, with its sum 1, zeros around it."""
    line = torch.tensor(BLUR, dtype=x.dtype, device=x.device)
    kernel = torch.outer(line, line) / line.sum().square()
    channels = x.shape[1]
    return F.conv2d(x, kernel.expand(channels, 1, -1, -1), None, stride, padding, groups=channels)


def minibatch_deviation(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """How much the tiles of a group of 4 differ: the mean over places and channels of their standard deviation, so that
    a critic sees where its opponent makes always the same. The group is smaller where 4 does not divide the batch."""
    count = len(x)
    group = next(size for size in range(min(GROUP, count), 0, -1) if count % size == 0)
    split = x.view(group, -1, *x.shape[1:])
    deviation = (split.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # (n / group,)
    return deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])


# -- losses ------------------------------------------------------------------------------------------------------------


def critic_loss(real: Float[Tensor, "n"], made: Float[Tensor, "m"]) -> Float[Tensor, ""]:
    """mean f(-real) + mean f(made), f(x) = ln(1 + e^x): the critic's, of its logits (Goodfellow et al. 2014)."""
    return F.softplus(-real).mean() + F.softplus(made).mean()


def opponent_loss(made: Float[Tensor, "m"]) -> Float[Tensor, ""]:
    """mean f(-made): the opponent's, in the form whose gradient does not vanish where the critic is sure."""
    return F.softplus(-made).mean()


def r1(critic: nn.Module, real: Float[Tensor, "n 3 s s"]) -> Float[Tensor, ""]:
    """1/2 |d logit / d tile|^2, summed over channels and pixels of a tile, mean over tiles (Mescheder et al. 2018).

    GANeRF's code sums over the 16 tiles of a patch instead: its .2 is 3.2 here.
    """
    real = real.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
    return 0.5 * slope.square().sum(dim=(1, 2, 3)).mean()


def tiles_of(pictures: Float[Tensor, "n 3 h w"], tile: int) -> Float[Tensor, "n*k 3 s s"]:
    """Pictures cut into aligned tiles that do not overlap, row by row; sides are multiples of `tile`."""
    count, channels, height, width = pictures.shape
    cut = pictures.view(count, channels, height // tile, tile, width // tile, tile)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, tile, tile)


def finite_gradients(critic: nn.Module) -> bool:
    """Whether every gradient of the critic is finite: a step that is not must not be taken."""
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    return bool(torch.stack([g.abs().sum() for g in gradients]).isfinite().all()) if gradients else True

"""Refiners: a finished rendering -> the picture that a photograph of that view would be. Whole pictures, any size.

`Residual` is the house's: full resolution, and the rendering itself before anything is learned. `Synthesis` is stage 2
of GANeRF (Roessle et al., SIGGRAPH Asia 2023), after its authors' repository: a StyleGAN2 synthesis network without a
mapping network, told the rendering at half resolution and below.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from rayprior.errors import UserError
from rayprior.networks.critic import BLUR, SLOPE, Equalised, activated

COARSEST = 4  # pixels a side of the first block


@dataclass(frozen=True)
class Residual:
    """Picture + what a small U-shaped network adds to it; it adds exactly nothing at the start.

    width   channels at full resolution; twice at half, four times at a quarter
    blocks  residual blocks at a quarter of the resolution
    """

    width: int = 16
    blocks: int = 2

    @property
    def multiple(self) -> int:
        """Sides of pictures are filled up to a multiple of this."""
        return 4

    def build(self) -> Refiner:
        """UserError where a number is not positive."""
        if self.width < 1 or self.blocks < 0:
            raise UserError(f"net.width={self.width}, net.blocks={self.blocks}: expected at least 1 and 0")
        return Refiner(ResidualNet(self), self.multiple)


@dataclass(frozen=True)
class Synthesis:
    """The synthesis network of GANeRF's stage 2: blocks at 4, 8, ..., `resolution` pixels on a picture of that size.

    resolution  of the pictures that it is made for, a power of two; on larger ones every block is larger
    channels    of a block at r pixels: channels / r, at most `most`
    condition   features of the rendering that each block but the first is told
    """

    resolution: int = 256
    channels: int = 32_768
    most: int = 512
    condition: int = 32

    @property
    def multiple(self) -> int:
        """Sides of pictures are filled up to a multiple of this: the first block has whole pixels."""
        return self.resolution // COARSEST

    def build(self) -> Refiner:
        """UserError where the resolution is no power of two from 8 on."""
        if self.resolution < 2 * COARSEST or self.resolution & (self.resolution - 1):
            raise UserError(f"net.resolution={self.resolution}: expected a power of two from 8 on, as 256")
        return Refiner(SynthesisNet(self), self.multiple)


class Refiner(nn.Module):
    """(n, 3, h, w) in [0, 1] -> the same shape, not clipped. Mirrored at its right and lower edge to a size that `net`
    takes, and cut back."""

    def __init__(self, net: nn.Module, multiple: int) -> None:
        super().__init__()
        self.net = net
        self.multiple = multiple

    def forward(self, rgb: Float[Tensor, "n 3 h w"], generator: Generator | None = None) -> Float[Tensor, "n 3 h w"]:
        """generator: of the noise in training, where `net` has some; without one the noise is always the same."""
        height, width = rgb.shape[2:]
        return self.net(mirrored(rgb, self.multiple), generator)[:, :, :height, :width]


def mirrored(picture: Float[Tensor, "n c h w"], multiple: int) -> Float[Tensor, "n c H W"]:
    """The picture continued by reflection, as often as needed, to sides that are multiples of `multiple`."""
    for axis in (2, 3):
        side = picture.shape[axis]
        if side % multiple:
            at = _mirror(side, side + -side % multiple).to(picture.device)
            picture = picture.index_select(axis, at)
    return picture


def _mirror(side: int, total: int) -> Int[Tensor, "t"]:
    """0, 1, ..., side - 1, side - 2, ..., 1, 0, 1, ...; the outermost pixel is not repeated."""
    period = max(2 * side - 2, 1)
    at = torch.arange(total) % period
    return torch.minimum(at, period - at)


# -- ours --------------------------------------------------------------------------------------------------------------


class ResidualNet(nn.Module):
    """Three resolutions, joined by addition; no normalisation, so that a crop and its picture are treated alike."""

    def __init__(self, config: Residual) -> None:
        super().__init__()
        one, two, four = (config.width * n for n in (1, 2, 4))
        self.first = nn.Conv2d(3, one, 3, padding=1)
        self.to_half = nn.Conv2d(one, two, 3, stride=2, padding=1)
        self.to_quarter = nn.Conv2d(two, four, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(four, four, 3, padding=1) for _ in range(2)) for _ in range(config.blocks)
        )
        self.back_to_half = nn.Conv2d(four, 4 * two, 3, padding=1)
        self.back_to_full = nn.Conv2d(two, 4 * one, 3, padding=1)
        self.mix = nn.Conv2d(one, one, 3, padding=1)
        self.last = nn.Conv2d(one, 3, 3, padding=1)
        for conv in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            assert conv.bias is not None
            nn.init.kaiming_normal_(conv.weight, a=SLOPE)
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.last.weight)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def forward(self, rgb: Float[Tensor, "n 3 h w"], generator: Generator | None) -> Float[Tensor, "n 3 h w"]:
        """`generator` is not used: nothing here is random."""
        full = _leaky(self.first((2 * rgb - 1).contiguous(memory_format=torch.channels_last)))
        half = _leaky(self.to_half(full))
        x = _leaky(self.to_quarter(half))
        for first, second in self.blocks:  # type: ignore[misc]
            x = x + second(_leaky(first(x)))
        x = _leaky(half + F.pixel_shuffle(self.back_to_half(x), 2))
        x = _leaky(full + F.pixel_shuffle(self.back_to_full(x), 2))
        return rgb + self.last(_leaky(self.mix(x))) / 2


# -- the paper's -------------------------------------------------------------------------------------------------------


class SynthesisNet(nn.Module):
    """Blocks from 4 pixels on. The rendering is halved down to 4 pixels: the first block is made from its colours, each
    later one is also told features of it at the resolution that the block begins with. So the finest that is told is
    half of what is painted, and nothing passes through unchanged."""

    def __init__(self, config: Synthesis) -> None:
        super().__init__()
        channels = {COARSEST << i: 0 for i in range((config.resolution // COARSEST).bit_length())}
        channels = {r: min(config.channels // r, config.most) for r in channels}
        self.first = StyledConv(3, channels[COARSEST], number=0)
        self.first_rgb = ToRgb(channels[COARSEST])
        self.told = nn.ModuleList()
        self.grow, self.mix, self.to_rgb = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for number, (below, here) in enumerate(zip(channels, list(channels)[1:]), start=1):
            before, after = channels[below], channels[here]
            self.told.append(Equalised(3, config.condition, 3))
            self.grow.append(StyledConv(before + config.condition, after, number=2 * number - 1, enlarges=True))
            self.mix.append(StyledConv(after, after, number=2 * number))
            self.to_rgb.append(ToRgb(after))

    def forward(self, rgb: Float[Tensor, "n 3 h w"], generator: Generator | None) -> Float[Tensor, "n 3 h w"]:
        """Sides are multiples of resolution / 4."""
        halved = [2 * rgb - 1]
        for _ in self.grow:
            halved.append(F.avg_pool2d(halved[-1], 2))
        x = self.first(halved[-1], generator)
        painted = self.first_rgb(x)
        for block, (told, grow, mix, to_rgb) in enumerate(zip(self.told, self.grow, self.mix, self.to_rgb)):
            x = grow(torch.cat([x, activated(told(halved[-1 - block]))], dim=1), generator)
            x = mix(x, generator)
            painted = enlarged_twice(painted) + to_rgb(x)
        return (painted + 1) / 2


class StyledConv(nn.Module):
    """Modulated, demodulated 3x3 convolution, noise of learned strength, bias, leaky ReLU (Karras et al., CVPR 2020,
    section 2.2). The style is one learned vector for all pictures, so the weights are the same for a whole batch.

    number    of the layer: its noise without a generator is its own
    enlarges  the picture twice, then smoothed by `BLUR`
    """

    def __init__(self, before: int, after: int, *, number: int, enlarges: bool = False) -> None:
        super().__init__()
        self.number, self.enlarges = number, enlarges
        self.weight = nn.Parameter(torch.randn(after, before, 3, 3))
        self.style = nn.Parameter(torch.ones(before))
        self.bias = nn.Parameter(torch.zeros(after))
        self.noise = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "n c h w"], generator: Generator | None) -> Float[Tensor, "n k h' w'"]:
        weight = self.weight * self.style[:, None, None]
        weight = weight * (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        if self.enlarges:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # 2 h + 1 pixels
            x = _smoothed(x, gain=4.0, padding=1)
        else:
            x = F.conv2d(x, weight, padding=1)
        return activated(x + self.noise * self._noise(x, generator) + self.bias[:, None, None])

    def _noise(self, x: Tensor, generator: Generator | None) -> Float[Tensor, "n 1 h w"]:
        """Of the generator, of each picture its own; else that of this layer, of all pictures alike."""
        own = generator is None
        drawing = Generator().manual_seed(self.number) if generator is None else generator
        count, _, height, width = x.shape
        return torch.randn(1 if own else count, 1, height, width, generator=drawing).to(x)


class ToRgb(nn.Module):
    """What a block adds to the picture: a modulated 1x1 convolution without demodulation."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, before, 1, 1))
        self.style = nn.Parameter(torch.ones(before))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:
        weight = self.weight * self.style[:, None, None] / sqrt(self.weight.shape[1])
        return F.conv2d(x, weight, self.bias)


def enlarged_twice(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c H W"]:
    """Twice the size, smoothed by `BLUR`; a picture of one colour keeps it but at its edges, which are met by 0."""
    count, channels, height, width = x.shape
    spread = x.new_zeros(count, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = x
    return _smoothed(F.pad(spread, (2, 1, 2, 1)), gain=4.0, padding=0)


def _smoothed(x: Float[Tensor, "n c h w"], gain: float, padding: int) -> Tensor:
    """Each channel by the outer product of `BLUR` with itself, of sum `gain`."""
    taps = torch.tensor(BLUR, dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps)
    kernel = (kernel * gain / kernel.sum()).expand(x.shape[1], 1, len(BLUR), len(BLUR))
    return F.conv2d(x, kernel, padding=padding, groups=x.shape[1])


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


# -- sizes -------------------------------------------------------------------------------------------------------------

Scale = Literal[1, 2, 4]


def coarse_size(size: tuple[int, int], scale: Scale) -> tuple[int, int]:
    """(width, height) at which the field is rendered, for pictures of this size."""
    width, height = (max(1, round(side / scale)) for side in size)
    return width, height


def bicubic(picture: Float[Tensor, "n 3 h w"], size: tuple[int, int]) -> Float[Tensor, "n 3 H W"]:
    """The picture enlarged to (width, height); untouched where it has that size."""
    width, height = size
    if picture.shape[2:] == (height, width):
        return picture
    return F.interpolate(picture, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)

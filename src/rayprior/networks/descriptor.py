"""Descriptor networks: a picture -> a vector a pixel, so that pixels which show the same point have near vectors.

`ResNet34` is the network of Dense Object Nets (Florence et al., CoRL 2018): ResNet34 (He et al., CVPR 2016) at output
stride 8 by dilation, no pooling head, one 1x1 convolution, bilinear to the picture's size. `Small` is the house's, for
CPUs. Both take pictures in [0, 1] and normalise them inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rayprior.errors import UserError
from rayprior.networks.features import DEVIATION, MEAN

STEM = 5  # side in pixels of the small network's first convolution
DILATIONS = (1, 2, 4, 8, 4, 1)  # of its others, in pixels of the output stride
GROUPS = 8
LAST_STD = 0.01  # of the first weights of the 1x1 convolution (the Dense Object Nets code)
LAYERS = ((64, 3, 1, 1), (128, 4, 2, 1), (256, 6, 1, 2), (512, 3, 1, 4))  # ResNet34: channels, blocks, stride, dilation
UNUSED = ("fc.", "num_batches_tracked")  # of a published file of ResNet34


@dataclass(frozen=True)
class Small:
    """Dilated residual convolutions with GroupNorm, 0.06 M parameters at 32 channels.

    width      channels
    dimension  of a descriptor
    stride     1: every pixel is looked at; 2: every second, a quarter of the time, and bilinear between
    unit       descriptors have length 1
    """

    width: int = 32
    dimension: int = 3
    stride: Literal[1, 2] = 2
    unit: bool = False

    def __post_init__(self) -> None:
        _check(self.dimension, self.unit)
        if self.width < 1:
            raise UserError(f"net.width={self.width}: expected at least 1")

    @property
    def receptive_px(self) -> int:
        """Side of the square that the convolutions see of a picture; GroupNorm adds the mean and the deviation of the
        whole picture's features."""
        return STEM + 2 * self.stride * sum(DILATIONS)

    def build(self, *, pretrained: bool = True) -> DescriptorNet:
        """With parameters drawn from torch's global generator; there are no pretrained ones."""
        return DescriptorNet(SmallTrunk(self.width, self.stride), self.width, self.dimension, self.unit)


@dataclass(frozen=True)
class ResNet34:
    """The published network, 21.3 M parameters. Its output has an eighth of the picture's sides.

    weights    a file of ImageNet weights with torchvision's names, .pth or .safetensors; empty: trained from scratch.
               With it normalisation is by the file's statistics, which stay as they are: a step sees too few pictures
               for its own. Without it GroupNorm stands in their place
    dimension, unit  as of Small
    """

    weights: str = ""
    dimension: int = 3
    unit: bool = False

    def __post_init__(self) -> None:
        _check(self.dimension, self.unit)

    def build(self, *, pretrained: bool = True) -> DescriptorNet:
        """pretrained=False leaves the file of weights unread, for a network whose weights come from elsewhere.

        UserError where the file is missing, broken, or not of this network.
        """
        trunk = ResNetTrunk(frozen=bool(self.weights))
        if self.weights and pretrained:
            _fill(trunk, Path(self.weights))
        return DescriptorNet(trunk, LAYERS[-1][0], self.dimension, self.unit)


class DescriptorNet(nn.Module):
    """(b, 3, h, w) in [0, 1] -> (b, d, h, w). Pictures of any size; those of a batch do not touch each other."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, trunk: nn.Module, channels: int, dimension: int, unit: bool) -> None:
        super().__init__()
        self.dimension, self.unit = dimension, unit
        self.trunk = trunk
        self.last = nn.Conv2d(channels, dimension, 1)
        nn.init.normal_(self.last.weight, std=LAST_STD)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h w"]:
        return self.full(self.coarse(pictures), (pictures.shape[2], pictures.shape[3]))

    def coarse(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d i j"]:
        """Descriptors at the output stride; the middle of the pixel (0, 0) here is that of the square of the picture's
        first pixels."""
        normalised = (pictures - self.mean) / self.deviation
        return self._unit(self.last(self.trunk(normalised.contiguous(memory_format=torch.channels_last))))

    def full(self, coarse: Float[Tensor, "b d i j"], size: tuple[int, int]) -> Float[Tensor, "b d h w"]:
        """Those of `coarse`, bilinear at (height, width)."""
        if coarse.shape[2:] == size:
            return coarse
        return self._unit(F.interpolate(coarse, size, mode="bilinear", align_corners=False))

    def _unit(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) if self.unit else x


def _check(dimension: int, unit: bool) -> None:
    if dimension < 1 + unit:
        reason = ": of length 1 there are two such, 1 and -1" if unit and dimension == 1 else ""
        raise UserError(f"net.dimension={dimension}{reason}; expected at least {1 + unit}, as 3")


# -- ours --------------------------------------------------------------------------------------------------------------


class SmallTrunk(nn.Module):
    """A first convolution with the stride, then one residual convolution for each of `DILATIONS`."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, STEM, stride=stride, padding=STEM // 2, bias=False)
        self.first_norm = _group_norm(width)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d, bias=False) for d in DILATIONS)
        self.norms = nn.ModuleList(_group_norm(width) for _ in DILATIONS)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        x = F.relu(self.first_norm(self.first(x)))
        for conv, norm in zip(self.convs, self.norms):
            x = x + F.relu(norm(conv(x)))
        return x


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(GROUPS, channels), channels)


# -- the paper's -------------------------------------------------------------------------------------------------------


class ResNetTrunk(nn.Module):
    """ResNet34 without its head; where it would halve the picture a fourth and a fifth time it dilates instead."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = _norm(64, frozen)
        before, layers = 64, []
        for channels, blocks, stride, dilation in LAYERS:
            chain = [Block(before, channels, stride, dilation, frozen)]
            chain += [Block(channels, channels, 1, dilation, frozen) for _ in range(blocks - 1)]
            layers.append(nn.Sequential(*chain))
            before = channels
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 512 i j"]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Block(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where channels or stride change."""

    def __init__(self, before: int, after: int, stride: int, dilation: int, frozen: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = _norm(after, frozen)
        self.conv2 = nn.Conv2d(after, after, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = _norm(after, frozen)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), _norm(after, frozen))

    def forward(self, x: Float[Tensor, "b c i j"]) -> Float[Tensor, "b k i j"]:
        beside = x if self.downsample is None else self.downsample(x)
        return F.relu(beside + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class FrozenNorm(nn.Module):
    """Batch normalisation by statistics that nothing changes; its scale and shift learn."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c i j"]) -> Float[Tensor, "b c i j"]:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def _norm(channels: int, frozen: bool) -> nn.Module:
    return FrozenNorm(channels) if frozen else nn.GroupNorm(32, channels)


def _fill(trunk: ResNetTrunk, path: Path) -> None:
    """Copy a published file's weights into the network, once all are seen to fit."""
    found = _read(path)
    found = {name: value for name, value in found.items() if not name.startswith(UNUSED[0])}
    found = {name: value for name, value in found.items() if not name.endswith(UNUSED[1])}
    wanted = trunk.state_dict()
    wrong = [f"'{name}' is missing" for name in wanted if name not in found]
    wrong += [f"'{name}' is not of this network" for name in found if name not in wanted]
    wrong += [
        f"'{name}' has shape {tuple(found[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{path}: not the weights of a ResNet34 with torchvision's names: {', '.join(wrong[:3])}{more}; give that"
            " file, or leave net.weights empty to train from scratch"
        )
    trunk.load_state_dict(found)


def _read(path: Path) -> Mapping[str, Tensor]:
    """A state dict of tensors. UserError where there is none."""
    if not path.is_file():
        raise UserError(
            f"net.weights={path}: no such file; nothing is downloaded. Put a ResNet34's ImageNet weights there (.pth or"
            " .safetensors), or leave net.weights empty to train from scratch"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways: zip, pickle, EOF, safetensors' own
        lines = str(error).strip().splitlines()
        raise UserError(
            f"{path}: can't be read as weights ({type(error).__name__}: {lines[0][:120] if lines else 'no details'});"
            " replace the file"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path}: holds no state dict, tensors by name; give the weights alone, not a whole checkpoint")
    return found

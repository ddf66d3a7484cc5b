"""Features: pictures -> what a fixed network sees of them at several scales; nothing here learns.

`vgg19` is the network of Simonyan and Zisserman (2015) trained on ImageNet, where its weights are on this machine;
nothing is ever downloaded. `random` is a pyramid of random convolutions, drawn from a fixed seed: it needs no file,
sees texture at four scales, and nothing in it knows what things look like.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from rayprior.errors import UserError

Network = Literal["vgg19", "random"]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet pictures in [0, 1]
VGG_FILE = "vgg19-*.pth"
# Places of the convolutions in the published file, `features.{at}.weight`, and their channels; GANeRF compares after
# the last of each block: relu1_2, relu2_2, relu3_4, relu4_4, relu5_4.
VGG_BLOCKS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, 64), (2, 64)),
    ((5, 128), (7, 128)),
    ((10, 256), (12, 256), (14, 256), (16, 256)),
    ((19, 512), (21, 512), (23, 512), (25, 512)),
    ((28, 512), (30, 512), (32, 512), (34, 512)),
)
RANDOM_BLOCKS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, 32), (1, 32)),
    ((2, 64), (3, 64)),
    ((4, 128), (5, 128)),
    ((6, 128), (7, 128)),
)
RANDOM_SEED = 20_231_126


class Features(nn.Module):
    """`features(pictures)` -> one map a block. Parameters are frozen.

    network        which it is
    name           what it is, for protocols
    smallest_side  of pictures, in pixels: each block but the first halves its maps
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, network: Network, blocks: tuple[tuple[tuple[int, int], ...], ...], weights: dict[str, Tensor]
    ) -> None:
        """weights: `features.{at}.weight` and `.bias`. KeyError or RuntimeError where they are not of these blocks."""
        super().__init__()
        self.network: Network = network
        self.smallest_side = 2 ** (len(blocks) - 1)
        self.blocks = nn.ModuleList()
        before = 3
        for block in blocks:
            convs = nn.ModuleList()
            for at, channels in block:
                conv = nn.Conv2d(before, channels, 3, padding=1)
                conv.load_state_dict({key: weights[f"features.{at}.{key}"] for key in ("weight", "bias")})
                convs.append(conv)
                before = channels
            self.blocks.append(convs)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1))
        self.requires_grad_(False)

    @property
    def name(self) -> str:
        return NAMES[self.network]

    def forward(self, pictures: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c i j"]]:
        """What each block sees of pictures in [0, 1], finest first."""
        x = (pictures - self.mean) / self.deviation
        maps = []
        for number, convs in enumerate(self.blocks):
            if number:
                x = F.max_pool2d(x, 2) if self.network == "vgg19" else F.avg_pool2d(x, 2)
            for conv in convs:  # type: ignore[attr-defined]
                x = F.relu(conv(x))
            maps.append(x)
        return maps


NAMES: dict[Network, str] = {
    "vgg19": "VGG19 trained on ImageNet, relu1_2 to relu5_4",
    "random": f"fixed random convolutions in four blocks, seed {RANDOM_SEED}; not a trained network",
}


def features(network: Network = "random", folder: str | Path | None = None) -> Features:
    """A network, made once.

    folder  where weights are looked for, before torch hub's cache; None: RAYPRIOR_WEIGHTS, where set

    Raises:
        UserError: the weights of VGG19 are missing (names the file, the folders searched and what to do) or broken.
    """
    if network == "random":
        return _random()
    path = find_vgg19(folder)
    if path is None:
        places = " or ".join(map(str, _places(folder)))
        raise UserError(
            f"features=vgg19 needs {VGG_FILE}, looked for in {places}, and it is not there. Nothing is downloaded"
            " unasked: put the file (https://download.pytorch.org/models/ has it) into a folder and name that with"
            " RAYPRIOR_WEIGHTS, or use features=random, the fixed random convolutions that are taken otherwise"
        )
    return _vgg19(path, path.stat().st_mtime_ns)


def find_vgg19(folder: str | Path | None = None) -> Path | None:
    """The file of VGG19's weights on this machine; of several in one folder the last by name."""
    for place in _places(folder):
        files = sorted(place.glob(VGG_FILE)) if place.is_dir() else []
        if files:
            return files[-1]
    return None


def distance(
    network: Features, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"], side: int | None = None
) -> Float[Tensor, ""]:
    """Sum over blocks of the mean squared difference of what a network sees of two pictures (Johnson et al. 2016).

    side  pictures are resized to it first, as GANeRF does to 224; None: they are taken as they are
    """
    both = torch.cat([a, b])
    if side is not None and tuple(both.shape[2:]) != (side, side):
        both = F.interpolate(both, (side, side), mode="bilinear", align_corners=False, antialias=True)
    count = len(a)
    parts = [(seen[:count] - seen[count:]).square().mean() for seen in network(both)]
    return torch.stack(parts).sum()


def _places(folder: str | Path | None) -> list[Path]:
    chosen = folder if folder is not None else os.environ.get("RAYPRIOR_WEIGHTS")
    own = [] if chosen is None else [Path(chosen)]
    return [*own, Path(torch.hub.get_dir()) / "checkpoints"]


@cache
def _vgg19(path: Path, changed_ns: int) -> Features:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways: zip, pickle, EOF, missing key
        raise UserError(f"{path}: can't be read as weights ({_first_line(error)}); replace the file") from error
    try:
        return Features("vgg19", VGG_BLOCKS, dict(state))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not the weights of VGG19 ({_first_line(error)}); replace the file, or use features=random"
        ) from error


@cache
def _random() -> Features:
    """He's deviation, so that every map has the variance of the normalised picture; no biases."""
    generator, weights, before = Generator().manual_seed(RANDOM_SEED), {}, 3
    for block in RANDOM_BLOCKS:
        for at, channels in block:
            drawn = torch.randn(channels, before, 3, 3, generator=generator)
            weights[f"features.{at}.weight"] = drawn * (2 / (9 * before)) ** 0.5
            weights[f"features.{at}.bias"] = torch.zeros(channels)
            before = channels
    return Features("random", RANDOM_BLOCKS, weights)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no details'}"[:200]

"""LPIPS: distance of two pictures as a trained network sees them (Zhang et al. 2018), version 0.1 of its weights.

The topologies are written down here; nothing of torchvision is needed and nothing is ever downloaded. Weights are two
files: the network's, as torch hub keeps it, and the linear heads, as the `lpips` package ships them.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rayprior.errors import UserError

Network = Literal["alex", "vgg"]
VERSION = "0.1"
MEAN = (-0.030, -0.088, -0.188)  # of ImageNet pictures in [-1, 1], and their deviation
DEVIATION = (0.458, 0.448, 0.450)
EPS = 1e-10


@dataclass(frozen=True)
class Conv:
    """A convolution followed by a ReLU; `at` is its place in the published file (`features.{at}.weight`)."""

    at: int
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class Topology:
    """Stages, each ending where LPIPS looks. `pooled`: stages that begin with a max pool of (`pool`, stride 2)."""

    file: str
    stages: tuple[tuple[Conv, ...], ...]
    pooled: tuple[bool, ...]
    pool: int
    smallest_side: int


TOPOLOGIES: dict[str, Topology] = {
    "alex": Topology(
        "alexnet-owt-*.pth",
        ((Conv(0, 64, 11, 4, 2),), (Conv(3, 192, 5, 1, 2),), (Conv(6, 384),), (Conv(8, 256),), (Conv(10, 256),)),
        pooled=(False, True, True, False, False),
        pool=3,
        smallest_side=31,
    ),
    "vgg": Topology(
        "vgg16-*.pth",
        (
            (Conv(0, 64), Conv(2, 64)),
            (Conv(5, 128), Conv(7, 128)),
            (Conv(10, 256), Conv(12, 256), Conv(14, 256)),
            (Conv(17, 512), Conv(19, 512), Conv(21, 512)),
            (Conv(24, 512), Conv(26, 512), Conv(28, 512)),
        ),
        pooled=(False, True, True, True, True),
        pool=2,
        smallest_side=16,
    ),
}


class Lpips(nn.Module):
    """`lpips(a, b)`: 0 for equal pictures, symmetric, larger is farther. Weights are fixed."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: Network, backbone: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        """backbone: `features.{i}.weight|bias`; heads: `lin{stage}.model.1.weight` (1, channels, 1, 1). KeyError or
        RuntimeError where they are not of this network."""
        super().__init__()
        self.network = network
        self.topology = TOPOLOGIES[network]
        self.smallest_side = self.topology.smallest_side
        self.stages = nn.ModuleList()
        self.heads = nn.ParameterList()
        before = 3
        for number, stage in enumerate(self.topology.stages):
            convs = nn.ModuleList()
            for part in stage:
                conv = nn.Conv2d(before, part.channels, part.kernel, part.stride, part.padding)
                conv.load_state_dict({k: backbone[f"features.{part.at}.{k}"] for k in ("weight", "bias")})
                convs.append(conv)
                before = part.channels
            self.stages.append(convs)
            self.heads.append(nn.Parameter(heads[f"lin{number}.model.1.weight"].reshape(1, before, 1, 1).clone()))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, a: Float[Tensor, "h w 3"], b: Float[Tensor, "h w 3"]) -> Float[Tensor, ""]:
        """The distance of two pictures in [0, 1] (Zhang et al. 2018, eq. 1): unit features, squared difference weighted
        by the heads, mean over places, sum over stages."""
        both = torch.stack([a, b]).clamp(0, 1).permute(0, 3, 1, 2).to(self.mean)
        x = (both * 2 - 1 - self.mean) / self.deviation
        total = x.new_zeros(())
        for convs, pooled, head in zip(self.stages, self.topology.pooled, self.heads):
            if pooled:
                x = F.max_pool2d(x, self.topology.pool, stride=2)
            for conv in convs:  # type: ignore[attr-defined]
                x = F.relu(conv(x))
            unit = x / (x.square().sum(dim=1, keepdim=True).sqrt() + EPS)
            total = total + ((unit[:1] - unit[1:]).square() * head).sum(dim=1).mean()
        return total

    @torch.no_grad()
    def distance(self, a: Float[Tensor, "h w 3"], b: Float[Tensor, "h w 3"]) -> float | None:
        """As a number; None for pictures smaller than the network takes."""
        return float(self(a, b)) if min(a.shape[:2]) >= self.smallest_side else None


def load_lpips(network: Network, folder: str | Path | None = None) -> Lpips:
    """LPIPS with the weights of this machine.

    They are looked for in `folder` (default: RAYPRIOR_WEIGHTS, where set), then in torch hub's cache and in an
    installed `lpips` package, which is found without being imported.

    Raises:
        UserError: a file is missing (names the file, the folders searched and what to do) or is not what it should be.
    """
    topology = TOPOLOGIES[network]
    chosen = folder if folder is not None else os.environ.get("RAYPRIOR_WEIGHTS")
    own = [] if chosen is None else [Path(chosen)]
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    backbone = _find([(place, topology.file) for place in (*own, hub)])
    package = _package_weights()
    heads = _find([(place, f"{network}.pth") for place in (*own, *package)])
    if backbone is None or heads is None:
        missing = []
        if backbone is None:
            missing.append(f"{topology.file} (the network, looked for in {_listed([*own, hub])})")
        if heads is None:
            places = _listed([*own, *package]) or "an installed lpips package, which there is not"
            missing.append(f"{network}.pth (the linear heads, looked for in {places})")
        raise UserError(
            f"LPIPS ({network}) needs weight files that are not on this machine: {'; '.join(missing)}. Nothing is "
            f"downloaded unasked: put both files in one folder and name it with RAYPRIOR_WEIGHTS (the network is at "
            f"https://download.pytorch.org/models/, the heads come with `pip install --no-deps lpips`), or leave LPIPS "
            f"out"
        )
    try:
        return Lpips(network, _read(backbone), _read(heads))
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{backbone} with {heads}: not the weights of LPIPS ({network}): {_first_line(error)}; "
            f"replace the file that is wrong, or leave LPIPS out"
        ) from error


def _package_weights() -> list[Path]:
    """Where an installed `lpips` package keeps its heads; importing it would import torchvision."""
    found = importlib.util.find_spec("lpips")
    places = [] if found is None or not found.submodule_search_locations else found.submodule_search_locations
    return [Path(place) / "weights" / f"v{VERSION}" for place in places]


def _find(candidates: list[tuple[Path, str]]) -> Path | None:
    """The first file that matches; of several in one folder the last by name."""
    for place, pattern in candidates:
        files = sorted(place.glob(pattern)) if place.is_dir() else []
        if files:
            return files[-1]
    return None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways: zip, pickle, EOF, missing key
        raise UserError(f"{path}: can't be read as weights ({_first_line(error)}); replace the file") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds {type(state).__name__}, expected a dictionary of tensors; replace the file")
    return state


def _listed(places: list[Path]) -> str:
    return " or ".join(map(str, places))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no details'}"[:200]

"""Perception: distances of a set of renderings to the set of true pictures, made of nothing that training knows.

PSNR prefers what is blurred to what is sharp and slightly misplaced. These three compare how often patches, steps of
brightness and textures occur, wherever they are. None has a trained network, and none sees a colour that is the same
everywhere: that is what PSNR is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

NAMES = ("swd", "gradient_histogram", "kid_random")
SEED = 0  # of places, projections and the network
BANDS, PATCH, PATCHES, PROJECTIONS = 3, 7, 4096, 128
SMALLEST_BAND = 16  # px, the shorter side
LEAST = 1 / 255  # what 8 bits tell apart: what has no contrast is not divided by less
BINS = 1024  # for each unit of steepness
WINDOW, WINDOWS = 16, 1024
CHANNELS = (32, 64, 64)  # of the fixed random network
LUMINANCE = (0.2126, 0.7152, 0.0722)  # Rec. 709

PROTOCOL = {
    "swd": f"sliced Wasserstein distance to the true test views: {PATCH}x{PATCH} px patches of the {BANDS} finest "
    f"Laplacian bands (null below {SMALLEST_BAND} px), in deviations of the true ones; {PATCHES} patches a band at the "
    f"same random places of both, {PROJECTIONS} projections, seed {SEED}; mean of the bands",
    "gradient_histogram": "1-Wasserstein distance of the histograms of |gradient of luminance| per px, rendering to "
    f"truth, bins of 1/{BINS}; mean over views",
    "kid_random": f"KID, cubic kernel, unbiased U-statistic, to the true test views; {WINDOWS} windows of "
    f"{WINDOW}x{WINDOW} px at the same random places of both; features: means of each layer of {len(CHANNELS)} random "
    f"convolutions (3x3, stride 2, ReLU, {', '.join(map(str, CHANNELS))} channels, the first blind to flat colour; "
    f"seed {SEED}, never trained), by the true ones' size; null below {WINDOW} px",
}


@dataclass(frozen=True, eq=False)
class Pieces:
    """What is kept of one picture: patches of each band (finest first), the histogram of its gradient (sums to 1), and
    windows for the network, scaled to [-1, 1]. None where the picture is too small."""

    bands: tuple[Float[Tensor, "p 147"], ...]
    gradient: Float[Tensor, "bins"] | None
    windows: Float[Tensor, "q 3 16 16"] | None


def pieces(picture: Float[Tensor, "h w 3"], number: int, count: int) -> Pieces:
    """Of picture `number` of a set of `count`. The places depend on these two and its size alone, so that a rendering
    and its truth lend the same ones. Colours are rounded to 8 bits, as files hold them."""
    generator = Generator().manual_seed(SEED * 1_000_003 + number)
    planes = (picture.float().clamp(0, 1) * 255).round().permute(2, 0, 1) / 255  # (3, h, w)
    bands = tuple(_drawn(band, PATCH, ceil(PATCHES / count), generator).flatten(1) for band in laplacian_bands(planes))
    windows = None
    if min(planes.shape[1:]) >= WINDOW:
        windows = _drawn(planes * 2 - 1, WINDOW, ceil(WINDOWS / count), generator)
    return Pieces(bands, gradient_histogram(planes), windows)


def distances(seen: Sequence[Pieces], known: Sequence[Pieces]) -> dict[str, float | None]:
    """All three, of renderings to true pictures in the same order. 0 for equal ones; None where pictures are too small
    (a side below 16 px; gradient_histogram: below 2 px).

    swd                 Karras et al. 2018, section 5. Theirs divides each set by its own deviation, which forgives blur
                        that lowers all contrast alike; here both are divided by the true set's.
    gradient_histogram  in colour a pixel: how much steeper or flatter edges and textures are
    kid_random          Binkowski et al. 2018, section 3.2, on features of a network that nobody trained. Each layer's
                        are divided by the root of their mean square over the true set, so that no layer rules.
    """
    flat = [(a.gradient, b.gradient) for a, b in zip(seen, known, strict=True)]
    steps = [_wasserstein_of_bins(a, b) for a, b in flat if a is not None and b is not None]
    bands = min(len(one.bands) for one in (*seen, *known))
    whole = all(one.windows is not None for one in (*seen, *known))
    return {
        "swd": _swd(seen, known, bands) if bands else None,
        "gradient_histogram": sum(steps) / len(steps) if steps else None,
        "kid_random": _kid_random(seen, known) if whole else None,
    }


# -- sliced Wasserstein ------------------------------------------------------------------------------------------------


def laplacian_bands(planes: Float[Tensor, "c h w"]) -> list[Float[Tensor, "c h_k w_k"]]:
    """The finest octaves of a picture (Burt and Adelson 1983), at most `BANDS`, none with a side below 16 px. What is
    coarser than all of them is left out: a flat picture has flat bands of 0."""
    bands = []
    while len(bands) < BANDS and min(planes.shape[1:]) >= SMALLEST_BAND:
        coarse = _binomial(planes)[:, ::2, ::2]
        spread = torch.zeros_like(planes)
        spread[:, ::2, ::2] = 4 * coarse
        bands.append(planes - _binomial(spread))
        planes = coarse
    return bands


def sliced_wasserstein(
    seen: Float[Tensor, "n d"], known: Float[Tensor, "n d"], directions: Float[Tensor, "d k"]
) -> float:
    """Mean over directions of the 1-Wasserstein distance of the projections: on a line it is the mean difference of the
    sorted values. Points along one axis with deviations a and b: |a - b| sqrt(2 / pi) for Gaussians."""
    a, b = (np.sort((points @ directions).T.contiguous().numpy(), axis=1) for points in (seen, known))
    return float(np.abs(a - b).mean(dtype=np.float64))


def _swd(seen: Sequence[Pieces], known: Sequence[Pieces], bands: int) -> float:
    total = 0.0
    for band in range(bands):
        a, b = (torch.cat([one.bands[band] for one in ones]).view(-1, 3, PATCH**2) for ones in (seen, known))
        std, mean = torch.std_mean(b, dim=(0, 2), keepdim=True)  # of each channel
        a, b = (((x - mean) / std.clamp_min(LEAST)).flatten(1) for x in (a, b))
        total += sliced_wasserstein(a, b, _projections())
    return total / bands


@cache
def _projections() -> Float[Tensor, "147 k"]:
    """Unit directions, even over the sphere."""
    return F.normalize(torch.randn(3 * PATCH**2, PROJECTIONS, generator=Generator().manual_seed(SEED)), dim=0)


def _binomial(planes: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """Blurred by (1, 4, 6, 4, 1) / 16 along both sides, mirrored at the border."""
    window = planes.new_tensor([1, 4, 6, 4, 1]) / 16
    padded = F.pad(planes[:, None], (2, 2, 2, 2), mode="reflect")
    return F.conv2d(F.conv2d(padded, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))[:, 0]


def _drawn(planes: Float[Tensor, "c h w"], side: int, count: int, generator: Generator) -> Float[Tensor, "n c s s"]:
    """Squares at random places, even over all that lie inside."""
    squares = planes.unfold(1, side, 1).unfold(2, side, 1)  # (c, h', w', side, side), a view
    rows, columns = (torch.randint(n, (count,), generator=generator) for n in squares.shape[1:3])
    return squares[:, rows, columns].transpose(0, 1)


# -- gradients ---------------------------------------------------------------------------------------------------------


def gradient_histogram(planes: Float[Tensor, "3 h w"]) -> Float[Tensor, "bins"] | None:
    """Share of pixels by the length of their gradient of luminance, from forward differences, in colour a pixel; bins
    of 1 / `BINS` from 0 to sqrt 2. None where a side is below 2 px."""
    if min(planes.shape[1:]) < 2:
        return None
    grey = torch.tensordot(planes.new_tensor(LUMINANCE), planes, dims=1)  # (h, w)
    across, down = grey[:-1, 1:] - grey[:-1, :-1], grey[1:, :-1] - grey[:-1, :-1]
    place = (torch.hypot(across, down) * BINS).round().long().flatten()
    return torch.bincount(place, minlength=ceil(sqrt(2) * BINS) + 1).double() / place.numel()


def _wasserstein_of_bins(a: Float[Tensor, "bins"], b: Float[Tensor, "bins"]) -> float:
    """1-Wasserstein distance of two histograms on the same bins: the area between their cumulative sums."""
    return float((a - b).cumsum(dim=0).abs().sum() / BINS)


# -- KID ---------------------------------------------------------------------------------------------------------------


def kid(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> float:
    """Squared maximum mean discrepancy with the kernel (x y / d + 1)^3, an unbiased U-statistic (Gretton et al. 2012,
    eq. 4): mean over i != j of k(a_i, a_j) + k(b_i, b_j) - k(a_i, b_j) - k(a_j, b_i). It may be below 0.

    Rows of one place are a pair, and a pair is never compared within itself: they depend on each other, and equal sets
    are then exactly 0.
    """
    n, d = a.shape
    a, b = a.double(), b.double()
    kernel = sum(sign * (x @ y.T / d + 1) ** 3 for sign, x, y in ((1, a, a), (1, b, b), (-1, a, b), (-1, b, a)))
    assert isinstance(kernel, Tensor)
    return float((kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1)))


def random_features(windows: Float[Tensor, "n 3 16 16"]) -> list[Float[Tensor, "n c"]]:
    """Means over each window, in [-1, 1], of every channel, for each layer of the fixed random network."""
    means, x = [], windows
    for weight in _network():
        x = F.relu(F.conv2d(x, weight, stride=2))
        means.append(x.mean(dim=(2, 3)))
    return means


@cache
def _network() -> tuple[Float[Tensor, "_ _ 3 3"], ...]:
    """Normal filters with deviation sqrt(2 / inputs) (He et al. 2015), which keeps the size of features from layer to
    layer. Those of the first layer sum to 0 over each colour: a flat window has no feature."""
    generator, before, layers = Generator().manual_seed(SEED), 3, []
    for channels in CHANNELS:
        layers.append(torch.randn(channels, before, 3, 3, generator=generator) * sqrt(2 / (9 * before)))
        before = channels
    layers[0] -= layers[0].mean(dim=(2, 3), keepdim=True)
    return tuple(layers)


def _kid_random(seen: Sequence[Pieces], known: Sequence[Pieces]) -> float:
    a, b = (
        random_features(torch.cat([one.windows for one in ones if one.windows is not None])) for ones in (seen, known)
    )
    size = [layer.square().mean().sqrt().clamp_min(LEAST) for layer in b]
    return kid(*(torch.cat([layer / one for layer, one in zip(layers, size)], dim=1) for layers in (a, b)))

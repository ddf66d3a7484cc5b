"""Matching: descriptors at a pixel, the pixel whose descriptor is nearest, and how near every pixel's is.

A picture of descriptors is (h, w, d); pixels are (u, v) with centres at +0.5. Distances are Euclidean, as in Dense
Object Nets (Florence et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rayprior.errors import UserError

HEAT_WIDTH = 0.25  # of exp(-distance / width), Dense Object Nets' own heat map
ENTRIES = 1 << 22  # of a block of the table query x pixel: 32 MB


def at(descriptors: Float[Tensor, "h w d"], pixels: Float[Tensor, "r 2"]) -> Float[Tensor, "r d"]:
    """Descriptors at any place of a picture: bilinear between pixel centres, constant beyond the outermost ones."""
    height, width, dimension = descriptors.shape
    flat = descriptors.reshape(-1, dimension)
    last = torch.tensor([width - 1, height - 1], dtype=pixels.dtype, device=descriptors.device)
    place = (pixels.to(descriptors.device) - 0.5).clamp_min(0).minimum(last)
    low = place.long()
    high = (low + 1).minimum(last.long())
    across, down = (place - low).to(descriptors.dtype)[:, :, None].unbind(dim=1)  # (r, 1) each
    left_top, right_top = flat[low[:, 1] * width + low[:, 0]], flat[low[:, 1] * width + high[:, 0]]
    left_low, right_low = flat[high[:, 1] * width + low[:, 0]], flat[high[:, 1] * width + high[:, 0]]
    return torch.lerp(torch.lerp(left_top, right_top, across), torch.lerp(left_low, right_low, across), down)


def best_match(
    descriptors: Float[Tensor, "h w d"],
    queries: Float[Tensor, "r d"],
    mask: Bool[Tensor, "h w"] | None = None,
    *,
    sub_pixel: bool = False,
) -> tuple[Float[Tensor, "r 2"], Float[Tensor, "r"]]:
    """The pixel whose descriptor is nearest to each query, and its distance: exact, over all pixels or a mask's.

    sub_pixel  move the pixel to the vertex of the parabola through its squared distance and its two neighbours', along
               each axis, by at most half a pixel; the distance stays that of the pixel

    Raises UserError for queries of another dimension, a mask of another size, and one that keeps no pixel.
    """
    kept = _kept(descriptors, queries, mask)
    flat = descriptors.reshape(-1, descriptors.shape[2])
    best = torch.cat([part.argmin(dim=1) for part in _table(flat[kept], queries)])
    index = kept[best]
    width = descriptors.shape[1]
    pixel = torch.stack([index % width, index // width], dim=1).double() + 0.5
    distance = (flat[index] - queries.to(flat.device)).norm(dim=1)
    return (pixel + _vertex(descriptors, queries, index) if sub_pixel else pixel), distance


def closer_share(
    descriptors: Float[Tensor, "h w d"],
    queries: Float[Tensor, "r d"],
    distance: Float[Tensor, "r"],
    mask: Bool[Tensor, "h w"] | None = None,
) -> Float[Tensor, "r"]:
    """The share of pixels whose descriptor is closer to each query than `distance`: 0 where no rival is."""
    kept = _kept(descriptors, queries, mask)
    flat = descriptors.reshape(-1, descriptors.shape[2])[kept]
    limit = distance.to(flat.device, torch.float64).square() - _squared(queries.to(flat.device))
    parts = torch.split(limit, _rows(len(kept)))
    count = torch.cat([(part < less[:, None]).sum(dim=1) for part, less in zip(_table(flat, queries), parts)])
    return count.double() / len(kept)


def heat_map(
    descriptors: Float[Tensor, "h w d"], query: Float[Tensor, "d"], width: float = HEAT_WIDTH
) -> Float[Tensor, "h w"]:
    """exp(-distance / width) of every pixel's descriptor from one query: 1 where they are the same."""
    _check_dimension(descriptors, query[None])
    return (-(descriptors - query.to(descriptors.device)).norm(dim=2) / width).exp()


def _kept(descriptors: Tensor, queries: Tensor, mask: Tensor | None) -> Int[Tensor, "n"]:
    """Flat indices of the pixels that may be matched with."""
    _check_dimension(descriptors, queries)
    if mask is None:
        return torch.arange(descriptors.shape[0] * descriptors.shape[1], device=descriptors.device)
    if mask.shape != descriptors.shape[:2]:
        (rows, columns), (height, width) = mask.shape, descriptors.shape[:2]
        raise UserError(
            f"a mask of {columns}x{rows} pixels for descriptors of {width}x{height}; expected the same size"
        )
    kept = mask.to(descriptors.device).reshape(-1).nonzero()[:, 0]
    if len(kept) == 0:
        raise UserError(
            "the mask keeps no pixel, so there is nothing to match with; match in the whole picture instead"
        )
    return kept


def _check_dimension(descriptors: Tensor, queries: Tensor) -> None:
    if descriptors.shape[2] != queries.shape[1]:
        raise UserError(
            f"a descriptor of {queries.shape[1]} numbers against a picture whose descriptors have"
            f" {descriptors.shape[2]}: they are of two networks; describe both pictures with one"
        )


def _rows(pixels: int) -> int:
    return max(1, ENTRIES // pixels)


def _squared(x: Float[Tensor, "r d"]) -> Float[Tensor, "r"]:
    return x.double().square().sum(dim=1)


def _table(flat: Float[Tensor, "n d"], queries: Float[Tensor, "r d"]) -> Iterator[Float[Tensor, "b n"]]:
    """|c|^2 - 2 q.c of blocks of queries: the squared distance but for |q|^2, which orders no pixel.

    In float64: float32 loses distances below about 3e-4 of the descriptors' length in the difference of the squares,
    and a picture's pixels lie closer than that.
    """
    candidates = torch.cat([flat.double(), _squared(flat)[:, None]], dim=1)  # (n, d + 1)
    asked = queries.to(flat.device, torch.float64)
    for part in torch.split(asked, _rows(len(flat))):
        yield torch.cat([-2 * part, torch.ones_like(part[:, :1])], dim=1) @ candidates.T


def _vertex(descriptors: Tensor, queries: Tensor, index: Tensor) -> Float[Tensor, "r 2"]:
    """Where the parabola through three squared distances is lowest, in pixels from the middle one; 0 at borders."""
    height, width, dimension = descriptors.shape
    flat, asked = descriptors.reshape(-1, dimension).double(), queries.to(descriptors.device, torch.float64)
    offsets = []
    for place, side, step in ((index % width, width, 1), (index // width, height, width)):
        within = (place > 0) & (place < side - 1)
        before, here, after = (_squared(flat[index + within * shift] - asked) for shift in (-step, 0, step))
        bend = before - 2 * here + after
        shift = (before - after) / (2 * bend)
        offsets.append(torch.where(within & (bend > 0), shift, 0.0).clamp(-0.5, 0.5))
    return torch.stack(offsets, dim=1)

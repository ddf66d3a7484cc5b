"""Refined: a model whose finished pictures go through a network (GANeRF's second stage), or are enlarged.

A network of pictures wants whole ones, so what is asked for is recognised: all pixels of a picture, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from rayprior.networks.refiner import Scale, bicubic, coarse_size
from rayprior.rendering.model import Model
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Rays


class Refined:
    """A model whose pictures are refined: where the rays of one whole picture are asked for, row by row, their colours
    are the refiner's. All else is the model's: depth, opacity, and colours of single rays."""

    def __init__(self, model: Model, network: nn.Module | None, scale: Scale = 1) -> None:
        """network None: what is enlarged stays as it is, bicubic."""
        self.model, self.network = model, network
        self.scale: Scale = scale

    @torch.no_grad()
    def render_in_chunks(self, rays: Rays, chunk: int = 8192) -> Iterator[Rendering]:
        """Renderings of consecutive rays. A picture that is rendered smaller gives each ray its nearest pixel's."""
        size = picture_size(rays)
        if size is None:
            yield from self.model.render_in_chunks(rays, chunk)
            return
        width, height = size
        coarse = coarse_size(size, self.scale)
        parts = list(self.model.render_in_chunks(coarser(rays, size, coarse), max(1, chunk // coarse[0]) * coarse[0]))
        seen = torch.cat([part.rgb for part in parts]).view(1, coarse[1], coarse[0], 3).movedim(3, 1)
        picture = self.refined(bicubic(seen.clamp(0, 1), size))
        rgb = picture[0].movedim(0, 2).reshape(height * width, 3)
        if self.scale == 1:
            start = 0
            for part in parts:
                yield replace(part, rgb=rgb[start : start + len(part)])
                start += len(part)
            return
        nearest, first, start = _nearest(coarse, size).to(rgb.device), 0, 0
        for part in parts:
            end = int((nearest < first + len(part)).sum())  # rows are whole: what is nearest ascends from part to part
            yield replace(part[nearest[start:end] - first], rgb=rgb[start:end])
            first, start = first + len(part), end

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def refined(self, picture: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 h w"]:
        """A rendering of full size in [0, 1] -> the refiner's picture of it, clipped."""
        return picture if self.network is None else self.network(picture).clamp(0, 1)


def picture_size(rays: Rays) -> tuple[int, int] | None:
    """(width, height) where rays are those of all pixels of one picture, row by row; else None."""
    if len(rays) < 2:
        return None
    width, height = (int(last + 0.5) for last in rays.pixel[-1].tolist())
    if width * height != len(rays):
        return None
    at = torch.arange(len(rays), device=rays.pixel.device)
    grid = torch.stack([at % width, torch.div(at, width, rounding_mode="floor")], dim=1) + 0.5
    return (width, height) if torch.equal(rays.pixel, grid.to(rays.pixel)) else None


def coarser(rays: Rays, size: tuple[int, int], coarse: tuple[int, int]) -> Rays:
    """The rays of a picture of (width, height), row by row -> those of the same view with fewer pixels: directions are
    interpolated between the nearest rays, which is exact to the third order of a pixel's angle."""
    if size == coarse:
        return rays
    picked = rays[_nearest(size, coarse)]

    def between(values: Tensor) -> Tensor:
        maps = values.view(size[1], size[0], -1).movedim(2, 0)[None]
        small = F.interpolate(maps, (coarse[1], coarse[0]), mode="bilinear", align_corners=False)
        return small[0].movedim(0, 2).reshape(coarse[0] * coarse[1], *values.shape[1:])

    return replace(
        picked,
        origins=between(rays.origins),
        directions=F.normalize(between(rays.directions), dim=1),
        near=between(rays.near),
        far=between(rays.far),
        pixel=between(rays.pixel),
        guide=torch.full_like(picked.guide, torch.nan),
    )


def _nearest(size: tuple[int, int], asked: tuple[int, int]) -> Int[Tensor, "hw"]:
    """For each pixel of a picture of size `asked`, row by row, the flat index of the pixel of `size` at its place."""
    column, row = (((torch.arange(b) + 0.5) * a / b).long().clamp_max(a - 1) for a, b in zip(size, asked))
    return (row[:, None] * size[0] + column).flatten()

"""Cloud: where the rays of training pixels end, as coloured points in the capture's own units and axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.evaluation.pictures import SURFACE
from rayprior.rendering.model import Model
from rayprior.scenes.scene import Scene

POINTS = 300_000
SHARP = 0.05  # of the distance: where half of a ray's weight is spread wider, nobody knows where it ends
CHUNK = 4096


@torch.no_grad()
def surface_cloud(
    model: Model,
    scene: Scene,
    generator: Generator,
    count: int = POINTS,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Float[Tensor, "p 3"], UInt8[Tensor, "p 3"]]:
    """(position, colour) of at most `count` points: medians of the rays of `count` random training pixels.

    Left out are rays of opacity below 1/2, and those whose middle half of weight is spread over more than 5 % of the
    distance. Masked-out pixels are never drawn. float64 positions.

    Raises UserError for a count below 1, and where no ray meets a surface.
    """
    if count < 1:
        raise UserError(f"--count {count}: expected at least 1 point, for example {POINTS}")
    position, colour = [], []
    for start in range(0, count, CHUNK):
        rays = scene.photo_rays(min(CHUNK, count - start), generator).rays.to(model.device)
        seen = model.render(rays)
        quarters = torch.tensor([0.25, 0.75], device=model.device).expand(len(rays), 2)
        first, last = seen.distribution.sample(quarters.contiguous()).unbind(dim=1)
        kept = (seen.opacity >= SURFACE) & (last - first < SHARP * seen.distance)
        ends = rays.origins.double() + seen.distance[:, None].double() * rays.directions.double()
        opacity = seen.opacity[:, None]
        front = (seen.rgb - (1 - opacity) * rays.background) / opacity.clamp_min(1e-3)
        position.append(ends[kept].cpu())
        colour.append((front[kept].clamp(0, 1) * 255).round().to(torch.uint8).cpu())
        if on_progress is not None:
            on_progress(min(start + CHUNK, count), count)
    if sum(map(len, position)) == 0:
        raise UserError(
            f"{scene.path or scene.name}: the field is empty: of {count} training pixels no ray meets a surface"
            f" (opacity {SURFACE:g} or more); train it for longer"
        )
    return scene.similarity.inverse().points(torch.cat(position)), torch.cat(colour)

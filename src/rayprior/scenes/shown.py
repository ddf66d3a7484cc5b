"""Shown: pictures of a capture as an encoder is shown them, with their rays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from rayprior.scenes.family import Views
from rayprior.scenes.scene import Scene


def shown_of(scene: Scene, views: Sequence[int], size: tuple[int, int]) -> Views:
    """These views of one scene, made (width, height) large, each pixel the mean of what it covers. One scene: b = 1.

    On a random background pictures stand on white.
    """
    width, height = size
    cameras = scene.cameras[list(views)]
    cameras = cameras.scaled(torch.tensor(size).expand(len(views), 2))
    pixel = cameras.pixel_grid(0)
    camera = torch.arange(len(views)).repeat_interleave(len(pixel))
    rays = scene.rays(camera, pixel.repeat(len(views), 1), cameras=cameras)
    shape = (1, len(views), height, width)
    return Views(
        rgb=torch.stack([_resized(scene.picture(view), size) for view in views])[None],
        origins=rays.origins.view(*shape, 3),
        directions=rays.directions.view(*shape, 3),
        poses=cameras.c2w.float()[None],
        reach=torch.stack([rays.near, rays.far], dim=1).view(*shape, 2),
        background=rays.background[0],
        present=torch.ones(1, len(views), dtype=torch.bool),
    )


def _resized(picture: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    width, height = size
    if picture.shape[:2] == (height, width):
        return picture
    planes = F.interpolate(picture.permute(2, 0, 1)[None], (height, width), mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0).clamp(0, 1)

"""The corner of a room with painted walls, photographed from known places: photos for tests, no download."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rayprior.maths.poses import look_at
from rayprior.scenes.cameras import Cameras

SIZE = (320, 240)
FOCAL = 340.0


@cache
def paint(seed: int, side: int = 512) -> np.ndarray:
    """A wall full of blobs of all sizes, (side, side, 3) in 0 to 1."""
    generator = np.random.default_rng(seed)
    total = np.zeros((side, side, 3))
    for size in (4, 16, 32, 64, 128):
        for channel in range(3):
            coarse = Image.fromarray(generator.random((size, size)).astype(np.float32))
            total[:, :, channel] += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    return (total - total.min()) / np.ptp(total)


def corner_cameras(count: int, turn_only: bool = False) -> Cameras:
    """Cameras on an arc before the corner, that look into it; turn_only: all from one place, turned."""
    angle = torch.linspace(0.35, 1.2, count, dtype=torch.float64)
    place = torch.stack([2.6 * angle.cos(), 2.6 * angle.sin(), 0.9 + 0.4 * torch.sin(5 * angle)], dim=1)
    target = torch.tensor([[0.3, 0.3, 0.4]], dtype=torch.float64).repeat(count, 1)
    if turn_only:
        target[:, 0], target[:, 1] = torch.linspace(1.0, -0.4, count), torch.linspace(-0.4, 1.0, count)
        place = place[count // 2].repeat(count, 1)
    poses = torch.cat([look_at(p[None], t, torch.tensor([0.0, 0, 1]).double()) for p, t in zip(place, target)])
    centre = torch.tensor([[SIZE[0] / 2, SIZE[1] / 2]], dtype=torch.float64)
    return Cameras(
        c2w=poses,
        focal_px=torch.full((count, 2), FOCAL, dtype=torch.float64),
        centre_px=centre.repeat(count, 1),
        size=torch.tensor([SIZE] * count),
    )


def photograph(cameras: Cameras, index: int, seed: int = 0) -> np.ndarray:
    """What a camera sees of the walls x = 0, y = 0 and the floor z = 0, (h, w, 3) uint8."""
    width, height = SIZE
    pixel = cameras.pixel_grid(index).double()
    ray = cameras.directions(torch.full((len(pixel),), index), pixel).numpy()
    origin = cameras.origins[index].numpy()
    nearest, colour = np.full(len(ray), np.inf), np.zeros((len(ray), 3))
    for axis in range(3):
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = -origin[axis] / ray[:, axis]
        seen = (distance > 0) & (distance < nearest)
        spot = np.delete(origin + distance[:, None] * ray, axis, axis=1)[seen]
        wall = paint(10 * seed + axis)
        place = np.clip(spot / 2.5 * len(wall), 0, len(wall) - 1.001)
        low = place.astype(int)
        (u, v), (a, b) = low.T, (place - low).T[:, :, None]
        colour[seen] = (
            wall[u, v] * (1 - a) * (1 - b)
            + wall[u + 1, v] * a * (1 - b)
            + wall[u, v + 1] * (1 - a) * b
            + wall[u + 1, v + 1] * a * b
        )
        nearest[seen] = distance[seen]
    return np.uint8(np.rint(255 * colour)).reshape(height, width, 3)


def write_corner(folder: Path, count: int = 6, *, seed: int = 0, names: Sequence[str] | None = None) -> Cameras:
    """Photos of the corner as PNG in a folder, and the cameras that took them."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = corner_cameras(count)
    names = [f"{i:02d}.png" for i in range(count)] if names is None else names
    for i, name in enumerate(names):
        Image.fromarray(photograph(cameras, i, seed)).save(folder / name)
    return cameras

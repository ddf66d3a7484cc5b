"""Cameras that are known already: which photo has which, at its size, and as lenses that COLMAP knows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rayprior.capture.features import Lens
from rayprior.capture.intake import Photo, belonging
from rayprior.errors import UserError
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Description


def cameras_for(photos: Sequence[Photo], posed: Description) -> tuple[list[str], Cameras]:
    """The photos that a capture has cameras for, by name, and those cameras at the size of the photos.

    Raises UserError where fewer than two have one, or where photo and camera differ in shape.
    """
    found = [(photo.name, row) for photo, row in zip(photos, belonging(photos, _paths_of(posed))) if row is not None]
    names, rows = [name for name, _ in found], [row for _, row in found]
    if len(rows) < 2:
        raise UserError(
            f"--poses {posed.path}: has cameras for {len(rows)} of the {len(photos)} photos; expected at least 2 of the"
            f" same name (there: {', '.join(posed.names[:3])}, ...; here: {', '.join(p.name for p in photos[:3])}, ...)"
        )
    cameras = posed.cameras[rows]
    by_name = {photo.name: photo for photo in photos}
    size = torch.tensor([by_name[name].size for name in names])
    ratio = size / cameras.size
    skewed = ((ratio[:, 0] - ratio[:, 1]).abs() * cameras.size.max(dim=1).values > 2).nonzero()
    if len(skewed):
        i = int(skewed[0])
        raise UserError(
            f"--poses {posed.path}: the camera of {names[i]} is for {cameras.size[i].tolist()} px, the photo has"
            f" {size[i].tolist()}; expected one shape. Was the photo cropped or turned?"
        )
    return names, cameras.scaled(size)


def _paths_of(posed: Description) -> list[str]:
    """What its photos are called: paths from the folder that has them all, where they are files."""
    files = [photo for photo in posed.photos if isinstance(photo, Path)]
    top = os.path.commonpath([file.parent for file in files]) if files else ""
    pairs = zip(posed.names, posed.photos)
    return [photo.relative_to(top).as_posix() if isinstance(photo, Path) else f"{name}.png" for name, photo in pairs]


def lenses_of(cameras: Cameras, names: Sequence[str]) -> list[tuple[Lens, list[str]]]:
    """The different lenses of cameras, as COLMAP knows them, and which photos each made."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for i, name in enumerate(names):
        k = [] if cameras.distortion is None else cameras.distortion[i].tolist()
        pinhole = [*cameras.focal_px[i].tolist(), *cameras.centre_px[i].tolist()]
        if not k:
            lens = Lens("PINHOLE", tuple(pinhole))
        elif cameras.lens == "fisheye":
            lens = Lens("OPENCV_FISHEYE", tuple(pinhole + k))
        elif k[4]:
            lens = Lens("FULL_OPENCV", (*pinhole, *k, 0.0, 0.0, 0.0))
        else:
            lens = Lens("OPENCV", tuple(pinhole + k[:4]))
        groups.setdefault((lens, *cameras.size[i].tolist()), []).append(name)
    return [(key[0], members) for key, members in groups.items()]

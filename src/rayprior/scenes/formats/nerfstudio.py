"""nerfstudio's (and instant-ngp's) transforms.json: cameras with lens distortion, splits, masks and depth by file name.

Poses are taken as they stand: an `applied_transform` has been applied by whoever wrote it and is not undone.
"""

from __future__ import annotations

from collections import ChainMap
from functools import partial
from math import pi, tan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from rayprior.errors import UserError, did_you_mean
from rayprior.scenes.cameras import Cameras, Lens
from rayprior.scenes.description import DepthMaps, Description
from rayprior.scenes.formats.arrays import read_npy
from rayprior.scenes.formats.depth import read_depth
from rayprior.scenes.formats.photos import exists, inside, masks_beside, names_of, photo_listed, photo_size
from rayprior.scenes.formats.transforms import frames_of, number, pose, read_json, side_px, texts, unique

FILE = "transforms.json"
DEPTH_UNIT = 1e-3  # nerfstudio's default: depth in thousandths of the unit of the poses
MODELS: dict[str, Lens] = {
    "PINHOLE": "opencv",  # with no coefficients, as is every lens whose coefficients are all zero
    "SIMPLE_PINHOLE": "opencv",
    "SIMPLE_RADIAL": "opencv",
    "RADIAL": "opencv",
    "OPENCV": "opencv",
    "OPENCV_FISHEYE": "fisheye",
}
COEFFICIENTS = {"opencv": ("k1", "k2", "p1", "p2", "k3"), "fisheye": ("k1", "k2", "k3", "k4")}


def present(path: Path) -> bool:
    """Whether transforms.json is here."""
    return exists(path / FILE)


def describe_nerfstudio(path: Path) -> Description:
    """Frames of transforms.json, or of the JSON file that `path` names, in their order.

    Raises UserError for broken JSON, missing keys, unknown camera models, and listed names that no frame has.
    """
    source = path if path.is_file() else path / FILE
    root = source.parent
    content = read_json(source)
    frames = frames_of(content, source)
    listed = unique([frame["file_path"] for frame in frames], source)
    photos = tuple(photo_listed(root, text, source) for text in listed)
    names = names_of([photo.relative_to(root).as_posix() for photo in photos])
    masks, mask_notes = _masks(root, frames, photos, source)
    return Description(
        format="nerfstudio",
        path=source,
        names=names,
        photos=photos,
        cameras=_cameras(content, frames, photos, source),
        lists=_lists(content, root, dict(zip(photos, names)), source),
        masks=masks,
        depths=_depths(content, root, frames, source),
        notes=mask_notes,
    )


def _cameras(content: dict[str, Any], frames: list[dict[str, Any]], photos: tuple[Path, ...], source: Path) -> Cameras:
    """A frame's own value, else the value that stands once for all frames."""
    if not frames:
        raise UserError(f"{source}: 'frames' is an empty list; a scene has at least 2 photos")
    values = [ChainMap(frame, content) for frame in frames]
    lenses: list[Lens] = [_lens(value, source) for value in values]
    if len(set(lenses)) > 1:
        raise UserError(
            f"{source}: frames with fisheye and with other lenses; undistort the photos, or split the capture"
        )
    sizes = [_size(value, photo, photos, source) for value, photo in zip(values, photos)]
    focal = torch.tensor([_focal(v, size, source) for v, size in zip(values, sizes)], dtype=torch.float64)
    centre = [(number(v, "cx", source, w / 2), number(v, "cy", source, h / 2)) for v, (w, h) in zip(values, sizes)]
    lens = lenses[0]
    distortion = torch.tensor(
        [[number(v, key, source, 0.0) for key in COEFFICIENTS[lens]] for v in values], dtype=torch.float64
    )
    straight = lens == "opencv" and not bool(distortion.any())  # an undistorted lens is a pinhole, and faster
    kind: Lens = "pinhole" if straight else lens
    return Cameras(
        c2w=torch.stack([pose(frame["transform_matrix"], frame["file_path"], source) for frame in frames]),
        focal_px=focal,
        centre_px=torch.tensor(centre, dtype=torch.float64),
        size=torch.tensor(sizes),
        lens=kind,
        distortion=None if straight else distortion,
    )


def _lens(value: ChainMap[str, Any], source: Path) -> Lens:
    model = value.get("camera_model", "OPENCV_FISHEYE" if value.get("is_fisheye") is True else "OPENCV")
    if not isinstance(model, str) or model not in MODELS:
        known = did_you_mean(model, MODELS) if isinstance(model, str) else f"; choices: {', '.join(MODELS)}"
        raise UserError(
            f"{source}: 'camera_model' {model!r:.60} is not read{known}. Undistort the photos to one of them"
        )
    if MODELS[model] == "opencv" and number(value, "k4", source, 0.0) != 0:
        raise UserError(
            f"{source}: 'k4' is {value['k4']} in a camera of model {model}; only k1, k2, k3, p1, p2 are read there."
            " Undistort the photos"
        )
    return MODELS[model]


def _size(value: ChainMap[str, Any], photo: Path, photos: tuple[Path, ...], source: Path) -> tuple[int, int]:
    """The declared size, else that of the photo, else (it is missing) that of the first photo there is."""
    if value.get("w") is not None and value.get("h") is not None:
        return side_px(value, "w", source), side_px(value, "h", source)
    there = next((p for p in (photo, *photos) if exists(p)), None)
    if there is None:
        raise UserError(f"{source}: states no 'w' and 'h', and none of its photos is there ({photo}); add them")
    return photo_size(there)


def _focal(value: ChainMap[str, Any], size: tuple[int, int], source: Path) -> tuple[float, float]:
    """fl_x, fl_y in pixels, or the angles of view; one direction stands for the other (square pixels)."""
    found = []
    for key, angle_key, side in (("fl_x", "camera_angle_x", size[0]), ("fl_y", "camera_angle_y", size[1])):
        if value.get(key) is not None:
            found.append(number(value, key, source, low=0))
        elif value.get(angle_key) is not None:
            found.append(side / 2 / tan(number(value, angle_key, source, low=0, high=pi - 1e-6) / 2))
        else:
            found.append(None)
    x, y = found[0] or found[1], found[1] or found[0]
    if x is None or y is None:
        raise UserError(f"{source}: has no focal length; add 'fl_x' (pixels), or 'camera_angle_x' (radians)")
    return x, y


def _lists(content: dict[str, Any], root: Path, names: dict[Path, str], source: Path) -> dict[str, tuple[str, ...]]:
    lists = {}
    for split in ("train", "val", "test"):
        key = f"{split}_filenames"
        listed = texts(content, key, source)
        if listed is None:
            continue
        paths = [photo_listed(root, text, source) for text in unique(list(listed), source)]
        for text, photo in zip(listed, paths):
            if photo not in names:
                choices = [p.relative_to(root).as_posix() for p in names]
                close = did_you_mean(text, choices) if len(choices) < 1000 else ""
                suggestion = close if close.startswith("; did") else ""
                raise UserError(f"{source}: '{key}' names {text!r}, which no frame has{suggestion}; correct the list")
        lists[split] = tuple(names[photo] for photo in paths)
    return lists


def _masks(
    root: Path, frames: list[dict[str, Any]], photos: tuple[Path, ...], source: Path
) -> tuple[tuple[Path | None, ...] | None, tuple[str, ...]]:
    """`mask_path` of the frames, else the masks of a folder beside the photos."""
    listed = _paths(root, frames, "mask_path", source)
    if not any(listed):
        return masks_beside(root, photos) if photos else (None, ())
    without = sum(path is None for path in listed)
    return listed, (f"{without} frames have no mask_path and are kept whole",) if without else ()


def _depths(content: dict[str, Any], root: Path, frames: list[dict[str, Any]], source: Path) -> DepthMaps | None:
    files = _paths(root, frames, "depth_file_path", source)
    if not any(files):
        return None
    unit = number(content, "depth_unit_scale_factor", source, DEPTH_UNIT, low=0)
    return DepthMaps(read=partial(_read_depth, files, unit), has=tuple(file is not None for file in files))


def _read_depth(files: tuple[Path | None, ...], unit: float, index: int) -> Float32[np.ndarray, "h w"]:
    """16-bit PNG or .npy, in counts of `unit`; 0 and what is not finite are unknown."""
    file = files[index]
    if file is None:
        raise ValueError(f"frame {index} has no depth map")
    if file.suffix != ".npy":
        return read_depth(file, unit)
    depth = read_npy(file)
    depth = depth[..., 0] if depth.ndim == 3 and depth.shape[2] == 1 else depth
    if depth.ndim != 2 or depth.dtype.kind not in "fiu":
        raise UserError(f"{file}: is {depth.dtype} {depth.shape}; expected a depth map (h, w) of numbers")
    depth = depth.astype(np.float32) * np.float32(unit)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def _paths(root: Path, frames: list[dict[str, Any]], key: str, source: Path) -> tuple[Path | None, ...]:
    """The files that frames name under `key`; None where they name none."""
    paths = []
    for frame in frames:
        text = frame.get(key)
        if text is not None and not isinstance(text, str):
            raise UserError(f"{source}: {key!r} of frame {frame['file_path']!r} is {text!r:.60}; expected text")
        paths.append(None if text is None else inside(root, text, source))
    return tuple(paths)

"""NeRF's synthetic scenes (Mildenhall et al. 2020): transforms_train/val/test.json with RGBA, or the same in one .npz.

Their convention: the object within +-1.5, cameras at distance 4, near and far 2 and 6 in z-depth. Captures that only
borrow the file names (cameras elsewhere) get none of these numbers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from math import pi, tan
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths.poses import opencv_from_opengl
from rayprior.maths.space import Box, Similarity
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import DepthMaps, Description
from rayprior.scenes.formats.arrays import npz_names, read_npz
from rayprior.scenes.formats.photos import exists, names_of, photo_listed, photo_size, read_grey
from rayprior.scenes.formats.transforms import distances_from_z, frames_of, number, pose, read_json, unique

LISTS = ("train", "val", "test")
TRAIN_FILE = "transforms_train.json"
NEAR_Z, FAR_Z = 2.0, 6.0
BOX = Box((-1.5, -1.5, -1.5), (1.5, 1.5, 1.5))
DEPTH_RANGE = 8.0  # the depth pictures: distance = 8 (1 - px / 255), px 0 = background


# -- JSON --------------------------------------------------------------------------------------------------------------


def present(path: Path) -> bool:
    """Whether transforms_train.json is here."""
    return exists(path / TRAIN_FILE)


def describe_blender(path: Path) -> Description:
    """Frames of the two or three JSON files, in their order; every list is one of the capture's own splits.

    Raises UserError for broken JSON, missing keys, and where no photo is there to tell the size.
    """
    listed: dict[str, list[str]] = {}
    poses, angles, source_of = [], [], []
    for split in LISTS:
        source = path / f"transforms_{split}.json"
        if split != "train" and not exists(source):
            continue
        content = read_json(source)
        frames = frames_of(content, source)
        angles += [number(content, "camera_angle_x", source, low=0, high=pi - 1e-6)] * len(frames)
        poses += [pose(frame["transform_matrix"], frame["file_path"], source) for frame in frames]
        source_of += [source] * len(frames)
        listed[split] = unique([frame["file_path"] for frame in frames], source)
    order = [text for split in listed.values() for text in split]
    photos = [photo_listed(path, text, source) for text, source in zip(order, source_of)]
    # a frame that two lists share (val = test in some exports) is one frame
    first = {photo: position for position, photo in reversed(list(enumerate(photos)))}
    keep = sorted(first.values())
    names = dict(zip((photos[i] for i in keep), names_of([photos[i].relative_to(path).as_posix() for i in keep])))
    cameras = _cameras([poses[i] for i in keep], [angles[i] for i in keep], _size([photos[i] for i in keep], path))
    starts = dict(zip(listed, np.cumsum([0, *map(len, listed.values())]).tolist()))
    return _in_convention(
        Description(
            format="blender",
            path=path / TRAIN_FILE,
            names=tuple(names.values()),
            photos=tuple(names),
            cameras=cameras,
            lists={s: tuple(names[photos[starts[s] + i]] for i in range(len(texts))) for s, texts in listed.items()},
            depths=_depths(list(names)),
        )
    )


def _size(photos: list[Path], path: Path) -> tuple[int, int]:
    """The picture size, which these files don't state: that of the first photo that is there."""
    there = next((photo for photo in photos if exists(photo)), None)
    if there is None:
        what = f"{photos[0]} and the others are missing" if photos else "they list no frame"
        raise UserError(f"{path / TRAIN_FILE}: none of the {len(photos)} listed photos is there ({what}); add them")
    return photo_size(there)


def _cameras(poses: list[Tensor], angles: list[float], size: tuple[int, int]) -> Cameras:
    """Square pixels, centred principal point, focal length from the horizontal angle of view."""
    width, height = size
    focal = torch.tensor([width / 2 / tan(angle / 2) for angle in angles], dtype=torch.float64)
    count = len(poses)
    return Cameras(
        c2w=torch.stack(poses),
        focal_px=focal[:, None].expand(count, 2).clone(),
        centre_px=torch.tensor([[width / 2, height / 2]], dtype=torch.float64).expand(count, 2).clone(),
        size=torch.tensor([[width, height]]).expand(count, 2).clone(),
    )


def _depths(photos: list[Path]) -> DepthMaps | None:
    """`r_8_depth_0001.png` beside `r_8.png`. They hold the distance along the ray, although z is what is said of them:
    a field of the photographs agrees with them so to 0.2 % at every angle (docs/log.md)."""
    beside: dict[Path, list[Path]] = {}
    for folder in {photo.parent for photo in photos}:
        for file in sorted(folder.glob("*_depth_*.png")) if folder.is_dir() else ():
            beside.setdefault(folder / re.sub(r"_depth_\d*$", "", file.stem), []).append(file)
    files = tuple(beside[p.with_suffix("")][0] if p.with_suffix("") in beside else None for p in photos)
    if not any(files):
        return None
    return DepthMaps(read=partial(_read_depth, files), has=tuple(file is not None for file in files), is_distance=True)


def _read_depth(files: tuple[Path | None, ...], index: int) -> Float[np.ndarray, "h w"]:
    file = files[index]
    if file is None:
        raise ValueError(f"frame {index} has no depth map")
    value = read_grey(file).astype(np.float32)
    return np.where(value > 0, DEPTH_RANGE * (1 - value / 255), np.nan).astype(np.float32)


# -- the convention ----------------------------------------------------------------------------------------------------


def _in_convention(description: Description) -> Description:
    """Adds units, bounds and box of the synthetic scenes, if the cameras stand where those stand."""
    distance = description.cameras.origins.norm(dim=1)
    if len(distance) == 0 or not bool(((distance > NEAR_Z) & (distance < FAR_Z)).all()):
        note = "cameras are not 2 to 6 from the origin, as in NeRF's synthetic scenes: bounds come from poses"
        return replace(description, depths=None, notes=(*description.notes, note))
    bounds = distances_from_z(NEAR_Z, FAR_Z, description.cameras)
    note = f"bounds of NeRF's synthetic scenes: z {NEAR_Z:g} to {FAR_Z:g}, distances {bounds[0]:g} to {bounds[1]:.3g}"
    return replace(description, bounds=bounds, box=BOX, similarity=Similarity(), notes=(*description.notes, note))


# -- npz ---------------------------------------------------------------------------------------------------------------


def present_npz(path: Path) -> bool:
    """Whether an npz file with pictures, poses and focal is here."""
    return bool(_npz_scenes(path))


def describe_npz(path: Path) -> Description:
    """Pictures, poses and focal in one file: images_train, poses_train, ... or images, poses; focal in pixels.

    Raises UserError where a folder holds several such files, or where arrays don't fit together.
    """
    scenes = [path] if path.is_file() else _npz_scenes(path)
    if len(scenes) != 1:
        found = ", ".join(p.name for p in scenes) or "none"
        raise UserError(
            f"{path}: expected one .npz scene, found {len(scenes)} ({found}); name the file: {path}/NAME.npz"
        )
    file = scenes[0]
    parts = [s for s in LISTS if f"images_{s}" in npz_names(file)]
    suffixes = {split: f"_{split}" for split in parts} if parts else {"": ""}
    images, poses, names, lists = [], [], [], {}
    for split, suffix in suffixes.items():
        arrays = read_npz(file, (f"images{suffix}", f"poses{suffix}"))
        pictures = _pixels(arrays[f"images{suffix}"], f"images{suffix}", file)
        part_poses = _poses(arrays[f"poses{suffix}"], f"poses{suffix}", len(pictures), file)
        digits = len(str(max(len(pictures) - 1, 0)))
        part = [f"{split}/r_{i}" if split else f"{i:0{digits}d}" for i in range(len(pictures))]
        images += list(pictures)
        poses += list(part_poses)
        names += part
        if split:
            lists[split] = tuple(part)
    if not images:
        raise UserError(f"{file}: holds no picture; expected images (n, h, w, 3 or 4) with n of at least 2")
    width, height = images[0].shape[1], images[0].shape[0]
    focal = read_npz(file, ("focal",))["focal"]
    if focal.size != 1 or focal.dtype.kind not in "fiu" or not 0 < float(focal.reshape(())) < 1e9:
        raise UserError(f"{file}: 'focal' is {focal.dtype} {focal.tolist()}; expected one positive number of pixels")
    angle = 2 * float(np.arctan(width / 2 / float(focal.reshape(()))))
    cameras = _cameras(poses, [angle] * len(poses), (width, height))
    photos = tuple(images)
    return _in_convention(
        Description(format="npz", path=file, names=tuple(names), photos=photos, cameras=cameras, lists=lists)
    )


def _npz_scenes(path: Path) -> list[Path]:
    """The .npz files that hold pictures and poses (unreadable ones count, so that they are complained about)."""
    if path.is_file():
        return [path] if path.suffix == ".npz" else []
    found = []
    for file in sorted(path.glob("*.npz")):
        try:
            names = npz_names(file)
        except UserError:
            found.append(file)
            continue
        if any(n.startswith("images") for n in names) and any(n.startswith("poses") for n in names):
            found.append(file)
    return found


def _pixels(array: np.ndarray, name: str, file: Path) -> np.ndarray:
    """(n, h, w, 3|4) uint8; floats in [0, 1] are scaled."""
    if array.ndim != 4 or array.shape[3] not in (3, 4) or array.dtype.kind not in "fu" or 0 in array.shape[1:]:
        raise UserError(
            f"{file}: '{name}' is {array.dtype} {array.shape}; expected (n, h, w, 3 or 4), uint8 or float in [0, 1]"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" or not (
        np.isfinite(array).all() and array.min(initial=0) >= 0 and array.max(initial=0) <= 1
    ):
        raise UserError(
            f"{file}: '{name}' is {array.dtype} with values outside [0, 1]; expected uint8, or float in [0, 1]"
        )
    return np.rint(array * 255).astype(np.uint8)


def _poses(array: np.ndarray, name: str, count: int, file: Path) -> Float[Tensor, "n 3 4"]:
    if (
        array.dtype.kind not in "fiu"
        or array.ndim != 3
        or array.shape[1:] not in ((4, 4), (3, 4))
        or len(array) != count
    ):
        raise UserError(
            f"{file}: '{name}' is {array.dtype} {array.shape}; expected ({count}, 4, 4), one pose a picture"
        )
    return opencv_from_opengl(torch.from_numpy(array[:, :3].astype(np.float64)))

"""RGB-D frames: frame-N.color.jpg|png, frame-N.depth.png (mm), frame-N.pose.txt (4x4 camera-to-world), one K.

The layout of 7-Scenes (Shotton et al. 2013) and of KinectFusion-like recorders.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from rayprior.errors import UserError
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import DepthMaps, Description
from rayprior.scenes.formats.depth import read_depth
from rayprior.scenes.formats.photos import exists, names_of, photo_size

FILE = "camera-intrinsics.txt"
METRES = 1e-3  # of a count
INVALID = (0, 65535)  # nothing measured
SEVEN_SCENES_FOCAL_PX = 585.0  # the depth camera's; the colour camera of that Kinect wants 525 at 640 px of width
KINECT_COLOUR_FOCAL = 525.0 / 640


def present(path: Path) -> bool:
    """Whether frames with a 4x4 pose each are here."""
    return next(path.glob("frame-*.pose.txt"), None) is not None


def describe_rgbd(path: Path) -> Description:
    """Frames by name, in metres. K is the depth camera's, and the colour camera's too unless it is that of 7-Scenes.

    Raises UserError where K or a pose is missing, malformed, not finite or no rigid motion.
    """
    poses = sorted(path.glob("frame-*.pose.txt"))
    if not poses:
        raise UserError(f"{path}: no frame-*.pose.txt; expected a 4x4 camera-to-world matrix for each frame")
    stems = [file.name.removesuffix(".pose.txt") for file in poses]
    photos = tuple(_colour(path, stem) for stem in stems)
    depths = [path / f"{stem}.depth.png" for stem in stems]
    has = tuple(file.is_file() for file in depths)
    c2w = torch.from_numpy(np.stack([_pose(file) for file in poses]))
    colour_size = photo_size(next(filter(exists, photos), photos[0]))
    depth_size = photo_size(depths[has.index(True)]) if any(has) else colour_size
    depth_cameras = _cameras(c2w, _intrinsics(path / FILE), depth_size)
    cameras = depth_cameras.scaled(torch.tensor(colour_size).expand(len(c2w), 2).clone())
    focal = float(depth_cameras.focal_px[0, 0])
    notes = [f"{sum(has)} of {len(has)} frames have depth; counts are mm, 0 and 65535 mean nothing measured"]
    if known_kinect := bool((depth_cameras.focal_px == SEVEN_SCENES_FOCAL_PX).all()):
        colour_focal = KINECT_COLOUR_FOCAL * colour_size[0]
        (width, height), f = colour_size, colour_focal
        cameras = _cameras(c2w, np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]]), colour_size)
        notes.append(
            f"{FILE} (f = {focal:g} px, the 7-Scenes Kinect) fits the depth camera only; colour is given f ="
            f" {colour_focal:g} px and the centre of the picture. They were never registered: expect errors of pixels"
        )
    own = known_kinect or depth_size != colour_size
    maps = DepthMaps(
        read=partial(_read_depth, tuple(depths), depth_size), has=has, cameras=depth_cameras if own else None
    )
    return Description(
        format="rgbd",
        path=path,
        names=names_of(stems),
        photos=photos,
        cameras=cameras,
        depths=maps if any(has) else None,
        notes=tuple(notes),
    )


def _colour(path: Path, stem: str) -> Path:
    """The frame's photo; where there is none, the name that it should have."""
    found = [file for suffix in ("jpg", "png", "jpeg") if (file := path / f"{stem}.color.{suffix}").is_file()]
    return found[0] if found else path / f"{stem}.color.jpg"


def _numbers(file: Path, rows: int) -> Float[np.ndarray, "rows rows"]:
    """A square matrix of finite numbers from a text file."""
    try:
        words = file.read_text(encoding="utf-8").split()
        matrix = np.array(words, dtype=np.float64)
    except FileNotFoundError:
        raise UserError(f"{file}: missing; expected a {rows}x{rows} matrix of numbers; add it") from None
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{file}: holds something that is no number; expected a {rows}x{rows} matrix") from None
    if matrix.size != rows * rows or not np.isfinite(matrix).all():
        finite = int(np.isfinite(matrix).sum())
        raise UserError(
            f"{file}: {finite} finite numbers of {matrix.size}; expected a {rows}x{rows} matrix."
            " If the camera was lost here, remove the frame's files"
        )
    return matrix.reshape(rows, rows)


def _pose(file: Path) -> Float[np.ndarray, "3 4"]:
    matrix = _numbers(file, 4)
    rotation = matrix[:3, :3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-2) and np.linalg.det(rotation) > 0
    if not rigid or (matrix[3] != [0, 0, 0, 1]).any():
        raise UserError(f"{file}: {matrix.tolist()} is no rigid motion; expected rotation, position, last row 0 0 0 1")
    return matrix[:3]


def _intrinsics(file: Path) -> Float[np.ndarray, "3 3"]:
    k = _numbers(file, 3)
    if min(k[0, 0], k[1, 1]) <= 0 or k[0, 1] != 0 or k[1, 0] != 0 or (k[2] != [0, 0, 1]).any():
        raise UserError(f"{file}: K = {k.tolist()}; expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], fx and fy above 0")
    return k


def _cameras(c2w: torch.Tensor, k: np.ndarray, size: tuple[int, int]) -> Cameras:
    count = len(c2w)
    return Cameras(
        c2w=c2w,
        focal_px=torch.tensor([[k[0, 0], k[1, 1]]], dtype=torch.float64).expand(count, 2).clone(),
        centre_px=torch.tensor([[k[0, 2], k[1, 2]]], dtype=torch.float64).expand(count, 2).clone(),
        size=torch.tensor([size]).expand(count, 2).clone(),
    )


def _read_depth(files: tuple[Path, ...], size: tuple[int, int], index: int) -> np.ndarray:
    depth = read_depth(files[index], METRES, INVALID)
    if depth.shape[::-1] != size:
        found = f"{depth.shape[1]}x{depth.shape[0]}"
        raise UserError(f"{files[index]}: {found} px, but the first depth map has {size[0]}x{size[1]}; copy it again")
    return depth

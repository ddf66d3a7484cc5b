"""LLFF captures (Mildenhall et al. 2019): poses_bounds.npy with a row a photo, and a folder of photos.

A row is [R | t | h, w, f] (3x5) with columns (down, right, backward), then the nearest and farthest z-depth of points.
"""

from __future__ import annotations

from dataclasses import replace
from math import cos, radians
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rayprior.errors import UserError
from rayprior.maths.poses import average_pose, opencv_from_llff
from rayprior.maths.space import Similarity
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Description, Points
from rayprior.scenes.formats.arrays import read_npy
from rayprior.scenes.formats.colmap import read_points
from rayprior.scenes.formats.photos import exists, list_photos, masks_beside, names_of, photo_folder
from rayprior.scenes.formats.transforms import LARGEST_SIDE_PX, distances_from_z

FILE = "poses_bounds.npy"
FORWARD_FACING_DEG = 40.0  # farthest that a camera may turn from the mean view for NDC to make sense
NEAR_SHARE = 0.9  # nerf's own margin in front of the nearest point, without NDC
BOUNDS_AGREE = 0.02  # largest relative difference between stated bounds and those of the points


def present(path: Path) -> bool:
    """Whether poses_bounds.npy is here."""
    return exists(path / FILE)


def describe_llff(path: Path) -> Description:
    """Row i belongs to photo i by name.

    Raises UserError where rows and photos differ in number, or a row holds what no camera has.
    """
    source = path / FILE
    table = _read(source)
    folder = photo_folder(path)
    photos = list_photos(folder)
    if len(photos) != len(table):
        raise UserError(
            f"{source}: has {len(table)} poses, but {folder} has {len(photos)} photos; they belong together by order,"
            " so the numbers must agree: add or remove photos"
        )
    rows = torch.from_numpy(table[:, :15].reshape(-1, 3, 5))
    height, width, focal = rows[:, :, 4].unbind(dim=1)
    cameras = Cameras(
        c2w=opencv_from_llff(rows[:, :, :4]),
        focal_px=focal[:, None].expand(-1, 2).clone(),
        centre_px=torch.stack([width / 2, height / 2], dim=1),
        size=torch.stack([width, height], dim=1).round().long(),
    )
    near_z, far_z = float(table[:, 15].min()), float(table[:, 16].max())
    forward_facing = _one_way(cameras)
    masks, notes = masks_beside(path, photos)
    points, said = _sparse(path, cameras, table[:, 15:])
    return Description(
        format="llff",
        path=source,
        names=names_of([photo.relative_to(folder).as_posix() for photo in photos]),
        photos=tuple(photos),
        cameras=cameras,
        masks=masks,
        points=points,
        bounds=distances_from_z(NEAR_SHARE * near_z, far_z, cameras),
        similarity=_recentred(cameras, near_z) if forward_facing else None,
        forward_facing=forward_facing,
        notes=(*notes, *said, f"bounds stated: z {near_z:.4g} to {far_z:.4g} of the capture's unit"),
    )


def _read(source: Path) -> np.ndarray:
    """The table (n, 17) float64."""
    table = read_npy(source)
    if table.ndim != 2 or table.shape[1] != 17 or table.dtype.kind not in "fiu":
        raise UserError(f"{source}: is {table.dtype} {table.shape}; expected (photos, 17) numbers, as LLFF writes them")
    table = table.astype(np.float64)
    if len(table) == 0:
        raise UserError(f"{source}: has no pose; a scene has at least 2 photos")
    wrong = ~np.isfinite(table).all(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{source}: row {row} (from 0) holds {table[row]}; expected finite numbers. Write the file anew"
        )
    sizes, bounds = table[:, [4, 9]], table[:, 15:]
    if (sizes < 1).any() or (sizes > LARGEST_SIDE_PX).any() or (table[:, 14] <= 0).any():
        raise UserError(
            f"{source}: height, width and focal are {table[0, [4, 9, 14]]}; expected positive pixels in each row"
        )
    if (bounds[:, 0] <= 0).any() or (bounds[:, 1] <= bounds[:, 0]).any():
        row = int(np.flatnonzero((bounds[:, 0] <= 0) | (bounds[:, 1] <= bounds[:, 0]))[0])
        raise UserError(
            f"{source}: row {row} (from 0) has bounds {bounds[row]}; expected 0 < near < far. Write the file anew"
        )
    return table


def _sparse(path: Path, cameras: Cameras, bounds: np.ndarray) -> tuple[Points | None, tuple[str, ...]]:
    """The points of the COLMAP model that the poses come from, of which captures often keep points3D alone.

    Its tracks name images by number only. That image i + 1 is photo i, as LLFF takes it, the stated bounds tell: they
    are percentiles of the depths of just those points. Pixels are projections, as nothing else is known.
    """
    found = read_points(path)
    if found is None:
        return None, ()
    points, file = found
    name = file.relative_to(path)
    if not _numbered_by_name(points, cameras, bounds):
        why = "its images are not numbered like the photos, by the bounds that are stated of them"
        return None, (f"{len(points)} points of {name} are not used: {why}",)
    pixel, _, _ = cameras.project(points.position[points.track_point], points.track_camera)
    return replace(points, track_pixel=pixel), (f"{len(points)} points of {name}; its image i + 1 is photo i",)


def _numbered_by_name(points: Points, cameras: Cameras, bounds: np.ndarray) -> bool:
    """Whether the .1 and 99.9 percentiles of the z-depths of what each camera saw are its stated bounds."""
    camera = points.track_camera
    if len(camera) == 0 or int(camera.min()) < 0 or int(camera.max()) >= len(cameras):
        return False
    if int(camera.bincount(minlength=len(cameras)).min()) == 0:
        return False
    offset = points.position[points.track_point] - cameras.origins[camera]
    depth = (offset * cameras.forward[camera]).sum(dim=1)
    own = np.array([np.percentile(depth[camera == i], (0.1, 99.9)) for i in range(len(cameras))])
    return bool((np.abs(own / bounds - 1) < BOUNDS_AGREE).all())


def _one_way(cameras: Cameras) -> bool:
    """Whether all cameras really look one way; LLFF's file format is used for walks round objects, too."""
    mean = F.normalize(cameras.forward.mean(dim=0), dim=0)
    return bool((cameras.forward @ mean > cos(radians(FORWARD_FACING_DEG))).all())


def _recentred(cameras: Cameras, near_z: float) -> Similarity:
    """The average camera at the origin, looking along z; nearest point at depth 4/3."""
    scale = 1 / (0.75 * near_z)
    centre = average_pose(cameras.c2w)
    rotation = centre[:, :3].T
    return Similarity.of(scale, rotation, -scale * rotation @ centre[:, 3])

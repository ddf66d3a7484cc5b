"""One object in the format of the BOP benchmark (Hodan et al. 2018): rgb/, depth/, mask_visib/, scene_*.json.

The world is the object's own frame, the unit is the mm. OpenCV axes, as here.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayprior.errors import UserError
from rayprior.maths.space import Box
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import DepthMaps, Description
from rayprior.scenes.formats.depth import read_depth
from rayprior.scenes.formats.photos import exists, list_photos, names_of, photo_size, read_mask

CAMERAS, TRUTH = "scene_camera.json", "scene_gt.json"
BOX_VIEWS = 16  # the object is outlined from this many views, spread over all
BOX_MARGIN = 0.03  # of its size, on each side


def present(path: Path) -> bool:
    """Whether scene_camera.json is here."""
    return (path / CAMERAS).is_file()


def describe_bop(path: Path) -> Description:
    """Frames by number; `cam_R_m2c`, `cam_t_m2c` invert to camera poses in the object's frame.

    Raises UserError where a file is no such JSON, lacks a key, or where a frame shows no object or several.
    """
    camera_of, truth_of = _read_json(path / CAMERAS), _read_json(path / TRUTH)
    ids = sorted(camera_of)
    photos = _numbered(path / "rgb", ids)
    shown = [_single(truth_of, i, path / TRUTH) for i in ids]
    objects = {str(entry.get("obj_id", "of no id")) for entry in shown}
    if len(objects) > 1:
        raise UserError(f"{path / TRUTH}: frames show objects {', '.join(sorted(objects))}; expected one object in all")
    k = torch.from_numpy(np.stack([_matrix(camera_of[i], "cam_K", (3, 3), path / CAMERAS, i) for i in ids]))
    if (k[:, [0, 1], [0, 1]] <= 0).any() or k[:, 0, 1].any():
        raise UserError(
            f"{path / CAMERAS}: a cam_K has a focal length below 0, or skew; expected fx 0 cx 0 fy cy 0 0 1"
        )
    cameras = Cameras(
        c2w=torch.from_numpy(np.stack([_pose(entry, path / TRUTH, i) for i, entry in zip(ids, shown)])),
        focal_px=torch.stack([k[:, 0, 0], k[:, 1, 1]], dim=1),
        centre_px=k[:, :2, 2].clone(),  # the picture's corner at 0: so cross-view depth agrees best (measured)
        size=torch.tensor([photo_size(next(filter(exists, photos), photos[0]))]).expand(len(ids), 2).clone(),
    )
    masks = _masks(path / "mask_visib", ids)
    depths = _depths(path / "depth", ids, [_depth_scale(camera_of[i], path / CAMERAS, i) for i in ids])
    box, how = _box(cameras, depths, masks)
    return Description(
        format="bop",
        path=path,
        names=names_of([photo.name for photo in photos]),
        photos=tuple(photos),
        cameras=cameras,
        masks=masks,
        depths=depths,
        box=box,
        notes=(
            f"the world is the frame of object {objects.pop()}, in mm",
            *how,
            *(() if masks is None else (f"{len(masks)} masks in mask_visib (white = keep)",)),
        ),
    )


# -- the files ---------------------------------------------------------------------------------------------------------


def _read_json(file: Path) -> dict[int, Any]:
    """What the file says of each frame number."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: missing; a BOP folder has {CAMERAS} and {TRUTH}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: broken JSON ({error}); copy it again") from None
    if not isinstance(content, dict) or not content or not all(re.fullmatch(r"0|[1-9][0-9]{0,8}", k) for k in content):
        raise UserError(f"{file}: expected an object with frame numbers for keys, and at least one frame")
    return {int(key): entry for key, entry in content.items()}


def _single(truth_of: dict[int, Any], frame: int, file: Path) -> dict[str, Any]:
    """The one object that a frame shows."""
    entries = truth_of.get(frame)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{file}: frame {frame} of {CAMERAS} has no list of objects here; add it")
    if len(entries) != 1:
        raise UserError(f"{file}: frame {frame} shows {len(entries)} objects; only folders of a single object are read")
    return entries[0]


def _matrix(entry: Any, key: str, shape: tuple[int, ...], file: Path, frame: int) -> np.ndarray:
    value = entry.get(key) if isinstance(entry, dict) else None
    if value is None:
        raise UserError(f"{file}: frame {frame} has no '{key}'; add it")
    try:
        matrix = np.array(value, dtype=np.float64).reshape(shape)
    except (ValueError, TypeError):
        raise UserError(f"{file}: '{key}' of frame {frame} is {value!r}; expected {np.prod(shape)} numbers") from None
    if not np.isfinite(matrix).all():
        raise UserError(f"{file}: '{key}' of frame {frame} is {value!r}; expected finite numbers")
    return matrix


def _pose(entry: dict[str, Any], file: Path, frame: int) -> np.ndarray:
    """Object-to-camera rotation and translation -> camera-to-object [R^T | -R^T t]."""
    rotation = _matrix(entry, "cam_R_m2c", (3, 3), file, frame)
    translation = _matrix(entry, "cam_t_m2c", (3,), file, frame)
    if not (np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-2) and np.linalg.det(rotation) > 0):
        raise UserError(f"{file}: 'cam_R_m2c' of frame {frame} is no rotation: {rotation.tolist()}")
    return np.concatenate([rotation.T, (-rotation.T @ translation)[:, None]], axis=1)


def _depth_scale(entry: dict[str, Any], file: Path, frame: int) -> float:
    scale = (
        float(_matrix(entry, "depth_scale", (), file, frame))
        if isinstance(entry, dict) and "depth_scale" in entry
        else 1.0
    )
    if scale <= 0:
        raise UserError(f"{file}: 'depth_scale' of frame {frame} is {scale:g}; expected mm per count, above 0")
    return scale


def _numbered(folder: Path, ids: list[int]) -> list[Path]:
    """The picture of each frame; where there is none, the name that it should have."""
    found = {int(file.stem): file for file in list_photos(folder) if file.stem.isdecimal()}
    return [found.get(i, folder / f"{i:06d}.png") for i in ids]


def _masks(folder: Path, ids: list[int]) -> tuple[Path, ...] | None:
    """The mask of the first, and only, object of each frame."""
    if not folder.is_dir():
        return None
    masks = tuple(folder / f"{i:06d}_000000.png" for i in ids)
    for mask in masks:
        if not mask.is_file():
            raise UserError(f"{mask}: missing; add it, or move the folder {folder.name} away to use no masks")
    return masks


def _depths(folder: Path, ids: list[int], scales: list[float]) -> DepthMaps | None:
    if not folder.is_dir():
        return None
    files = tuple(folder / f"{i:06d}.png" for i in ids)
    has = tuple(file.is_file() for file in files)
    return DepthMaps(read=partial(_read_depth, files, tuple(scales)), has=has) if any(has) else None


def _read_depth(files: tuple[Path, ...], scales: tuple[float, ...], index: int) -> np.ndarray:
    return read_depth(files[index], scales[index])


# -- where the object is -----------------------------------------------------------------------------------------------


def _box(
    cameras: Cameras, depths: DepthMaps | None, masks: tuple[Path, ...] | None
) -> tuple[Box | None, tuple[str, ...]]:
    """What encloses the object, mm: its visible surface where depth is known, else what all masks could hold."""
    views = np.unique(np.linspace(0, len(cameras) - 1, min(BOX_VIEWS, len(cameras))).round().astype(int)).tolist()
    if depths is not None and (views := [i for i in views if depths.has[i]] or [depths.has.index(True)]):
        points, how = torch.cat([_extent(cameras, i, depths, masks) for i in views]), "visible depth"
    elif masks is not None:
        points, how = _visual_hull(cameras, views, masks), "masks"
    else:
        return None, ()
    if len(points) == 0:
        return None, (f"no box: the {how} of {len(views)} views shows nothing",)
    low, high = points.amin(dim=0), points.amax(dim=0)
    margin = BOX_MARGIN * (high - low).max()
    box = Box(tuple((low - margin).tolist()), tuple((high + margin).tolist()))
    return box, (f"box from the {how} of {len(views)} views",)


def _extent(cameras: Cameras, index: int, depths: DepthMaps, masks: tuple[Path, ...] | None) -> torch.Tensor:
    """The two corners (2, 3) of what a frame's depth map shows inside its mask; (0, 3) where it shows nothing."""
    depth = depths.read(index)
    if masks is not None and (mask := read_mask(masks[index])).shape == depth.shape:
        depth = np.where(mask, depth, np.nan)
    rows, columns = np.nonzero(np.isfinite(depth))
    pixel = torch.from_numpy(np.stack([columns, rows], axis=1) + 0.5)
    camera = torch.full((len(pixel),), index)
    distance = cameras.distance_from_depth(torch.from_numpy(depth[rows, columns]).double(), camera, pixel)
    points = cameras.origins[camera] + cameras.directions(camera, pixel) * distance[:, None]
    return torch.stack([points.amin(dim=0), points.amax(dim=0)]) if len(points) else points


def _visual_hull(cameras: Cameras, views: list[int], masks: tuple[Path, ...], cells: int = 64) -> torch.Tensor:
    """Centres (n, 3) of the cells about the object's origin that every mask keeps (Laurentini 1994)."""
    reach = float(cameras.origins.norm(dim=1).min()) * 0.9
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 - 1
    points = reach * torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    for index in views:
        keep = torch.from_numpy(np.ascontiguousarray(read_mask(masks[index])))
        pixel, _, visible = cameras.project(points, torch.full((len(points),), index))
        points, (column, row) = points[visible], pixel[visible].long().unbind(dim=1)
        points = points[keep[row.clamp(max=keep.shape[0] - 1), column.clamp(max=keep.shape[1] - 1)]]
    return points

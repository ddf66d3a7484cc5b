"""The scene folder that comes out of a capture: photos, masks, cameras, points, and what became of every photo."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayprior.capture.features import feature_counts, read_matches, sfm_library
from rayprior.capture.intake import Photo, link_or_copy
from rayprior.capture.sfm import Model, photos_in, undistort, why_not_registered
from rayprior.errors import UserError
from rayprior.files import write_atomically, write_folder_atomically, write_json
from rayprior.plain import parse_json
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.formats.colmap import describe_colmap
from rayprior.scenes.formats.photos import list_photos
from rayprior.scenes.keypoints import Keypoints, find_keypoints
from rayprior.scenes.writing import write_points, write_transforms

REPORT = "capture.json"
MODEL_FILES = ("cameras.bin", "images.bin", "points3D.bin", "frames.bin", "rigs.bin")
NEAR_SHARE, FAR_SHARE = 0.01, 0.99  # of the distances of the points that a photo saw


@dataclass(frozen=True)
class Found:
    """The model that was chosen, and what it was made from.

    photos    the folder with `images` and `masks`
    others    models of other photos, which share too little with this one
    database  features and matches
    attempts  what was tried, in words
    """

    photos: Path
    model: Model
    others: tuple[Model, ...]
    database: Path
    attempts: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Captured:
    """What came out.

    photos      what is known of each, as in capture.json
    registered  names of those with a place
    points      sparse points
    error_px    mean reprojection error
    attempts    what was tried, in words
    notes       what the user should know
    """

    path: Path
    photos: tuple[Mapping[str, Any], ...]
    registered: tuple[str, ...]
    points: int
    error_px: float
    attempts: tuple[str, ...]
    notes: tuple[str, ...]


def write_scene_folder(
    out: Path,
    source: Path,
    photos: Sequence[Photo],
    left_out: Mapping[str, str],
    found: Found,
    options: Mapping[str, Any],
    *,
    undistorted: bool = False,
    threads: int | None = None,
) -> Captured:
    """Write all of a scene folder. Quick, and done anew each time; capture.json, written last, says that it is whole.

    left_out     name -> why, of the photos that were not taken in
    options      what was asked for, as JSON values
    undistorted  also write photos without distortion
    """
    model = found.model
    _remove_earlier_masks(out, found.photos / "masks")
    (out / REPORT).unlink(missing_ok=True)
    _remove_others(out / "images", {photo.name for photo in photos})
    _fill(out / "images", found.photos / "images", [photo.name for photo in photos])
    _fill(out / "masks", found.photos / "masks", [f"{photo.name}.png" for photo in photos])
    parts = {name: model.folder / name for name in MODEL_FILES}
    write_folder_atomically(out / "sparse" / "0", {n: p.read_bytes() for n, p in parts.items() if p.is_file()})
    description = describe_colmap(out)
    cameras, points = description.cameras, description.points
    if points is not None:
        write_points(out / "points.ply", points.position, points.rgb)
    files = [photo for photo in description.photos if isinstance(photo, Path)]
    masks = description.mask_files if description.masks else None
    write_transforms(
        out / "transforms.json", description.names, files, cameras, masks=masks,
        points_file=None if points is None else "points.ply",
    )  # fmt: skip
    keypoints = find_keypoints(points, cameras, range(len(cameras)), lambda camera, pixel, distance: {})
    names = [photo.relative_to(out / "images").as_posix() for photo in files]
    write_atomically(out / "points.npz", lambda file: file.write(_sigma_by_photo(keypoints, names)))
    if undistorted:
        undistort(model.folder, out / "images", out / "undistorted", threads)
    facts = _photo_facts(photos, left_out, found, keypoints, names)
    report = {
        "source": str(source.absolute()),
        "registered": len(model.photos),
        "photos_given": len(facts),
        "points": model.points,
        "reprojection_error_px": round(model.error_px, 4),
        "bounds": _bounds(keypoints.distance),
        "cameras": _camera_facts(cameras),
        "attempts": list(found.attempts),
        "models_left_out": [{"photos": list(other.photos), "points": other.points} for other in found.others],
        "notes": list(found.notes),
        "options": dict(options),
        "pycolmap": sfm_library().__version__,
        "photos": facts,
    }
    write_json(out / REPORT, report)
    return Captured(out, tuple(facts), model.photos, model.points, model.error_px, found.attempts, found.notes)


def _fill(folder: Path, source: Path, names: Sequence[str]) -> None:
    """These files of another folder, those that are there, beside whatever stands here already."""
    for name in names:
        here, there = folder / name, source / name
        if there.is_file() and not (here.exists() and here.samefile(there)):
            link_or_copy(there, here)


def _remove_earlier_masks(out: Path, masks: Path) -> None:
    """Masks that an earlier call put here, by its report, and that these photos don't have. Others' masks stay."""
    try:
        earlier = parse_json((out / REPORT).read_bytes(), str(out / REPORT))
        names = [f"{photo['name']}.png" for photo in earlier["photos"] if photo.get("mask")]
    except (OSError, UserError, LookupError, TypeError, AttributeError):  # no report, or one that was edited
        return
    for name in names:
        mask = out / "masks" / name
        if mask.is_relative_to(out / "masks") and ".." not in mask.parts and not (masks / name).is_file():
            mask.unlink(missing_ok=True)
    folders = [out / "masks", *(path for path in (out / "masks").rglob("*") if path.is_dir())]
    for folder in reversed(folders):
        with suppress(OSError):  # it is not empty, or not there
            folder.rmdir()


def _remove_others(folder: Path, names: Collection[str]) -> None:
    """Photos of an earlier call that are not among these."""
    for photo in list_photos(folder) if folder.is_dir() else ():
        if photo.relative_to(folder).as_posix() not in names:
            photo.unlink()


def _sigma_by_photo(keypoints: Keypoints, names: Sequence[str]) -> bytes:
    """`points.npz`: a row an observation; distances and their deviations in the capture's unit."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        photo=keypoints.camera.numpy().astype(np.int32),
        pixel=keypoints.pixel.numpy(),
        distance=keypoints.distance.numpy(),
        distance_std=keypoints.distance_std.numpy(),
        names=np.array(list(names)),
    )
    return content.getvalue()


def _bounds(distance: torch.Tensor) -> dict[str, float] | None:
    """near and far: the 1 and 99 percentiles of distances, in the capture's unit."""
    if len(distance) == 0:
        return None
    ends = np.quantile(distance.numpy(), [NEAR_SHARE, FAR_SHARE])
    return {"near": round(float(ends[0]), 6), "far": round(float(ends[1]), 6)}


def _camera_facts(cameras: Cameras) -> list[dict[str, Any]]:
    """The different lenses, and how many photos each made."""
    counts: dict[tuple[Any, ...], int] = {}
    for i in range(len(cameras)):
        k = () if cameras.distortion is None else tuple(round(v, 6) for v in cameras.distortion[i].tolist())
        focal, centre = (tuple(round(v, 3) for v in part[i].tolist()) for part in (cameras.focal_px, cameras.centre_px))
        key = (tuple(cameras.size[i].tolist()), focal, centre, k)
        counts[key] = counts.get(key, 0) + 1
    keys = ("size", "focal_px", "centre_px", "distortion")
    return [{"photos": n, **{k: list(v) for k, v in zip(keys, key)}} for key, n in counts.items()]


def _photo_facts(
    photos: Sequence[Photo],
    left_out: Mapping[str, str],
    found: Found,
    keypoints: Keypoints,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """What became of every photo that was given."""
    features, pairs = feature_counts(found.database), read_matches(found.database)
    counts = {pair: len(pixels) for pair, (pixels, _) in pairs.items()}
    placed = photos_in(found.model.folder)
    usual = float(np.median([photo.sharpness for photo in photos]))

    def why(name: str) -> str:
        return why_not_registered(name, features, counts, found.model.photos, found.others)

    facts: list[dict[str, Any]] = []
    for photo in photos:
        partners = [n for pair, n in counts.items() if photo.name in pair]
        here = placed.get(photo.name)
        fact = {
            "name": photo.name,
            "registered": here is not None,
            "why_not": None if here else why(photo.name),
            "features": features.get(photo.name, 0),
            "matches": sum(partners),
            "partners": len(partners),
            "points": here.points if here else 0,
            "reprojection_error_px": here.error_px if here else None,
            "bounds": _bounds(keypoints.distance[keypoints.camera == names.index(photo.name)]) if here else None,
            "sharpness": round(photo.sharpness / usual, 3) if usual else None,
            "brightness": photo.brightness,
            "clipped": photo.clipped,
            "focal_px_by_exif": photo.focal_px,
            "camera": photo.camera,
            "turned_upright": not photo.upright,
            "mask": (found.photos / "masks" / f"{photo.name}.png").is_file(),
        }
        facts.append(fact)
    return facts + [{"name": name, "registered": False, "why_not": why} for name, why in left_out.items()]

"""Folds: what looks alike from two sides (a printed can, a building) is placed as one side, and the loop closes early.

No photo is missing then and errors are small; but photos that follow each other stand on opposite sides, and their own
matches contradict the model. The remedy, ours: a model from neighbours alone, which drifts but does not fold, tells
which pairs look from one side; mapping begins again with these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rayprior.capture.features import Pair, opened, read_matches, sfm_library

NEIGHBOURS = 5  # photos on either side that are matched for the model which does not fold
FEWEST_MATCHES = 30
CONTRADICTED = 0.006  # median distance from the epipolar line, as a share of the photo's longer side
SAME_SIDE_DEG = 60.0  # two views that are turned farther than this hardly share a surface


def neighbours(names: Sequence[str], overlap: int = NEIGHBOURS) -> list[Pair]:
    """Each photo with those that follow it in the order of names."""
    return [(names[i], names[i + k]) for i in range(len(names)) for k in range(1, overlap + 1) if i + k < len(names)]


def contradicted(model: Path, database: Path, pairs: Iterable[Pair] | None = None) -> list[Pair]:
    """Pairs with a place and at least 30 matches, half of which lie far from the epipolar lines of the model.

    pairs  None: photos that follow each other in the order of names
    """
    content = sfm_library().Reconstruction(model)
    images = {content.images[key].name: content.images[key] for key in content.reg_image_ids()}
    matches = read_matches(database)
    pairs = pairwise(sorted(images)) if pairs is None else pairs
    found = []
    for a, b in pairs:
        if a not in images or b not in images or len(matches.get((a, b), ((), ()))[0]) < FEWEST_MATCHES:
            continue
        left, right = images[a], images[b]
        cameras = content.cameras[left.camera_id], content.cameras[right.camera_id]
        error = _epipolar_error(left, right, *cameras, *matches[a, b])
        focal = (cameras[0].mean_focal_length() + cameras[1].mean_focal_length()) / 2
        longer = max(cameras[0].width, cameras[0].height)
        if float(np.nanmedian(error)) * focal > CONTRADICTED * longer:
            found.append((a, b))
    return found


def keep_pairs(database: Path, pairs: Iterable[Pair]) -> None:
    """Remove all other pairs from a database."""
    colmap, kept = sfm_library(), {frozenset(pair) for pair in pairs}
    with opened(database) as written:
        names = {image.image_id: image.name for image in written.read_all_images()}
        for pair in written.read_two_view_geometries()[0]:
            a, b = colmap.pair_id_to_image_pair(pair)
            if frozenset((names[a], names[b])) not in kept:
                written.delete_two_view_geometry(a, b)
                written.delete_matches(a, b)


def keep_one_side(model: Path, database: Path) -> int:
    """Remove from a database the pairs that the model turns by more than 60 degrees; how many they were."""
    colmap = sfm_library()
    content = colmap.Reconstruction(model)
    turned = {k: content.images[k].cam_from_world().rotation.matrix() for k in content.reg_image_ids()}
    named = {content.images[key].name: rotation for key, rotation in turned.items()}
    removed = 0
    with opened(database) as written:
        names = {image.image_id: image.name for image in written.read_all_images()}
        for pair in written.read_two_view_geometries()[0]:
            a, b = colmap.pair_id_to_image_pair(pair)
            if names[a] not in named or names[b] not in named:
                continue
            cosine = (np.trace(named[names[a]] @ named[names[b]].T) - 1) / 2
            if np.degrees(np.arccos(np.clip(cosine, -1, 1))) > SAME_SIDE_DEG:
                written.delete_two_view_geometry(a, b)
                written.delete_matches(a, b)
                removed += 1
    return removed


def _epipolar_error(
    left: Any, right: Any, camera: Any, other: Any, pixels: Float[np.ndarray, "n 2"], others: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n"]:
    """Sampson's distance of matches from the epipolar lines, in units of the focal length."""
    x, y = (
        np.c_[np.asarray(lens.cam_from_img(p), dtype=np.float64).reshape(-1, 2), np.ones(len(p))]
        for lens, p in ((camera, pixels), (other, others))
    )
    a, b = left.cam_from_world().matrix(), right.cam_from_world().matrix()
    rotation = b[:, :3] @ a[:, :3].T
    t = b[:, 3] - rotation @ a[:, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    essential = cross @ rotation
    line, back = x @ essential.T, y @ essential
    length = np.sqrt((line[:, :2] ** 2).sum(axis=1) + (back[:, :2] ** 2).sum(axis=1))
    return np.abs((y * line).sum(axis=1)) / np.maximum(length, 1e-12)

"""Strecha's multi-view benchmark (Strecha et al. 2008): one text file NAME.camera a photo.

Rows: K (3), zeros, the camera-to-world rotation (3: row-wise R^T), the camera centre, and width and height.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rayprior.errors import UserError
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Description
from rayprior.scenes.formats.photos import names_of, photo_folder

ROWS = "3 rows of K, a row of zeros, 3 rows of R^T, the centre, then width and height: 26 numbers"


def present(path: Path) -> bool:
    """Whether .camera files are here."""
    return bool(_camera_files(path))


def describe_strecha(path: Path) -> Description:
    """Cameras of gt_dense_cameras/, or beside the photos, in metres. Raises UserError naming the file at fault."""
    files = _camera_files(path)
    if not files:
        raise UserError(f"{path}: no *.camera file in {', '.join(_places(path))}; expected one for each photo")
    folder = path if files[0].parent == path and not (path / "images").is_dir() else photo_folder(path)
    k, c2w, size = zip(*(_read(file) for file in files))
    intrinsics = torch.from_numpy(np.stack(k))
    return Description(
        format="strecha",
        path=path,
        names=names_of([file.stem for file in files]),
        photos=tuple(folder / file.stem for file in files),
        cameras=Cameras(
            c2w=torch.from_numpy(np.stack(c2w)),
            focal_px=torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], dim=1),
            centre_px=intrinsics[:, :2, 2].clone(),  # corners at 0: the epipolar error is least so
            size=torch.tensor(size),
        ),
        notes=(f"{len(files)} cameras in {files[0].parent.relative_to(path).as_posix()}",),
    )


def _places(path: Path) -> list[str]:
    return [str(path / name) for name in ("gt_dense_cameras", "images")] + [str(path)]


def _camera_files(path: Path) -> list[Path]:
    return next((found for place in _places(path) if (found := sorted(Path(place).glob("*.camera")))), [])


def _read(file: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """(K, camera-to-world, (width, height)) of one file."""
    try:
        numbers = np.array(file.read_text(encoding="utf-8").split(), dtype=np.float64)
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{file}: holds something that is no number; expected {ROWS}") from None
    if len(numbers) != 26 or not np.isfinite(numbers).all():
        raise UserError(f"{file}: {np.isfinite(numbers).sum()} finite numbers of {len(numbers)}; expected {ROWS}")
    k, zeros, rotation, centre, size = np.split(numbers, [9, 12, 21, 24])
    k, rotation = k.reshape(3, 3), rotation.reshape(3, 3)
    if zeros.any() or (k[2] != [0, 0, 1]).any() or min(k[0, 0], k[1, 1]) <= 0 or k[1, 0] != 0:
        raise UserError(f"{file}: K = {k.tolist()}, then {zeros.tolist()}; expected {ROWS}, focal lengths positive")
    if abs(k[0, 1]) > 1e-3 * k[0, 0]:
        raise UserError(f"{file}: K has skew {k[0, 1]:g} px; only cameras without skew are read")
    if not (np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) and np.linalg.det(rotation) > 0):
        raise UserError(f"{file}: rows 5 to 7 are no rotation: {rotation.tolist()}; expected {ROWS}")
    if (size < 1).any() or (size != np.rint(size)).any():
        raise UserError(f"{file}: the last row says the photo is {size.tolist()} px; expected width and height")
    return k, np.concatenate([rotation, centre[:, None]], axis=1), (int(size[0]), int(size[1]))

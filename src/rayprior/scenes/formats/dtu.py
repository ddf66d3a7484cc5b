"""DTU scenes as IDR prepared them (Yariv et al. 2020): cameras.npz with world_mat_i and scale_mat_i, image/, mask/.

`world_mat` projects world points to pixels, `scale_mat` maps the unit sphere, in which the object lies, to the world.
The capture's unit is that of the world (mm for DTU); working units are those of the unit sphere.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from rayprior.errors import UserError
from rayprior.maths.space import Box, Similarity
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Description
from rayprior.scenes.formats.arrays import npz_names, read_npz
from rayprior.scenes.formats.photos import exists, list_photos, names_of, photo_folder, photo_size

DTU_SIZE = (1600, 1200)  # what DTU's matrices are for, whatever the size of the pictures
FILE = "cameras.npz"


def present(path: Path) -> bool:
    """Whether cameras.npz is here."""
    return (path / FILE).is_file()


def describe_dtu(path: Path) -> Description:
    """View i is world_mat_i with the photo and the mask of that number.

    Raises UserError where matrices are missing, not finite, no cameras, or don't agree on one unit sphere.
    """
    file = path / FILE
    matrices = _read_matrices(file)
    views = sorted(int(name.removeprefix("world_mat_")) for name in matrices if name.startswith("world_mat_"))
    if not views:
        raise UserError(f"{file}: holds no world_mat_0, world_mat_1, ...; it has {', '.join(sorted(matrices)[:5])}")
    photos = _by_number(list_photos(photo_folder(path)), views, "photo", file)
    masks = _by_number(list_photos(path / "mask"), views, "mask", file) if (path / "mask").is_dir() else None
    intrinsics, c2w = zip(*(_decompose(matrices, f"world_mat_{i}", file) for i in views))
    k = torch.from_numpy(np.stack(intrinsics))
    width, height, why = _declared_size(matrices, k[0, :2, 2].tolist(), next(filter(exists, photos), photos[0]))
    sphere = _unit_sphere(matrices, views, file)
    (x, y, z), radius = sphere[:3, 3].tolist(), float(sphere[0, 0])
    return Description(
        format="dtu",
        path=path,
        names=names_of([photo.name for photo in photos]),
        photos=tuple(photos),
        cameras=Cameras(
            c2w=torch.from_numpy(np.stack(c2w)),
            focal_px=torch.stack([k[:, 0, 0], k[:, 1, 1]], dim=1),
            centre_px=k[:, :2, 2].clone(),  # corner or centre of the first pixel at 0: matches can't tell (0.1 px here)
            size=torch.tensor([[width, height]]).expand(len(views), 2).clone(),
        ),
        masks=None if masks is None else tuple(masks),
        box=Box((x - radius, y - radius, z - radius), (x + radius, y + radius, z + radius)),
        similarity=Similarity(scale=1 / radius, translation=(-x / radius, -y / radius, -z / radius)),
        notes=(
            f"matrices are for {width}x{height} ({why})",
            f"working unit: scale_mat's sphere, radius {radius:g}",
            *(() if masks is None else (f"{len(masks)} masks in mask (white = keep)",)),
        ),
    )


def decompose_projection(
    projection: Float[np.ndarray, "3 4"],
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 4"]]:
    """P = K [R | -R c] -> K (upper triangular, positive diagonal, K[2, 2] = 1) and camera-to-world [R^T | c].

    RQ by the QR factors of the reversed transpose (Hartley and Zisserman, A4.1.1). P has no sign of its own: the one
    that makes R a rotation is taken. Raises numpy.linalg.LinAlgError where the left 3x3 is singular.
    """
    left = projection[:, :3]
    if np.linalg.cond(left) > 1e12:
        raise np.linalg.LinAlgError("singular")
    sign = np.sign(np.linalg.det(left))
    q, r = np.linalg.qr((sign * left)[::-1].T)
    k, rotation = r.T[::-1, ::-1], q.T[::-1]
    flip = np.sign(np.diag(k))
    k, rotation = k * flip, flip[:, None] * rotation
    origin = -np.linalg.solve(left, projection[:, 3])
    return k / k[2, 2], np.concatenate([rotation.T, origin[:, None]], axis=1)


def _read_matrices(file: Path) -> dict[str, np.ndarray]:
    names = [name for name in npz_names(file) if re.fullmatch(r"(world|scale|camera)_mat_\d{1,6}", name)]
    return read_npz(file, tuple(names))


def _matrix(matrices: dict[str, np.ndarray], name: str, file: Path) -> np.ndarray:
    """One 4x4 (or 3x4) matrix, float64, its last row completed."""
    if name not in matrices:
        raise UserError(f"{file}: has no {name}; expected a world_mat_i and a scale_mat_i for every view")
    matrix = matrices[name]
    if matrix.shape not in ((4, 4), (3, 4)) or matrix.dtype.kind not in "fiu" or not np.isfinite(matrix).all():
        raise UserError(f"{file}: {name} is {matrix.dtype} {matrix.shape}; expected 4x4 finite numbers; make it anew")
    matrix = matrix.astype(np.float64)
    return matrix if len(matrix) == 4 else np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])


def _decompose(matrices: dict[str, np.ndarray], name: str, file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        k, c2w = decompose_projection(_matrix(matrices, name, file)[:3])
    except np.linalg.LinAlgError:
        raise UserError(f"{file}: {name} is singular, so it is no projection by a camera; make the file anew") from None
    if abs(k[0, 1]) > 1e-3 * k[0, 0]:
        raise UserError(
            f"{file}: {name} has skew {k[0, 1]:.4g} px (focal {k[0, 0]:.4g}); only cameras without are read"
        )
    return k, c2w


def _declared_size(matrices: dict[str, np.ndarray], centre: list[float], photo: Path) -> tuple[int, int, str]:
    """The picture size that the matrices are for, and how that is known.

    DTU's camera_mat_i = diag(2 / width, 2 / height, 1) with -1 in its third column states it. Else it is the photo's
    own if the principal point lies about its middle, else 1600x1200.
    """
    stated = matrices.get("camera_mat_0")
    if stated is not None and stated.shape == (4, 4) and np.allclose(stated[:2, 2], -1) and (np.diag(stated) > 0).all():
        width, height = np.rint(2 / stated.astype(np.float64).diagonal()[:2]).astype(int).tolist()
        return width, height, "stated by camera_mat_0"
    width, height = photo_size(photo)
    if all(abs(c - side / 2) < 0.25 * side for c, side in zip(centre, (width, height))):
        return width, height, "the photos' own size: the principal point is about its middle"
    return *DTU_SIZE, "DTU's size; nothing states another"


def _unit_sphere(matrices: dict[str, np.ndarray], views: list[int], file: Path) -> np.ndarray:
    """The one scale_mat of all views: a uniform scale and a shift."""
    sphere = _matrix(matrices, f"scale_mat_{views[0]}", file)
    radius = sphere[0, 0]
    if not (radius > 0 and np.allclose(sphere[:3, :3], radius * np.eye(3), atol=1e-6 * radius)):
        raise UserError(
            f"{file}: scale_mat_{views[0]} = {sphere[:3].tolist()}; expected one positive scale and a shift"
        )
    for i in views[1:]:
        if not np.allclose(_matrix(matrices, f"scale_mat_{i}", file), sphere, rtol=1e-6):
            raise UserError(
                f"{file}: scale_mat_{i} is not scale_mat_{views[0]}; expected one unit sphere for all views"
            )
    return sphere


def _by_number(files: list[Path], views: list[int], what: str, where: Path) -> list[Path]:
    """The file of each view: by its number where all are numbers, else by order, one for each view."""
    numbered = {int(file.stem): file for file in files if file.stem.isdecimal()}
    if len(numbered) == len(files) > 0:
        missing = [i for i in views if i not in numbered]
        if missing and what == "mask":
            raise UserError(f"{files[0].parent}: no mask for view {missing[0]}; add it, or move the folder away")
        like = files[0]
        return [numbered.get(i, like.with_name(f"{i:0{len(like.stem)}d}{like.suffix}")) for i in views]
    if len(files) != len(views):
        raise UserError(
            f"{where}: matrices for {len(views)} views, but there are {len(files)} {what}s; expected as many"
        )
    return files

"""A point in space that pixels show: from rays of two or more views, or from one view and its distances; and frames.

What a robot is told: where to grasp (a point), from where (the surface's normal), in which frame.
"""

from __future__ import annotations

from math import cos, radians
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.errors import UserError
from rayprior.plain import parse_json
from rayprior.scenes.cameras import Cameras

LEAST_ANGLE_DEG = 0.5  # between two rays, below which they tell no distance
NEIGHBOURS = 2  # pixels to each side of the one whose normal is asked for
JUMP = 0.05  # a neighbour whose distance differs by more than this share is of another surface
FEWEST = 6  # neighbours that a plane is laid through
RIGID = 1e-4  # largest entry of R^T R - I that passes as rounding in a text file


def nearest_point(
    origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "3"], Float[Tensor, "n"]]:
    """The point with the least sum of squared distances from lines, and its distance from each, in their unit.

    Solves sum (I - d d^T) (x - o) = 0 with unit directions d.

    Raises UserError for fewer than two lines, and where no two differ in direction by half a degree.
    """
    if len(origins) < 2:
        raise UserError(
            f"{len(origins)} view: a point in space needs the rays of two or more views, or one view and its depth"
        )
    origins, directions = origins.double(), torch.nn.functional.normalize(directions.double(), dim=1)
    if float((directions @ directions.T).abs().min()) > cos(radians(LEAST_ANGLE_DEG)):
        raise UserError(
            f"the rays of these {len(origins)} views differ by less than {LEAST_ANGLE_DEG:g} degrees, which tells no"
            " distance; choose views that look from farther apart"
        )
    across = torch.eye(3, dtype=torch.float64) - directions[:, :, None] * directions[:, None, :]  # (n, 3, 3)
    point = torch.linalg.solve(across.sum(dim=0), (across @ origins[:, :, None]).sum(dim=0)[:, 0])
    return point, (across @ (point - origins)[:, :, None])[:, :, 0].norm(dim=1)


def point_at(
    cameras: Cameras, view: int, distance: Float[Tensor, "h w"], pixel: Float[Tensor, "2"]
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"] | None]:
    """What a pixel of a view shows by the view's distances: the point, and the surface's unit normal there, towards the
    camera. Lengths are those of the cameras and distances.

    distance  along the rays through pixel centres, nan where unknown; the pixel takes that of the one it lies in

    The normal is that of the plane of least squares through the points of the pixels around, those of other surfaces
    left out: distances that differ by more than 5 %. None where fewer than six of 25 are left, or they lie on a line.

    Raises UserError where the distance of this pixel is not known.
    """
    column, row = (int(x) for x in pixel)
    if not bool(distance[row, column].isfinite()):
        raise UserError(
            f"the distance at pixel {pixel[0]:g},{pixel[1]:g} is not known; choose a pixel that has one, or two views"
        )
    camera = torch.tensor([view])
    here = float(distance[row, column])
    point = cameras.origins[view] + here * cameras.directions(camera, pixel[None])[0]
    height, width = distance.shape
    rows = torch.arange(max(0, row - NEIGHBOURS), min(height, row + NEIGHBOURS + 1))
    columns = torch.arange(max(0, column - NEIGHBOURS), min(width, column + NEIGHBOURS + 1))
    v, u = (grid.reshape(-1) for grid in torch.meshgrid(rows, columns, indexing="ij"))
    found = distance[v, u].double()
    same = (found - here).abs() <= JUMP * here  # false for nan
    rays = cameras.directions(torch.full((int(same.sum()),), view), torch.stack([u, v], dim=1)[same] + 0.5)
    return point, _normal(found[same, None] * rays)


def _normal(offsets: Float[Tensor, "n 3"]) -> Float[Tensor, "3"] | None:
    """Of the plane through points, given from the camera's centre; towards that centre."""
    if len(offsets) < FEWEST:
        return None
    _, spread, axes = torch.linalg.svd(offsets - offsets.mean(dim=0), full_matrices=False)
    if float(spread[1]) < 1e-3 * float(spread[0]):  # on a line
        return None
    return axes[2] * (-1 if float(axes[2] @ offsets.mean(dim=0)) > 0 else 1)


# -- frames ------------------------------------------------------------------------------------------------------------


def seen_from(
    c2w: Float[Tensor, "3 4"], point: Float[Tensor, "3"], normal: Float[Tensor, "3"] | None
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"] | None]:
    """A point and a normal in a camera's axes (x right, y down, z forward), from its centre."""
    rotation = c2w[:, :3].T
    return rotation @ (point - c2w[:, 3]), None if normal is None else rotation @ normal


def moved_by(
    transform: Float[Tensor, "4 4"], point: Float[Tensor, "3"], normal: Float[Tensor, "3"] | None
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"] | None]:
    """A point and a normal in the frame that a rigid transform leads to."""
    rotation = transform[:3, :3]
    return rotation @ point + transform[:3, 3], None if normal is None else rotation @ normal


def read_transform(path: Path) -> Float[Tensor, "4 4"]:
    """A rigid transform from a JSON file: four rows of four numbers, the last 0 0 0 1, the rotation orthonormal.

    Raises UserError for whatever else is there.
    """
    form = "a JSON list of four rows, [[r, r, r, x], [r, r, r, y], [r, r, r, z], [0, 0, 0, 1]]"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); expected {form}") from None
    rows = parse_json(text, str(path))
    four = isinstance(rows, list) and len(rows) == 4 and all(isinstance(row, list) and len(row) == 4 for row in rows)
    if not four or not all(type(x) in (int, float) for row in rows for x in row):
        raise UserError(f"{path}: holds no 4x4 matrix; expected {form}")
    transform = torch.tensor(rows, dtype=torch.float64)
    if transform[3].tolist() != [0.0, 0.0, 0.0, 1.0]:
        raise UserError(f"{path}: the last row is {rows[3]}; expected [0, 0, 0, 1]. Is the matrix transposed?")
    rotation = transform[:3, :3]
    off = float((rotation.T @ rotation - torch.eye(3, dtype=torch.float64)).abs().max())
    if not transform.isfinite().all() or not off <= RIGID:
        raise UserError(
            f"{path}: the upper left 3x3 is no rotation, R^T R differs from 1 by {off:.2g}; expected a rigid transform"
            " without scale or shear"
        )
    if float(torch.linalg.det(rotation)) < 0:
        raise UserError(f"{path}: the upper left 3x3 mirrors (its determinant is -1); expected a rotation")
    return transform

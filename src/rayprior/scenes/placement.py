"""Where things are: the working frame of a capture, whether cameras surround their subject, near, far and the box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import cos, isfinite, radians

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths.poses import focus_point
from rayprior.maths.space import Box, Similarity
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Description, Points
from rayprior.scenes.scene import Bounds

LOOKS_AT_DEG = 35.0  # a camera whose axis is this close to the direction of the focus looks at it
INWARD_SHARE = 0.8  # of the cameras look at the focus
INWARD_SPREAD = 0.97  # length of the mean viewing direction; 1: all parallel, cameras over a cap of +-20 degrees: 0.97
NEAR, FAR = 0.05, 100.0  # where nothing tells, in mean camera distances; far is infinity to a contracted field
NEAR_INWARD = 0.2  # mip-NeRF 360's; what is nearer to such a camera no other sees: it is where floaters hide
NEAR_DEPTH = 0.5  # of the nearest known distance: sensors miss what is close, but not all of it
POINT_MARGIN = 0.2  # room around the sparse points, which miss what has no texture
SEEN_QUANTILE = 0.9  # of what cameras see at the focus; close-ups show less than the subject
FEWEST_POINTS = 100  # fewer say nothing about bounds


@dataclass(frozen=True, eq=False)
class Placement:
    """The working frame. focus, up: in working units and axes; inward: the cameras surround what they look at."""

    similarity: Similarity
    focus: Float[Tensor, "3"]
    up: Float[Tensor, "3"]
    inward: bool


def place(description: Description) -> Placement:
    """The format's own working frame, else: focus at the origin, mean distance of the cameras from it 1."""
    cameras = description.cameras
    focus, in_front = _focus(cameras)
    offset = focus - cameras.origins
    aimed = (F.normalize(offset, dim=1) * cameras.forward).sum(dim=1) > cos(radians(LOOKS_AT_DEG))
    spread = float(cameras.forward.mean(dim=0).norm())
    inward = in_front and not description.forward_facing and spread < INWARD_SPREAD
    inward = inward and float(aimed.double().mean()) >= INWARD_SHARE
    similarity = description.similarity
    if similarity is None:
        similarity = _centred(description, focus, in_front)
    if description.format in ("blender", "npz", "synthetic", "family") and description.similarity is not None:
        up = torch.tensor([0.0, 0.0, 1.0])
    else:
        up = -similarity.poses(cameras.c2w)[:, :, 1].mean(dim=0).float()
        up = F.normalize(up, dim=0) if float(up.norm()) > 1e-3 else torch.tensor([0.0, 0.0, 1.0])
    return Placement(similarity, similarity.points(focus), up, inward)


def _focus(cameras: Cameras) -> tuple[Tensor, bool]:
    """The point that the cameras look at, and whether it is in front of most; else the middle of the cameras."""
    focus = focus_point(cameras.c2w)
    ahead = ((focus - cameras.origins) * cameras.forward).sum(dim=1)
    if bool(focus.isfinite().all()) and float((ahead > 0).double().mean()) >= INWARD_SHARE:
        return focus, True
    return cameras.origins.mean(dim=0), False


def _centred(description: Description, focus: Tensor, in_front: bool) -> Similarity:
    """Focus to the origin, mean camera distance to 1. Axes stay.

    Where axes hardly meet (one way, or outward) points tell the unit, if there are any: their median distance.
    """
    origins = description.cameras.origins
    unit = float((origins - focus).norm(dim=1).mean())
    extent = float((origins - origins.mean(dim=0)).norm(dim=1).mean())
    points = description.points
    parallel = unit > 30 * extent or unit < 1e-9 * (1 + float(focus.norm()))
    if points is not None and len(points) >= FEWEST_POINTS and (parallel or not in_front):
        middle = points.position.double().median(dim=0).values
        focus = middle if parallel and in_front else focus
        unit = float((points.position.double() - origins.mean(dim=0)).norm(dim=1).median())
    if not (isfinite(unit) and unit > 1e-9 * (1 + float(focus.norm()))):
        unit = 1.0  # cameras at one place, and nothing else to measure by
    return Similarity(1 / unit, translation=tuple((-focus / unit).tolist()))


# -- bounds ------------------------------------------------------------------------------------------------------------


def find_bounds(
    description: Description,
    placement: Placement,
    cameras: Cameras,
    points: Points | None,
    known_background: bool,
    near: float | None = None,
    far: float | None = None,
    nearest: float | None = None,
) -> tuple[Bounds, str]:
    """Near, far and box in working units, and where they come from; cameras and points are in working units.

    near, far    override, in the capture's unit. Raises UserError unless 0 <= near < far.
    nearest      known distance of a training view (`nearest_distance`): where nothing else tells, near is half of it
    """
    scale = placement.similarity.scale
    distances = None if points is None else _distances(points, cameras)
    if description.bounds is not None:
        low, high, how = description.bounds[0] * scale, description.bounds[1] * scale, "stated"
    elif distances is not None:
        closest, farthest = torch.quantile(
            _thinned(distances), torch.tensor([0.001, 0.999], dtype=torch.float64)
        ).tolist()
        low, high, how = closest * (1 - POINT_MARGIN), farthest * (1 + POINT_MARGIN), "from points"
        if not description.forward_facing and not (known_background and placement.inward):
            high = max(high, FAR)  # behind the last point there may be a background without texture
    else:
        low, high, how = NEAR_INWARD if placement.inward else NEAR, FAR, "from poses"
        if nearest is not None and low < NEAR_DEPTH * nearest < high:  # else its unit may be another
            low, how = NEAR_DEPTH * nearest, "from poses and depth"
    if near is not None or far is not None:
        low, high = low if near is None else near * scale, high if far is None else far * scale
        how = "as asked" if near is not None and far is not None else f"{how}, one as asked"
    if not (isfinite(low) and isfinite(high) and 0 <= low < high):
        raise UserError(
            f"{description.path}: near {low / scale:g} and far {high / scale:g} (the capture's unit) are no range;"
            " expected 0 <= near < far: set them with --near and --far"
        )
    box = _box(description, placement, cameras, points, low, high)
    unit = (
        "the capture's unit" if abs(scale - 1) < 1e-12 else f"working units; 1 unit = {1 / scale:.4g} of the capture's"
    )
    return Bounds(low, high, box), f"near {low:.4g}, far {high:.4g} ({unit}; {how})"


def nearest_distance(maps: Sequence[Float[Tensor, "h w 1"]]) -> float | None:
    """The nearest of the views' distances that one in a thousand of their known pixels falls short of, so that a few
    wrong pixels say nothing; None where none is known."""
    known = [distance[distance.isfinite()] for distance in maps]
    lowest = [float(part.kthvalue(max(1, len(part) // 1000)).values) for part in known if len(part)]
    return min(lowest) if lowest else None


def _distances(points: Points, cameras: Cameras) -> Tensor | None:
    """Distances at which cameras saw points; without tracks, of all points from all cameras that have them in view."""
    if len(points) < FEWEST_POINTS:
        return None
    position = points.position.double()
    if len(points.track_point):
        found = (position[points.track_point] - cameras.origins[points.track_camera]).norm(dim=1)
    else:
        some = _thinned(position, 10_000)
        parts = [cameras.project(some, torch.full((len(some),), i)) for i in range(len(cameras))]
        found = torch.cat([distance[inside] for _, distance, inside in parts])
    return found if len(found) >= FEWEST_POINTS else None


def _thinned(values: Tensor, most: int = 1_000_000) -> Tensor:
    """Every k-th row, at most `most` rows."""
    return values[:: len(values) // most + 1]


def _box(
    description: Description, placement: Placement, cameras: Cameras, points: Points | None, near: float, far: float
) -> Box:
    """The stated box; the part of space that inward cameras share, cut to the points there; else what frusta cover."""
    if description.box is not None and (placement.inward or description.similarity is None):
        corners = torch.tensor(list(product(*zip(description.box.low, description.box.high))), dtype=torch.float64)
        return _around(placement.similarity.points(corners))
    if not placement.inward:
        far = far if description.forward_facing else min(far, 1.0)
        return _around(_frusta(cameras, near, far))
    distance = (cameras.origins - placement.focus).norm(dim=1)
    seen = distance * (cameras.size / (2 * cameras.focal_px)).amax(dim=1)  # half of what each camera sees at the focus
    half = min(float(torch.quantile(seen, SEEN_QUANTILE)), 0.95 * float(distance.median()))
    low, high = placement.focus - half, placement.focus + half
    if points is not None:
        position = points.position.double()
        inside = position[((position > low) & (position < high)).all(dim=1)]
        if len(inside) >= FEWEST_POINTS:
            extent = torch.quantile(_thinned(inside), torch.tensor([0.005, 0.995], dtype=torch.float64), dim=0)
            margin = POINT_MARGIN * (extent[1] - extent[0]).max()
            low, high = torch.maximum(low, extent[0] - margin), torch.minimum(high, extent[1] + margin)
    return _around(torch.stack([low, high]))


def _frusta(cameras: Cameras, near: float, far: float) -> Float[Tensor, "k 3"]:
    """The corner rays of all cameras at near and far."""
    width, height = cameras.size.double().unbind(dim=1)
    zero = torch.zeros_like(width)
    corners = torch.stack([zero, zero, width, zero, zero, height, width, height], dim=1).view(-1, 2)
    camera = torch.arange(len(cameras)).repeat_interleave(4)
    origins, directions = cameras.origins[camera], cameras.directions(camera, corners).nan_to_num(0.0)
    return torch.cat([origins + near * directions, origins + far * directions])


def _around(points: Float[Tensor, "k 3"]) -> Box:
    """The smallest axis-aligned box, never without volume."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    thin = (high - low) < 1e-6
    low, high = torch.where(thin, low - 1e-3, low).tolist(), torch.where(thin, high + 1e-3, high).tolist()
    return Box(tuple(low), tuple(high))

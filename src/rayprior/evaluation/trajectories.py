"""Trajectories: camera paths to render along, in working units. Only `train` and `test` keep the capture's lens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import pi, radians
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayprior.errors import UserError, did_you_mean
from rayprior.maths.poses import average_pose, focus_point, interpolate, look_at, opencv_from_opengl
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.scene import Scene

FRAMES = 60
REVERSAL_ROUNDS = 10
FULL_CIRCLE_GAP_DEG = 100.0  # cameras that leave a larger gap than this did not walk around their subject


def camera_path(path: str, scene: Scene, frames: int | None = None, size: tuple[int, int] | None = None) -> Cameras:
    """Cameras of a named path (orbit, spiral, interpolate, train, test) or of a JSON file, in working units.

    frames: how many; default 60, or as many as the views or the file have (then others are picked or interpolated).
    size: (width, height); default that of the first training picture, or of the file. The vertical field of view stays.

    Raises:
        UserError: no such path or file, a file that is not a camera path, or a size that is none.
    """
    if size is not None and min(size) < 1:
        raise UserError(f"--size {size[0]}x{size[1]}: a picture has at least 1x1 pixels, for example --size 640x480")
    if frames is not None and frames < 1:
        raise UserError(f"--frames {frames}: a path has at least 1 frame, for example --frames {FRAMES}")
    if path in ("train", "test"):
        return _own_views(scene, path, frames, size)
    if path in PATHS:
        return _with_poses(scene, PATHS[path](scene, frames or FRAMES), size)
    file = Path(path)
    if file.is_file():
        return read_camera_path(file, scene, frames, size)
    if file.suffix == ".json":
        raise UserError(f"{file}: no such file; --path takes a camera path in JSON, or a name: {', '.join(NAMES)}")
    raise UserError(f"no camera path named '{path}'{did_you_mean(path, NAMES)} (or the name of a JSON file)")


# -- paths by name -----------------------------------------------------------------------------------------------------


def orbit(scene: Scene, frames: int) -> Float[Tensor, "n 3 4"]:
    """Around what the training cameras look at, at their mean height and radius, and back where it began.

    Cameras that saw the scene from one side only are not led behind it: the path then swings over the arc that they
    covered. A forward-facing capture gets a small ellipse; one that looks outward is walked through.
    """
    c2w = _train(scene).c2w
    if scene.forward_facing:
        return _sway(scene, frames, turns=1, push=0.0)
    if not scene.inward:
        return through_training_views(scene, frames)
    up = F.normalize(scene.up.double(), dim=0)
    focus = focus_point(c2w)
    offset = c2w[:, :, 3] - focus
    height = (offset @ up).mean()
    flat = offset - (offset @ up)[:, None] * up
    radius = flat.norm(dim=1).mean()
    east = F.normalize(_across(up, flat), dim=0)
    north = torch.linalg.cross(up, east)
    angle = _orbit_angles(torch.atan2(flat @ north, flat @ east), frames)
    ring = torch.cos(angle)[:, None] * east + torch.sin(angle)[:, None] * north
    return look_at(focus + height * up + radius * ring, focus, up)


def spiral(scene: Scene, frames: int) -> Float[Tensor, "n 3 4"]:
    """The path of LLFF (Mildenhall et al. 2019): two turns around a middle pose, moving in and out, looking at one
    point in front. Radii are the 90th percentile of the cameras' offsets."""
    return _sway(scene, frames, turns=2, push=0.5)


def through_training_views(scene: Scene, frames: int) -> Float[Tensor, "n 3 4"]:
    """From training pose to training pose, on a short way through all of them, at even speed."""
    c2w = _train(scene).c2w
    return resampled(c2w[short_way(c2w)], frames)


PATHS: dict[str, Callable[[Scene, int], Tensor]] = {
    "orbit": orbit,
    "spiral": spiral,
    "interpolate": through_training_views,
}
NAMES = (*PATHS, "train", "test")


def _own_views(scene: Scene, which: str, frames: int | None, size: tuple[int, int] | None) -> Cameras:
    """The scene's own cameras with their lenses; pictures of one film have one size, the first's unless given."""
    views = scene.split.train if which == "train" else scene.split.test
    if not views:
        raise UserError(f"{scene.path or scene.name}: split '{scene.split.name}' has no {which} view to render")
    picked = views if frames is None else [views[i * len(views) // frames] for i in range(frames)]
    cameras = scene.cameras[list(picked)]
    first = cameras.size[0].tolist()
    return resized(cameras, size or (first[0], first[1]))


def _sway(scene: Scene, frames: int, turns: int, push: float) -> Tensor:
    """An ellipse (or spiral, with `push` in and out) around a middle pose, looking at one point ahead.

    The middle of a forward-facing capture is its average pose, as in LLFF. Elsewhere an average may lie inside the
    subject: there it is the training camera with the shortest way to all others, and the ellipse is kept small.
    """
    c2w = _train(scene).c2w
    centre = average_pose(c2w) if scene.forward_facing else c2w[int(_travel(c2w).sum(dim=1).argmin())]
    rotation, origin = centre[:, :3], centre[:, 3]
    local = (c2w[:, :, 3] - origin) @ rotation  # (n, 3) offsets in the axes of the middle camera
    radii = torch.quantile(local.abs(), 0.9, dim=0)
    ahead = 1 / (0.25 / scene.bounds.near + 0.75 / scene.bounds.far)  # LLFF: three quarters along inverse distance
    if not scene.forward_facing:
        focus = float((focus_point(c2w) - origin) @ rotation[:, 2])
        ahead = focus if scene.inward and focus > 0 else max(ahead, float(radii.max()))
        radii = radii.clamp_max(ahead / 4)
    angle = torch.arange(frames, dtype=torch.float64) * (2 * pi * turns / frames)
    path = torch.stack([torch.cos(angle), -torch.sin(angle), -torch.sin(angle * push)], dim=1) * radii
    return look_at(origin + path @ rotation.T, origin + rotation[:, 2] * ahead, -rotation[:, 1])


def _orbit_angles(seen: Float[Tensor, "n"], frames: int) -> Float[Tensor, "m"]:
    """Evenly around the circle, or, where the cameras left a wide gap, to and fro over the arc that they covered."""
    ordered = seen.sort().values
    gaps = torch.cat([ordered[1:] - ordered[:-1], ordered[:1] + 2 * pi - ordered[-1:]])
    widest = int(gaps.argmax())
    step = torch.arange(frames, dtype=torch.float64) / frames
    if gaps[widest] < radians(FULL_CIRCLE_GAP_DEG):
        return ordered[0] + 2 * pi * step
    start = ordered[(widest + 1) % len(ordered)]
    arc = 2 * pi - gaps[widest]
    return start + arc * (1 - torch.cos(2 * pi * step)) / 2


def _across(up: Tensor, flat: Tensor) -> Tensor:
    """Some direction in the plane of the orbit: the first camera's, or any where it stands above the focus."""
    if flat[0].norm() > 1e-6:
        return flat[0]
    return torch.linalg.cross(up, torch.eye(3, dtype=up.dtype)[int(up.abs().argmin())])


def short_way(c2w: Float[Tensor, "n 3 4"]) -> list[int]:
    """A short open path through all poses: nearest neighbours, then reversals of stretches while they shorten it."""
    cost = _travel(c2w).tolist()
    first = max(range(len(cost)), key=lambda i: sum(cost[i]))  # an extreme pose is a good place to begin
    order, left = [first], set(range(len(cost))) - {first}
    while left:
        order.append(min(left, key=lambda i: (cost[order[-1]][i], i)))
        left.remove(order[-1])

    def step(a: int, b: int) -> float:
        """The cost between two places of the order; past an end there is no step."""
        return cost[order[a]][order[b]] if a >= 0 and b < len(order) else 0.0

    for _ in range(REVERSAL_ROUNDS):
        improved = False
        for i, j in combinations(range(len(order)), 2):
            if step(i - 1, j) + step(i, j + 1) < step(i - 1, i) + step(j, j + 1) - 1e-9:
                order[i : j + 1] = order[i : j + 1][::-1]
                improved = True
        if not improved:
            break
    return order


def _travel(c2w: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n n"]:
    """How far it is from pose to pose: the way, plus the turn as the way that it looks like (90 degrees: the mean
    distance between cameras)."""
    way = torch.cdist(c2w[:, :, 3], c2w[:, :, 3])
    rotation = c2w[:, :, :3].reshape(-1, 9)
    turn = torch.arccos(((rotation @ rotation.T - 1) / 2).clamp(-1, 1))  # the trace of R_i^T R_j is 1 + 2 cos
    return way + turn / (pi / 2) * (way.mean() if way.mean() > 1e-9 else 1.0)


def resampled(c2w: Float[Tensor, "n 3 4"], frames: int) -> Float[Tensor, "m 3 4"]:
    """`frames` poses from the first to the last of `c2w`, at even speed."""
    first, second, share = _even_steps(c2w, frames)
    return interpolate(c2w[first], c2w[second], share)


def _even_steps(c2w: Float[Tensor, "n 3 4"], frames: int) -> tuple[Tensor, Tensor, Float[Tensor, "m"]]:
    """Between which two poses each frame lies, and how far along."""
    if len(c2w) == 1:
        nowhere = torch.zeros(frames, dtype=torch.long)
        return nowhere, nowhere, torch.zeros(frames, dtype=torch.float64)
    lengths = _travel(c2w).diagonal(1).clamp_min(1e-9)
    end = lengths.cumsum(dim=0)
    at = torch.linspace(0, 1, frames, dtype=torch.float64) * end[-1]
    first = torch.searchsorted(end, at).clamp_max(len(lengths) - 1)
    return first, first + 1, (1 - (end[first] - at) / lengths[first]).clamp(0, 1)


# -- cameras for poses -------------------------------------------------------------------------------------------------


def _train(scene: Scene) -> Cameras:
    if not scene.split.train:
        raise UserError(f"{scene.path or scene.name}: split '{scene.split.name}' has no training view to start from")
    return scene.cameras[list(scene.split.train)]


def _with_poses(scene: Scene, c2w: Float[Tensor, "n 3 4"], size: tuple[int, int] | None) -> Cameras:
    """Pinhole cameras at these poses with the first training camera's field of view."""
    first = _train(scene)[0]
    if size is not None:
        first = resized(first, size)
    return replace(first[[0] * len(c2w)], c2w=c2w.double(), lens="pinhole", distortion=None)


def resized(cameras: Cameras, size: tuple[int, int]) -> Cameras:
    """The same views in pictures of (width, height): the vertical field of view stays, sides are cut or extended."""
    width, height = size
    wanted = torch.tensor([[width, height]]).expand(len(cameras), 2)
    ratio = height / cameras.size[:, 1:].double()
    off_centre = (cameras.centre_px - cameras.size / 2) * ratio
    return replace(cameras, focal_px=cameras.focal_px * ratio, centre_px=wanted / 2 + off_centre, size=wanted)


# -- paths from files --------------------------------------------------------------------------------------------------


def read_camera_path(
    file: Path, scene: Scene, frames: int | None = None, size: tuple[int, int] | None = None
) -> Cameras:
    """A camera path in the form of nerfstudio's camera_path.json, in the capture's own units and axes.

        {"camera_path": [{"camera_to_world": 16 numbers by rows, OpenGL axes, "fov": vertical, degrees,
                          "aspect": width / height}, ...], "render_height": 480, "render_width": 640}

    fov defaults to the first training camera's; the size to render_width x render_height, else to that camera's height
    with the first entry's aspect. Other keys are ignored.

    Raises:
        UserError: broken JSON, a missing key, a matrix that is not a rigid pose, a field of view out of range.
    """
    layout = _read_json(file)
    entries = layout.get("camera_path")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file}: 'camera_path' is missing or empty; expected a list of cameras with 'camera_to_world'")
    usual = _train(scene)[0]
    default_fov = _fov_deg(usual)
    poses, fovs = [], []
    for number, entry in enumerate(entries):
        where = f"{file}: camera_path[{number}]"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is {type(entry).__name__}, expected an object with 'camera_to_world'")
        poses.append(_pose(where, entry.get("camera_to_world")))
        fovs.append(_number(f"{where}: 'fov'", entry.get("fov", default_fov), low=0, high=180))
    c2w = scene.similarity.poses(opencv_from_opengl(torch.stack(poses)))
    fov = torch.tensor(fovs, dtype=torch.float64)
    if frames is not None:
        first, second, share = _even_steps(c2w, frames)
        c2w, fov = interpolate(c2w[first], c2w[second], share), torch.lerp(fov[first], fov[second], share)
    width, height = size or _declared_size(file, layout, entries[0], usual)
    focal = height / 2 / torch.tan(torch.deg2rad(fov) / 2)
    count = len(c2w)
    return Cameras(
        c2w=c2w,
        focal_px=torch.stack([focal, focal], dim=1),
        centre_px=torch.tensor([[width / 2, height / 2]], dtype=torch.float64).expand(count, 2),
        size=torch.tensor([[width, height]]).expand(count, 2),
    )


def camera_path_json(cameras: Cameras, scene: Scene) -> dict[str, Any]:
    """Cameras in working units -> the layout that `read_camera_path` takes."""
    poses = opencv_from_opengl(scene.similarity.inverse().poses(cameras.c2w))
    entries = [
        {
            "camera_to_world": [*pose.reshape(-1).tolist(), 0.0, 0.0, 0.0, 1.0],
            "fov": _fov_deg(cameras[i]),
            "aspect": float(cameras.size[i, 0] / cameras.size[i, 1]),
        }
        for i, pose in enumerate(poses)
    ]
    width, height = cameras.size[0].tolist()
    return {"camera_path": entries, "render_height": height, "render_width": width}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        layout = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: can't be read ({error}); expected a camera path in JSON") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}: broken JSON at line {error.lineno}, column {error.colno} ({error.msg}); mend it"
        ) from error
    if not isinstance(layout, dict):
        raise UserError(f"{file}: holds a {type(layout).__name__}, expected an object with 'camera_path'")
    return layout


def _pose(where: str, value: Any) -> Float[Tensor, "3 4"]:
    """16 numbers by rows (or 4 rows of 4) -> the upper 3x4, checked to be rigid."""
    if value is None:
        raise UserError(f"{where} has no 'camera_to_world'; expected 16 numbers, row by row")
    try:
        matrix = torch.tensor(value, dtype=torch.float64).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: 'camera_to_world' is {value!r}; expected 16 numbers, row by row") from error
    if len(matrix) != 16:
        raise UserError(f"{where}: 'camera_to_world' has {len(matrix)} numbers, expected 16, row by row")
    if not torch.isfinite(matrix).all():
        raise UserError(f"{where}: 'camera_to_world' holds nan or infinity; expected 16 finite numbers")
    pose = matrix.view(4, 4)[:3]
    skew = (pose[:, :3].T @ pose[:, :3] - torch.eye(3, dtype=torch.float64)).abs().max()
    if skew > 1e-3 or torch.det(pose[:, :3]) < 0:
        raise UserError(
            f"{where}: the left 3x3 of 'camera_to_world' is no rotation (off by {float(skew):.3g}); expected a rigid "
            f"pose by rows in OpenGL axes, without scale or mirror"
        )
    return pose


def _declared_size(file: Path, layout: dict[str, Any], entry: dict[str, Any], camera: Cameras) -> tuple[int, int]:
    if "render_width" in layout or "render_height" in layout:
        width = _number(f"{file}: 'render_width'", layout.get("render_width"), low=0, high=65536)
        height = _number(f"{file}: 'render_height'", layout.get("render_height"), low=0, high=65536)
        return max(round(width), 1), max(round(height), 1)
    width, height = camera.size[0].tolist()
    aspect = _number(f"{file}: 'aspect'", entry.get("aspect", width / height), low=0, high=1000)
    return max(round(height * aspect), 1), height


def _number(what: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise UserError(f"{what} is {value!r}, expected a number between {low:g} and {high:g}")
    return float(value)


def _fov_deg(camera: Cameras) -> float:
    """Vertical field of view."""
    return float(2 * torch.rad2deg(torch.atan(camera.size[0, 1] / 2 / camera.focal_px[0, 1])))

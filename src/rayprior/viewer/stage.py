"""Stage: the capture in the page, its cameras with thumbnails and its points; and what people put there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from rayprior.maths.space import Box, Similarity
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.scene import Scene

THUMBNAIL = 72  # pixels of a thumbnail's longer side
MOST_POINTS = 300_000
TRAIN, HELD_OUT, OTHER, PATH = (40, 110, 190), (220, 120, 20), (120, 120, 120), (200, 30, 60)


def add_cameras(server: Any, scene: Scene, to_shown: Similarity, on_click: Callable[[Any, int], None]) -> Any:
    """A frustum with its photo for each view: training blue, held out orange, others grey. `on_click(client, view)`.

    Returns the node that holds them all.
    """
    import viser.transforms as turns

    poses = to_shown.poses(scene.cameras.c2w)
    size = frustum_size(scene)
    held_out = {*scene.split.test, *scene.split.val}
    parent = server.scene.add_frame("/cameras", show_axes=False)
    for view, name in enumerate(scene.names):
        fov, aspect = field_of_view(scene.cameras, view)
        handle = server.scene.add_camera_frustum(
            f"/cameras/{view:04d} {name.replace('/', ' ')}", fov=fov, aspect=aspect, scale=size, thickness=size / 30,
            color=TRAIN if view in scene.split.train else HELD_OUT if view in held_out else OTHER,
            image=thumbnail(scene.pictures[view]), jpeg_quality=70, cast_shadow=False, receive_shadow=False,
            wxyz=turns.SO3.from_matrix(poses[view, :, :3].numpy()).wxyz, position=poses[view, :, 3].numpy(),
        )  # fmt: skip
        handle.on_click(lambda event, view=view: on_click(event.client, view))
    return parent


def add_points(server: Any, scene: Scene, to_shown: Similarity) -> Any:
    """The sparse points in their colours; of very many every k-th. None where the capture has none."""
    if scene.points is None or len(scene.points) == 0:
        return None
    every = -(-len(scene.points) // MOST_POINTS)
    position = to_shown.points(scene.points.position[::every].double()).float().numpy()
    colour = scene.points.rgb[::every].to(torch.uint8).numpy()
    size = frustum_size(scene) / 15
    return server.scene.add_point_cloud(
        "/points", position, colour, point_size=size, point_shape="circle", precision="float32", point_shading="flat"
    )


def draw_box(server: Any, box: Box, thickness: float) -> Any:
    """The twelve edges of a box in shown coordinates."""
    corners = Box(box.low, box.high).inverse_unit(torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)).numpy()
    pairs = [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)]
    return server.scene.add_line_segments("/crop", corners[pairs], PATH, thickness=thickness)


def draw_path(
    server: Any, keys: Float[Tensor, "k 3 4"], curve: Float[Tensor, "n 3 4"], fov: float, aspect: float, size: float
) -> None:
    """A camera path in shown coordinates: its views as frusta, its curve; nothing of what was drawn before stays."""
    import viser.transforms as turns

    server.scene.remove_by_name("/path")  # with all that is below it
    server.scene.add_frame("/path", show_axes=False)
    for number, pose in enumerate(keys):
        server.scene.add_camera_frustum(
            f"/path/{number}", fov=fov, aspect=aspect, scale=size, thickness=size / 25, color=PATH,
            wxyz=turns.SO3.from_matrix(pose[:, :3].numpy()).wxyz, position=pose[:, 3].numpy(),
        )  # fmt: skip
    if len(keys) > 1:
        steps = torch.stack([curve[:-1, :, 3], curve[1:, :, 3]], dim=1).numpy()  # (n - 1, 2, 3)
        server.scene.add_line_segments("/path/curve", steps, PATH, thickness=size / 15)


def thumbnail(picture: UInt8[Tensor, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """A small copy; what has alpha stands on white."""
    small = picture.permute(2, 0, 1)[None].float() / 255
    share = THUMBNAIL / max(small.shape[2:])
    if share < 1:
        height, width = (max(round(side * share), 1) for side in small.shape[2:])
        small = F.interpolate(small, size=(height, width), mode="area")
    rgb, alpha = small[0, :3], small[0, 3:]
    seen = rgb * alpha + 1 - alpha if len(alpha) else rgb
    return (seen.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def field_of_view(cameras: Cameras, view: int) -> tuple[float, float]:
    """(vertical field of view in radians, width / height) of a camera, without its lens distortion."""
    width, height = cameras.size[view].tolist()
    return 2 * float(torch.atan(height / 2 / cameras.focal_px[view, 1])), width / height


def frustum_size(scene: Scene) -> float:
    """How large cameras are drawn: half of what lies between neighbours, within 1 and 4 % of how far they look."""
    origins = scene.cameras.origins
    far = float((origins - scene.focus).norm(dim=1).mean()) or 1.0
    apart = torch.cdist(origins, origins).fill_diagonal_(torch.inf).amin(dim=1)
    between = float(apart.median()) / 2 if len(origins) > 1 else far
    return min(max(between, 0.01 * far), 0.04 * far)


def capture_box_shown(scene: Scene, to_shown: Similarity, low: Sequence[float], high: Sequence[float]) -> Box:
    """A box along the capture's axes, in its unit -> the same box in shown coordinates, whose axes those are."""
    ends = torch.tensor([list(low), list(high)], dtype=torch.float64)
    shown = to_shown.points(scene.similarity.points(ends))
    first, last = shown.amin(dim=0).tolist(), shown.amax(dim=0).tolist()
    return Box((first[0], first[1], first[2]), (last[0], last[1], last[2]))

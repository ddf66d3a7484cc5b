"""Consistency: whether pictures of one scene agree on the surfaces that they share, and along a film.

One picture's pixels are carried along their rays to the surface and into another picture; where both see the surface,
the colours are compared. The distances say where: true ones where the capture has them, else the rendered ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rayprior.errors import UserError
from rayprior.evaluation.pictures import SURFACE, Picture, Renders, render_camera
from rayprior.evaluation.trajectories import FRAMES, camera_path
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.scene import Scene

PAIRS = 16  # views that are compared with their nearest neighbour, evenly chosen
PIXELS = 1 << 14  # of a pair, evenly chosen
EVEN = 0.05  # of the distance: where a pixel and its neighbours differ by more there is an edge, which mixes colours
SAME = 0.02  # of the distance: a surface farther behind what another view sees there is hidden from it, or unknown
WALK = 12  # frames of a film that flicker is measured on

PROTOCOL = {
    "consistency": f"mean absolute difference of colours, {PAIRS} views at most and the nearest other one of each, "
    "where both see the surface by the {distance} distances (edges left out); consistency_photographs: of the true "
    "views themselves",
    "flicker": f"the same of consecutive frames, the first {WALK} of {FRAMES} along the orbit, by rendered distances",
}


@dataclass(frozen=True, eq=False)
class Sight:
    """A picture and how far along each ray it sees a surface; nan: none is there, or it is not to be compared."""

    rgb: Float[Tensor, "h w 3"]
    distance: Float[Tensor, "h w"]


def rendered_surface(picture: Picture) -> Float[Tensor, "h w"]:
    """The distances that a rendering shows itself; nan where it is see-through."""
    return torch.where(picture.opacity > SURFACE, picture.distance, torch.nan)


def neighbours(cameras: Cameras) -> list[tuple[int, int]]:
    """(view, the nearest other one) of at most `PAIRS` views, evenly chosen; empty where there is one view alone.

    Near is in place and in direction: the way in units of the mean way between two, plus the chord between the
    directions of sight.
    """
    count = len(cameras)
    if count < 2:
        return []
    way = torch.cdist(cameras.origins, cameras.origins)
    far = way.sum() / (count * (count - 1))
    cost = way / far.clamp_min(1e-12) + torch.cdist(cameras.forward, cameras.forward)
    nearest = cost.fill_diagonal_(torch.inf).argmin(dim=1).tolist()
    chosen = {i * count // PAIRS for i in range(PAIRS)} if count > PAIRS else set(range(count))
    return [(view, nearest[view]) for view in sorted(chosen)]


def difference(sights: Mapping[int, Sight], cameras: Cameras, pairs: Sequence[tuple[int, int]]) -> float | None:
    """Mean absolute difference of colours over all pixels that both views of a pair see. None where there is none.

    sights  by the camera's place in `cameras`

    Pictures that differ by a constant each, as by their exposure, are as far apart as their constants.
    """
    parts = [_differences(sights[i], sights[j], cameras, i, j) for i, j in pairs]
    whole = torch.cat([part.flatten() for part in parts]) if parts else torch.zeros(0)
    return float(whole.double().mean()) if whole.numel() else None


def flicker(
    model: Renders,
    scene: Scene,
    *,
    path: str = "orbit",
    frames: int = WALK,
    background: tuple[float, float, float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> float | None:
    """How much colours on surfaces change from frame to frame of a film: `difference` of consecutive frames.

    path    as `camera_path` takes it
    frames  how many of its first ones are rendered

    Raises UserError for fewer than two frames, and what `camera_path` raises.
    """
    if frames < 2:
        raise UserError(f"flicker of {frames} frame{'s' * (frames != 1)}: expected at least 2, which are compared")
    cameras = camera_path(path, scene)[:frames]
    sights = {}
    for index in range(len(cameras)):
        picture = render_camera(model, scene, cameras, index, background)
        sights[index] = Sight(picture.rgb, rendered_surface(picture))
        if on_progress is not None:
            on_progress(index + 1, len(cameras))
    return difference(sights, cameras, [(i, i + 1) for i in range(len(cameras) - 1)])


def _differences(a: Sight, b: Sight, cameras: Cameras, i: int, j: int) -> Float[Tensor, "p 3"]:
    """Of the pixels of a whose surface b sees too."""
    width = a.distance.shape[1]
    pixel = _even_surface(a.distance).flatten().nonzero()[:, 0]
    count = min(len(pixel), PIXELS)
    pixel = pixel[torch.arange(count) * len(pixel) // max(count, 1)]
    camera = torch.full_like(pixel, i)
    centre = torch.stack([pixel % width, pixel // width], dim=1) + 0.5
    reach = a.distance.flatten()[pixel].double()
    points = cameras.origins[camera] + cameras.directions(camera, centre) * reach[:, None]
    at, away, inside = cameras.project(points, torch.full_like(pixel, j))
    rgb, distance = _looked_up(b, at.nan_to_num(-1.0))
    both = inside & ((distance - away).abs() <= SAME * away)  # nan is neither
    return (rgb - a.rgb.reshape(-1, 3)[pixel])[both].abs()


def _even_surface(distance: Float[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Pixels on one surface with the eight around them: none is unknown, none much nearer or farther."""
    grid = distance[None, None]
    least, most = (sign * F.max_pool2d(sign * grid, 3, stride=1, padding=1)[0, 0] for sign in (-1, 1))
    return most - least <= EVEN * distance  # nan is not


def _looked_up(sight: Sight, pixel: Float[Tensor, "p 2"]) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p"]]:
    """Colour and distance between pixel centres, bilinear; the distance is nan next to an edge."""
    height, width = sight.distance.shape
    distance = torch.where(_even_surface(sight.distance), sight.distance, torch.nan)
    planes = torch.cat([sight.rgb, distance[:, :, None]], dim=2).permute(2, 0, 1)[None].double()
    at = 2 * pixel / pixel.new_tensor([width, height]) - 1
    values = F.grid_sample(planes, at[None, None], padding_mode="border", align_corners=False)[0, :, 0].T  # (p, 4)
    return values[:, :3], values[:, 3]

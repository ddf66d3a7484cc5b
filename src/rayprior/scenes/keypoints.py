"""Keypoints: sparse points as the training views see them. Where, how far along the ray, and how well that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Points

LEAST_STD = 1e-3  # of the distance: no bundle adjustment knows a point better than this
WHY_NOT = Callable[[Tensor, Tensor, Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Keypoints:
    """One row an observation: a training view, and a point of the capture that it and another training view saw.

    camera        which view, an index of the scene's cameras
    pixel         (u, v) to which the point projects: the ray through it passes through the point
    distance      along that ray, working units
    distance_std  its standard deviation, `reprojection_std`, at least a thousandth of the distance
    confidence    `confidence_of` the point's reprojection error: 2 is exact, .74 the mean point
    views         the training views
    dropped       observations that were left out, by reason: how many of each of the scene's cameras
    missing       why there was no observation to begin with; empty where there were some
    """

    camera: Int[Tensor, "k"]
    pixel: Float[Tensor, "k 2"]
    distance: Float[Tensor, "k"]
    distance_std: Float[Tensor, "k"]
    confidence: Float[Tensor, "k"]
    views: tuple[int, ...]
    dropped: Mapping[str, Int[Tensor, "n"]]
    missing: str = ""

    def __len__(self) -> int:
        return self.camera.shape[0]

    def kept(self, cameras: int) -> Int[Tensor, "n"]:
        """How many each of the scene's cameras has."""
        return self.camera.bincount(minlength=cameras)

    @property
    def summary(self) -> str:
        """'1081 keypoints of 1240 observations in 3 training views, ...; dropped: 159 seen by one training view'."""
        if self.missing:
            return f"no keypoints: {self.missing}"
        left_out = {reason: int(counts.sum()) for reason, counts in self.dropped.items()}
        total = len(self) + sum(left_out.values())
        if total == 0:
            return "no keypoints: no training view saw any of the sparse points"
        counts = self.kept(max(self.views) + 1)[list(self.views)]
        words = f"{len(self)} keypoints of {total} observations in {len(self.views)} training views"
        words += f", {int(counts.min())} to {int(counts.max())} a view"
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        return words + (f"; dropped: {reasons}" if reasons else "")

    def table(self, names: Sequence[str]) -> list[str]:
        """Lines of text: for every training view how many were kept, and dropped for which reason.

        names  of all the scene's views
        """
        if self.missing:
            return [self.summary]
        columns = {"kept": self.kept(len(names))} | {r: n for r, n in self.dropped.items() if int(n.sum())}
        width = max(4, *(len(names[view]) for view in self.views))
        head = "  ".join([f"{'view':<{width}}", *columns])
        rows = [
            "  ".join([f"{names[view]:<{width}}", *(f"{int(n[view]):>{len(c)}}" for c, n in columns.items())])
            for view in self.views
        ]
        return [head, *rows]


def find_keypoints(points: Points | None, cameras: Cameras, views: Sequence[int], why_not: WHY_NOT) -> Keypoints:
    """The observations by `views` (the training views) of points that at least two of them saw.

    cameras, points  in working units; reprojection errors in pixels of these cameras
    why_not          (camera, pixel, distance) -> {reason: which rows to drop}, of points that lie in the picture

    Left out, and counted by the first reason that applies: points that one training view alone saw, that lie behind
    the camera or outside its picture, those of `why_not`, and those whose distance nothing tells (its standard
    deviation exceeds it, as without a baseline). Points without tracks are not used: a projection cannot tell a point
    on a surface from one behind it.
    """
    views = tuple(views)
    if points is None or len(points) == 0:
        return _none(views, "the capture has no sparse points")
    if len(points.track_point) == 0:
        return _none(views, f"its {len(points)} sparse points have no tracks, which tell what view saw which point")
    point, camera = _observations(points, len(cameras), views)
    position = points.position.double()[point]
    pixel, distance, inside = cameras.project(position, camera)
    offset = position - cameras.origins[camera]
    reasons: dict[str, Tensor] = {
        "seen by one training view": point.bincount(minlength=len(points))[point] < 2,
        "behind the camera": (offset * cameras.forward[camera]).sum(dim=1) <= 0,
        "outside the picture": ~inside,
    }
    whole = (~torch.stack(list(reasons.values())).any(dim=0)).nonzero()[:, 0]
    for reason, wrong in why_not(camera[whole], pixel[whole], distance[whole]).items():
        reasons[reason] = torch.zeros_like(inside).index_put((whole,), wrong)

    error_px, mean_px = _errors(points, point)
    directions = offset / distance[:, None].clamp_min(1e-12)
    baseline = _baselines(point, camera, directions, cameras.origins, views, len(points))
    std = reprojection_std(error_px[point], distance, cameras.focal_px.mean(dim=1)[camera], baseline)
    reasons["too uncertain"] = ~(std < distance)

    kept, dropped = torch.ones_like(inside), {}
    for reason, wrong in reasons.items():
        dropped[reason] = camera[kept & wrong].bincount(minlength=len(cameras))
        kept &= ~wrong
    return Keypoints(
        camera=camera[kept],
        pixel=pixel[kept],
        distance=distance[kept],
        distance_std=torch.maximum(std, LEAST_STD * distance)[kept],
        confidence=confidence_of(error_px[point], mean_px)[kept],
        views=views,
        dropped=dropped,
    )


def reprojection_std(
    error_px: Float[Tensor, "k"],
    distance: Float[Tensor, "k"],
    focal_px: Float[Tensor, "k"],
    baseline: Float[Tensor, "k"],
) -> Float[Tensor, "k"]:
    """Standard deviation e z^2 / (f b) of a distance z that was triangulated over a baseline b across the ray.

    Ours: a match that is off by e pixels of a camera with focal length f moves the crossing of two rays by that much;
    infinite or nan where there is no baseline.
    """
    return error_px * distance.square() / (focal_px * baseline)


def confidence_of(error_px: Float[Tensor, "k"], mean_px: float | Tensor) -> Float[Tensor, "k"]:
    """2 exp(-(e / mean e)^2) of a reprojection error e: the weight of DS-NeRF's released code."""
    return 2 * torch.exp(-(error_px / mean_px).square())


def _none(views: tuple[int, ...], missing: str) -> Keypoints:
    nothing = torch.zeros(0, dtype=torch.float64)
    return Keypoints(nothing.long(), nothing.view(0, 2), nothing, nothing, nothing, views, {}, missing)


def _observations(points: Points, cameras: int, views: tuple[int, ...]) -> tuple[Int[Tensor, "o"], Int[Tensor, "o"]]:
    """(point, camera) of the views' observations; two features of one picture that are one point count once."""
    ours = torch.isin(points.track_camera, torch.tensor(views))
    pair = torch.unique(points.track_point[ours].long() * cameras + points.track_camera[ours].long())
    return pair // cameras, pair % cameras


def _errors(points: Points, seen: Int[Tensor, "o"]) -> tuple[Float[Tensor, "p"], Tensor]:
    """Reprojection errors of all points, px, and their mean over the points seen. Unknown ones (-1) are the mean."""
    error = points.error_px.double()
    there = error[seen.unique()]
    known = there[there >= 0]
    mean = known.mean() if len(known) else torch.ones((), dtype=error.dtype)
    return torch.where(error >= 0, error, mean), mean.clamp_min(1e-12)


def _baselines(
    point: Int[Tensor, "o"],
    camera: Int[Tensor, "o"],
    directions: Float[Tensor, "o 3"],
    origins: Float[Tensor, "n 3"],
    views: tuple[int, ...],
    points: int,
) -> Float[Tensor, "o"]:
    """How far to the side of each ray the farthest of the other views stands that saw its point."""
    across = torch.zeros(len(point), dtype=origins.dtype)
    for view in views:  # all pairs of a track at once would take memory by the square of its length
        seen: Bool[Tensor, "p"] = torch.zeros(points, dtype=torch.bool)
        seen[point[camera == view]] = True
        rows = seen[point].nonzero()[:, 0]
        offset = origins[view] - origins[camera[rows]]
        side = torch.linalg.cross(offset, directions[rows]).norm(dim=1)
        across[rows] = torch.maximum(across[rows], side)
    return across

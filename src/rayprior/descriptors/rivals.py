"""Labels that need no field: exact geometry, a sensor's depth, the tracks of sparse points, and pictures moved by hand.

Stereo has a file of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from rayprior.descriptors.correspond import NOT_IN_PICTURE, DistanceLabels, check_pixels
from rayprior.descriptors.drawing import Object, objects_of, view_pairs
from rayprior.descriptors.pairs import Matches, Pairs
from rayprior.errors import UserError
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Points
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import World, correspondences

NO_TRACK = "no sparse point that both views saw is near the source pixel"
HIDDEN = "nothing there, hidden in the target view, or outside its picture"
ANOTHER_WORLD = "one of the views shows another world"
OTHER_VIEW = "a homography moves a picture, and leads to no other view"


class ExactLabels:
    """The matches of an analytic world: closed-form hits and visibility (a `Labels`, deterministic).

    views  where the cameras see this world; None: everywhere. Elsewhere nothing is matched
    """

    def __init__(self, world: World, cameras: Cameras, views: Collection[int] | None = None) -> None:
        self.world, self.cameras, self.views = world, cameras, views
        self.dropped: Counter[str] = Counter()

    def match(
        self, view_s: int, pixels: Float[Tensor, "r 2"], view_t: int, generator: Generator | None = None
    ) -> Matches:
        source = check_pixels(pixels, self.cameras[view_s], f"view {view_s}")
        if self.views is not None and not {view_s, view_t} <= set(self.views):
            self.dropped[ANOTHER_WORLD] += len(source)
            return _nothing(len(source))
        pixel, valid = correspondences(self.world, self.cameras, view_s, view_t, source)
        self.dropped[HIDDEN] += int((~valid).sum())
        return Matches.of(pixel, valid)


def sensor_labels(scene: Scene, *, same: float = 0.02) -> DistanceLabels:
    """Labels by the scene's own depth maps, of held-out views too. UserError where it has none.

    same  how far, as a share, a point's distance may be from what the target's own map says
    """
    if scene.depth is None:
        raise UserError(
            f"{scene.path or scene.name}: no depth maps, which labels 'depth' are made of; expected a sensor's, or"
            " files beside the pictures (docs/depth.md)"
        )
    return DistanceLabels(scene.cameras, {view: scene.depth[view][:, :, 0] for view in range(len(scene))}, same=same)


# -- sparse points -----------------------------------------------------------------------------------------------------


class TrackLabels:
    """Matches by the tracks of sparse points: which view saw which point, and where (a `Labels`, deterministic).

    A pixel within `within_px` of a point that both views saw matches where the other view saw it, so that it is off by
    about as much; all others are not valid. `draw` has the tracks' own pixels.

    UserError for a scene without sparse points, or whose points have no tracks.
    """

    def __init__(self, scene: Scene, *, within_px: float = 0.5) -> None:
        self.scene, self.within_px = scene, within_px
        self.points = _tracked(scene)
        self.dropped: Counter[str] = Counter()
        self._seen: dict[int, Float[Tensor, "p 2"]] = {}

    def match(
        self, view_s: int, pixels: Float[Tensor, "r 2"], view_t: int, generator: Generator | None = None
    ) -> Matches:
        source = check_pixels(pixels, self.scene.cameras[view_s], f"view {view_s}")
        there, here = self._of_view(view_t), self._of_view(view_s)
        both = (here.isfinite() & there.isfinite()).all(dim=1).nonzero()[:, 0]
        if len(both) == 0:
            self.dropped[NO_TRACK] += len(source)
            return _nothing(len(source))
        near, at = torch.cdist(source, here[both], compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        pixel = there[both[at]]
        close = near <= self.within_px
        valid = close & ((pixel >= 0) & (pixel < self.scene.cameras.size[view_t])).all(dim=1)
        self.dropped[NO_TRACK] += int((~close).sum())
        self.dropped[NOT_IN_PICTURE] += int((close & ~valid).sum())
        return Matches.of(pixel, valid)

    def draw(self, views: Sequence[int], count: int, generator: Generator) -> Pairs:
        """`count` of the tracks' own pairs in `view_pairs` of the views, on the object; repeated where there are fewer.

        UserError where there is none, and as `view_pairs`.
        """
        asked = torch.zeros(len(self.scene), len(self.scene), dtype=torch.bool)
        view_s, view_t = torch.tensor(view_pairs(self.scene.cameras, list(objects_of(self.scene, views)))).unbind(dim=1)
        asked[view_s, view_t] = True
        pairs = track_pairs(self.scene, views)
        pairs = pairs[asked[pairs.view_s, pairs.view_t]]
        if len(pairs) == 0:
            raise UserError(
                f"{self.scene.path or self.scene.name}: no two of the {len(views)} views saw the same sparse point on"
                " the object; choose more views, or labels of another source"
            )
        enough = len(pairs) >= count
        chosen = torch.randperm(len(pairs), generator=generator) if enough else None
        chosen = torch.randint(len(pairs), (count,), generator=generator) if chosen is None else chosen[:count]
        return pairs[chosen]

    def _of_view(self, view: int) -> Float[Tensor, "p 2"]:
        """Where a view saw each point; nan where it did not."""
        if view not in self._seen:
            points = self.points
            rows = (points.track_camera == view).nonzero()[:, 0]
            seen = torch.full((len(points), 2), torch.nan, dtype=torch.float64)
            seen[points.track_point[rows]] = _observed(self.scene.cameras, points, rows)
            self._seen[view] = seen
        return self._seen[view]


def track_pairs(scene: Scene, views: Sequence[int]) -> Pairs:
    """Every two views' pixels of every point that both saw, in both directions, on the object where masks tell it.

    Pixels are those of the tracks, that is of the photographs; where the files do not say them, the point's projection.
    UserError for a scene without sparse points, or whose points have no tracks.
    """
    points, on = _tracked(scene), objects_of(scene, views)
    rows = torch.isin(points.track_camera, torch.tensor(list(on))).nonzero()[:, 0]
    rows = rows[points.track_point[rows].argsort(stable=True)]
    pixel = _observed(scene.cameras, points, rows)
    camera = points.track_camera[rows].long()
    held = _on_object(on, camera, pixel)
    point, camera, pixel = points.track_point[rows][held].long(), camera[held], pixel[held]
    first, second = _within_groups(point)
    other = camera[first] != camera[second]  # two features of one picture may be one point
    first, second = first[other], second[other]
    weight = torch.ones(len(first), dtype=torch.float64)
    return Pairs(camera[first], camera[second], pixel[first], pixel[second], weight)


def held_out_tracks(scene: Scene, share: float = 0.2, seed: int = 0) -> Pairs:
    """Pairs, in all views, of a random share of the points: what labels of a real capture are checked by.

    `without_held_out` with the same share and seed is the scene without these points, for whatever else uses points: a
    field that is trained with them, labels 'points'. UserError for a share outside (0, 1), and as `track_pairs`.
    """
    points = _tracked(scene)
    held = _some_points(points, _held_out(len(points), share, seed))
    return track_pairs(replace(scene, points=held), range(len(scene)))


def without_held_out(scene: Scene, share: float = 0.2, seed: int = 0) -> Scene:
    """The scene without the points of `held_out_tracks`."""
    points = _tracked(scene)
    return replace(scene, points=_some_points(points, ~_held_out(len(points), share, seed)))


# -- homographies ------------------------------------------------------------------------------------------------------


class HomographyLabels:
    """A picture's matches in itself: every pixel is where it is (a `Labels`, deterministic).

    The lower bound of all sources, it knows no geometry. A pair whose views and pixels are the same is one that the
    descriptor task moves by a random homography, the second picture and its pixel alike. No other view is matched.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.dropped: Counter[str] = Counter()

    def match(
        self, view_s: int, pixels: Float[Tensor, "r 2"], view_t: int, generator: Generator | None = None
    ) -> Matches:
        source = check_pixels(pixels, self.scene.cameras[view_s], f"view {view_s}")
        if view_s != view_t:
            self.dropped[OTHER_VIEW] += len(source)
            return _nothing(len(source))
        return Matches.of(source, torch.ones(len(source), dtype=torch.bool))

    def draw(self, views: Sequence[int], count: int, generator: Generator) -> Pairs:
        """`count` pixels, uniform on the object in random views, each its own match. UserError as `objects_of`."""
        on = objects_of(self.scene, views)
        order = torch.tensor(list(on))
        number = torch.randint(len(order), (count,), generator=generator).bincount(minlength=len(order))
        pixel = torch.cat([on[view].draw(n, generator) for view, n in zip(on, number.tolist(), strict=True)])
        view = order.repeat_interleave(number)
        return Pairs(view, view, pixel, pixel, torch.ones(count, dtype=torch.float64))


# -- parts -------------------------------------------------------------------------------------------------------------


def _nothing(count: int) -> Matches:
    return Matches.of(torch.full((count, 2), torch.nan, dtype=torch.float64), torch.zeros(count, dtype=torch.bool))


def _tracked(scene: Scene) -> Points:
    """The scene's points; UserError where they, or their tracks, are missing."""
    points = scene.points
    if points is None or len(points) == 0:
        missing = "no sparse points"
    elif len(points.track_point) == 0:
        missing = f"its {len(points)} sparse points have no tracks, which tell what view saw which point"
    else:
        return points
    raise UserError(
        f"{scene.path or scene.name}: {missing}; matches by sparse points want a COLMAP model with its points"
        " (sparse/0/points3D.bin, images.bin), or labels of another source"
    )


def _observed(cameras: Cameras, points: Points, rows: Int[Tensor, "o"]) -> Float[Tensor, "o 2"]:
    """Where observations are: as the files say, else where the point projects to."""
    stated = points.track_pixel[rows].double()
    position = points.position.double()[points.track_point[rows].long()]
    projected, _, _ = cameras.project(position, points.track_camera[rows].long())
    return stated.where(stated.isfinite().all(dim=1, keepdim=True), projected)


def _on_object(on: dict[int, Object], camera: Int[Tensor, "o"], pixel: Float[Tensor, "o 2"]) -> Bool[Tensor, "o"]:
    """Which observations lie in their picture, on the object."""
    held = torch.zeros(len(camera), dtype=torch.bool)
    for view, thing in on.items():
        rows = (camera == view).nonzero()[:, 0]
        inside = ((pixel[rows] >= 0) & (pixel[rows] < torch.tensor(thing.size))).all(dim=1)
        held[rows] = thing.holds(pixel[rows].where(inside[:, None], torch.nan))
    return held


def _within_groups(group: Int[Tensor, "o"]) -> tuple[Int[Tensor, "q"], Int[Tensor, "q"]]:
    """All ordered pairs of different rows of equal `group`, which is sorted."""
    _, size = group.unique_consecutive(return_counts=True)
    start = (size.cumsum(dim=0) - size).repeat_interleave(size)  # (o,) of each row's group
    others = size.repeat_interleave(size)
    first = torch.arange(len(group)).repeat_interleave(others)
    within = torch.arange(len(first)) - (others.cumsum(dim=0) - others).repeat_interleave(others)
    second = start.repeat_interleave(others) + within
    different = first != second
    return first[different], second[different]


def _held_out(count: int, share: float, seed: int) -> Bool[Tensor, "p"]:
    if not 0 < share < 1:
        raise UserError(f"tracks held out: share={share:g}; expected a share of the points, above 0 and below 1")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(count, dtype=torch.bool)
    held[order[: max(1, round(share * count))]] = True
    return held


def _some_points(points: Points, kept: Bool[Tensor, "p"]) -> Points:
    """Only those points, and their tracks."""
    number = kept.cumsum(dim=0) - 1
    rows = kept[points.track_point.long()]
    return Points(
        position=points.position[kept],
        rgb=points.rgb[kept],
        error_px=points.error_px[kept],
        track_point=number[points.track_point.long()][rows].to(points.track_point.dtype),
        track_camera=points.track_camera[rows],
        track_pixel=points.track_pixel[rows],
    )

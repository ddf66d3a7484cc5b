"""Multi-view stereo without learning: plane sweep, then what other views confirm. The rival of labels from a field.

Plane sweep (Collins, CVPR 1996) over parallel planes in inverse depth; patches are compared by normalised
cross-correlation; of the neighbours the better two count, so that one may be occluded; a distance stays where other
views' maps lead back to the same pixel, as in COLMAP's geometric consistency (Schoenberger et al., ECCV 2016). Rays and
projections are the cameras' own, so any lens will do, and no photograph is resampled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from rayprior.descriptors.correspond import DistanceLabels
from rayprior.descriptors.pairs import Matches
from rayprior.errors import UserError
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.scene import Scene

KNOTS = 8  # planes from one exact projection to the next; a straight path between is off by hundredths of a pixel
MOST_PLANES = 513
CHUNK = 1_000_000  # planes x pixels that are compared at once: what a core's cache holds decides


@dataclass(frozen=True)
class Sweep:
    """How stereo looks.

    neighbours   of these many training views, the nearest in angle, the two that agree best with a plane judge it
    least_deg, most_deg   which views may be neighbours: the angle between both at what the view looks at
    step_px      what the neighbour that moves most moves by from plane to plane, at its median pixel and on average
    window_px    side of the patches that are compared, odd
    noise        deviation of a picture's noise, of white: patches that vary less agree with nothing
    least_score  correlation below which a pixel stays unknown
    unique       ... and where another place correlates nearly as well: 1 - best must be below this times 1 - other
    views        neighbours whose own maps must lead back to the pixel
    within_px, within    ... to within these many pixels, and this share of the distance
    """

    neighbours: int = 4
    least_deg: float = 5.0
    most_deg: float = 30.0
    step_px: float = 0.75
    window_px: int = 5
    noise: float = 0.01
    least_score: float = 0.6
    unique: float = 0.8
    views: int = 2
    within_px: float = 1.0
    within: float = 0.01


class StereoLabels:
    """Labels by the distances that stereo finds; what it does not find, or the other view does not, is not valid.

    Maps are made when a view is first asked for, or by `prepare`, and kept. UserError as `stereo_maps`.
    """

    def __init__(
        self, scene: Scene, how: Sweep | None = None, *, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.maps: dict[int, Float[Tensor, "h w"]] = {}
        self._work = _Work(scene, how or Sweep())
        self._labels = DistanceLabels(scene.cameras, self.maps)
        self._on_progress = on_progress

    @property
    def dropped(self) -> Counter[str]:
        """How many source pixels were left without a match, by reason."""
        return self._labels.dropped

    def prepare(self, views: Sequence[int]) -> None:
        """Make the maps that will be asked for, with progress in views."""
        for done, view in enumerate(views, start=1):
            if view not in self.maps:
                self.maps[view] = self._work.confirmed(view)
            if self._on_progress is not None:
                self._on_progress(done, len(views))

    def match(
        self, view_s: int, pixels: Float[Tensor, "r 2"], view_t: int, generator: Generator | None = None
    ) -> Matches:
        """Deterministic."""
        for view in {view_s, view_t} - self.maps.keys():
            self.maps[view] = self._work.confirmed(view)
        return self._labels.match(view_s, pixels, view_t, generator)


def stereo_maps(
    scene: Scene,
    views: Sequence[int],
    how: Sweep | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[int, Float[Tensor, "h w"]]:
    """Distances along the rays of some views, float32 in working units, nan where stereo knows nothing.

    Neighbours are training views, whatever the views asked for. `on_progress` is called with (views done, views in
    all). UserError where no view has the two neighbours that stereo needs.
    """
    labels = StereoLabels(scene, how, on_progress=on_progress)
    labels.prepare(views)
    return labels.maps


def neighbours_of(scene: Scene, view: int, how: Sweep) -> list[int]:
    """The training views that a view is compared with, nearest in angle first.

    The angle is that between both cameras at the point which `view` looks at: as far away as the scene's focus, or,
    before scenes that cameras don't surround, at the middle of near and far in inverse distance.
    """
    cameras, near, far = scene.cameras, scene.bounds.near, scene.bounds.far
    others = torch.tensor([i for i in scene.split.train if i != view], dtype=torch.long)
    away = (scene.focus - cameras.origins[view]).norm() if scene.inward else 2 / (1 / near + 1 / far)
    towards = -cameras.forward[view]
    point = cameras.origins[view] - away * towards
    _, _, sees = cameras.project(point.expand(len(others), 3), others)
    cosine = F.normalize(cameras.origins[others] - point, dim=1) @ towards
    angle = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
    fit = sees & (angle >= how.least_deg) & (angle <= how.most_deg)
    return others[fit][angle[fit].argsort(stable=True)][: how.neighbours].tolist()


class _Work:
    """One scene's sweep, with the raw maps that were made."""

    def __init__(self, scene: Scene, how: Sweep) -> None:
        self.scene, self.how = scene, how
        self.raw: dict[int, Tensor] = {}
        self.neighbours = {view: neighbours_of(scene, view, how) for view in range(len(scene))}
        if not any(len(n) >= 2 for n in self.neighbours.values()):
            raise UserError(
                f"{scene.path or scene.name}: stereo compares each view with two or more training views from"
                f" {how.least_deg:g} to {how.most_deg:g} degrees aside, and none of the {len(scene)} views has them;"
                " train on more views, or take labels of another source"
            )
        cameras = scene.cameras  # single precision is exact to 1e-4 px, and faster
        single = {key: getattr(cameras, key).float() for key in ("c2w", "focal_px", "centre_px")}
        distortion = None if cameras.distortion is None else cameras.distortion.float()
        self.cameras = replace(cameras, **single, distortion=distortion)

    def swept(self, view: int) -> Float[Tensor, "h w"]:
        """The distances of one view that its neighbours' pictures suggest."""
        if view not in self.raw:
            bounds = (self.scene.bounds.near, self.scene.bounds.far)
            others = self.neighbours[view]
            pictures = [self.scene.picture(i).permute(2, 0, 1).contiguous() for i in (view, *others)]
            self.raw[view] = sweep(self.cameras, view, others, pictures, bounds, self.how)
        return self.raw[view]

    def confirmed(self, view: int) -> Float[Tensor, "h w"]:
        """Those of them that lead to other views' distances and back."""
        own = self.swept(view)
        others = self.neighbours[view]
        return confirmed(self.cameras, view, own, {i: self.swept(i) for i in others}, self.how)


def sweep(
    cameras: Cameras,
    view: int,
    others: Sequence[int],
    pictures: Sequence[Float[Tensor, "c h w"]],
    bounds: tuple[float, float],
    how: Sweep,
) -> Float[Tensor, "h w"]:
    """Distance along each ray of `view` to the plane on which two of the others agree with it best; nan: on none.

    pictures  in [0, 1], of the view and then of the others
    bounds    (near, far): distances between which planes stand
    """
    width, height = cameras.size[view].tolist()
    unknown = torch.full((height, width), torch.nan)
    if len(others) < 2:
        return unknown
    pixel = cameras.pixel_grid(view).to(cameras.c2w.dtype)
    camera = torch.full((len(pixel),), view)
    directions = cameras.directions(camera, pixel)
    cosine = (directions * cameras.forward[view]).sum(dim=1)
    near, far = bounds[0] * float(cosine.min()), bounds[1]
    ends = _paths(cameras, view, others, directions / cosine[:, None], torch.tensor([1 / near, 1 / far]))
    moved = (ends[:, 1] - ends[:, 0]).norm(dim=2).nanmedian(dim=1).values.max()  # over all planes, px
    spans = ceil(min(max(float(moved) / how.step_px, 64), MOST_PLANES - 1) / KNOTS)
    planes = spans * KNOTS + 1
    inverse = torch.linspace(1 / near, 1 / far, planes)
    paths = _paths(cameras, view, others, directions / cosine[:, None], inverse[::KNOTS])
    paths = paths.view(len(others), spans + 1, height, width, 2)

    rows, margin = max(1, CHUNK // (planes * width)), how.window_px // 2
    strips = []
    for top in range(0, height, rows):
        low, high = max(0, top - margin), min(height, top + rows + margin)
        first = second = torch.full((planes, high - low, width), -1.0)
        for other, path in zip(pictures[1:], paths[:, :, low:high], strict=True):
            score = _correlation(pictures[0][:, low:high], other, path, how)
            first, second = torch.maximum(first, score), torch.maximum(second, torch.minimum(first, score))
        kept = slice(top - low, min(top + rows, height) - low)
        strips.append(_winner((first + second)[:, kept] / 2, inverse, how))
    depth = 1 / torch.cat(strips)
    return depth / cosine.view(height, width).float()


def confirmed(
    cameras: Cameras, view: int, distance: Float[Tensor, "h w"], others: dict[int, Float[Tensor, "h w"]], how: Sweep
) -> Float[Tensor, "h w"]:
    """The mean of a view's own distances and those of the other views' maps that lead each pixel there and back; nan
    where fewer than `how.views` do."""
    known = distance.view(-1).isfinite().nonzero()[:, 0]
    pixel, own = cameras.pixel_grid(view)[known], distance.view(-1)[known]
    here = torch.full_like(known, view)
    directions = cameras.directions(here, pixel)
    points = cameras.origins[view] + directions * own[:, None]
    count, total = torch.zeros_like(own), own.clone()
    for other, found in others.items():
        there = torch.full_like(known, other)
        seen, far, inside = cameras.project(points, there)
        column, row = seen.where(inside[:, None], 0.0).long().unbind(dim=1)
        theirs = found[row, column]
        met = cameras.origins[other] + cameras.directions(there, seen) * theirs[:, None]
        back, _, _ = cameras.project(met, here)
        agrees = inside & ((back - pixel).norm(dim=1) < how.within_px) & ((theirs - far).abs() < how.within * far)
        count += agrees
        total += ((met - cameras.origins[view]) * directions).sum(dim=1).where(agrees, 0.0)
    mean = (total / (1 + count)).where(count >= how.views, torch.nan)
    return torch.full_like(distance.view(-1), torch.nan).index_copy(0, known, mean).view_as(distance)


def _paths(
    cameras: Cameras, view: int, others: Sequence[int], directions: Float[Tensor, "r 3"], inverse: Float[Tensor, "k"]
) -> Float[Tensor, "n k r 2"]:
    """Pixels of the others to which the view's rays lead at these inverse depths; nan behind a camera.

    directions  of the rays, with length 1 along the view's axis
    """
    points = cameras.origins[view] + directions / inverse[:, None, None]  # (k, r, 3)
    points = points.reshape(-1, 3).to(cameras.c2w.dtype)
    shape = (len(inverse), len(directions), 2)
    paths = [cameras.project(points, torch.full((len(points),), other))[0].view(shape) for other in others]
    return torch.stack(paths).float()


def _correlation(
    picture: Float[Tensor, "c h w"], other: Float[Tensor, "c y x"], path: Float[Tensor, "k h w 2"], how: Sweep
) -> Float[Tensor, "p h w"]:
    """Normalised cross-correlation of the picture's patches with what the other shows on each plane; -1 outside.

    Each colour about its own mean: flat patches agree with nothing, whatever their colours are.
    """
    spans, height, width = path.shape[0] - 1, *picture.shape[1:]
    share = torch.arange(KNOTS)[:, None, None, None] / KNOTS
    between = torch.lerp(path[:-1, None], path[1:, None], share).view(spans * KNOTS, height, width, 2)
    where = torch.cat([between, path[-1:]])
    size = where.new_tensor([other.shape[2], other.shape[1]])
    where = where * (2 / size) - 1
    outside = ~(where.abs() <= 1).all(dim=3)
    flat = where.nan_to_num(-2.0).view(1, -1, width, 2)
    shown = F.grid_sample(other[None] - 0.5, flat, padding_mode="border", align_corners=False)
    shown = shown.view(len(other), -1, height, width)
    picture = picture[:, None] - 0.5
    count = _window_sum(torch.ones_like(picture[0]), how.window_px)

    def mean(x: Tensor) -> Tensor:
        return _window_sum(x, how.window_px) / count

    middle, middle_shown = mean(picture), mean(shown)
    variance = mean(picture.square().sum(dim=0)) - middle.square().sum(dim=0)
    variance_shown = mean(shown.square().sum(dim=0)) - middle_shown.square().sum(dim=0)
    covariance = mean((shown * picture).sum(dim=0)) - (middle_shown * middle).sum(dim=0)
    noise = len(picture) * how.noise**2
    score = covariance * ((variance.clamp_min(0) + noise) * (variance_shown.clamp_min(0) + noise)).rsqrt()
    return score.masked_fill_(outside, -1.0)


def _window_sum(x: Float[Tensor, "*p h w"], side: int) -> Float[Tensor, "*p h w"]:
    """Sums over the windows around each pixel, of what is inside the picture."""
    reach = side // 2
    padded = F.pad(x, (reach, reach, reach, reach))
    across = padded[..., : x.shape[-1]].clone()
    for shift in range(1, side):
        across += padded[..., shift : shift + x.shape[-1]]
    total = across[..., : x.shape[-2], :].clone()
    for shift in range(1, side):
        total += across[..., shift : shift + x.shape[-2], :]
    return total


def _winner(score: Float[Tensor, "p h w"], inverse: Float[Tensor, "p"], how: Sweep) -> Float[Tensor, "h w"]:
    """Inverse depth of the best plane, between planes by a parabola; nan where too poor, ambiguous, or at an end."""
    best, at = score.max(dim=0)
    index = torch.arange(len(inverse))[:, None, None]
    rival = score.masked_fill((index - at).abs() <= 2, -1.0).amax(dim=0)
    middle = at.clamp(1, len(inverse) - 2)
    below, above = (score.gather(0, (middle + d)[None])[0] for d in (-1, 1))
    bend = (below + above - 2 * best).clamp_max(-1e-6)
    shift = ((below - above) / (2 * bend)).clamp(-0.5, 0.5)
    known = (best >= how.least_score) & (at == middle) & (1 - best < how.unique * (1 - rival))
    found = inverse[middle] + shift * (inverse[1] - inverse[0])
    return found.where(known, torch.nan)

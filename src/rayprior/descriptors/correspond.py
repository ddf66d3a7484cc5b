"""Correspondences from where rays end: a pixel, a distance along its ray, the point there, its pixel elsewhere."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from rayprior.descriptors.pairs import Labels, Matches
from rayprior.errors import UserError, did_you_mean
from rayprior.maths.stepfun import TINY
from rayprior.rendering.model import Model
from rayprior.rendering.raydist import RayDistribution
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.rays import Rays
from rayprior.scenes.scene import Scene

KINDS = ("raw-mean", "mean", "median", "mode", "draw", "draw-left", "distribution")
DRAWN = ("draw", "draw-left")
DRAWS = 32  # kept of each pixel, at evenly spaced quantiles
BINS = 16  # the heaviest, kept of each pixel for 'distribution'
FAINT = 0.01  # of the opacity: what a bin of 'distribution' must have
SAME = 0.01  # of a distance: what ends so near to a point does not hide it
MOST_BYTES = 2e9  # of all that a source keeps; the view asked for longest ago goes first
CHUNK = 8192
SEE_THROUGH = "the source pixel sees through everything"
NOT_IN_PICTURE = "behind the target camera or outside its picture"
HIDDEN = "hidden in the target view"
CYCLE = "the way back ends at another pixel"
UNKNOWN = "the source pixel's distance is unknown"
UNKNOWN_THERE = "the target pixel's distance is unknown"
OTHER_SURFACE = "the target pixel shows another surface"

Side = int | Cameras


def distance_of(distribution: RayDistribution, kind: str, u: Float[Tensor, "r"] | None = None) -> Float[Tensor, "r"]:
    """The distance along each ray at which a label source says that it ends.

    raw-mean   sum w m, m midpoints of bins, not divided by the opacity (NeRF-Supervision's depth map): too near to the
               camera wherever a ray is not wholly opaque
    mean, median, mode  of the normalised weights
    draw       one draw: inverse CDF of the normalised weights at `u`, linear inside the bin
    draw-left  one draw of a bin by its share w / sum w, and its left end (NeRF-Supervision's density field)

    u          uniforms in [0, 1); None: 1/2 everywhere
    UserError for another kind. 'distribution' is no single distance: `FieldLabels.match_all`.
    """
    if kind == "raw-mean":
        return (distribution.w * distribution.midpoints).sum(dim=-1)
    if kind in ("mean", "median", "mode"):
        return getattr(distribution, kind)
    if kind not in DRAWN:
        single = [name for name in KINDS if name != "distribution"]
        raise UserError(f"no distance of a ray named '{kind}'{did_you_mean(kind, single)}")
    if u is None:
        u = torch.full_like(distribution.t[..., 0], 0.5)
    return _quantiles(distribution, kind, u[..., None])[..., 0]


def _quantiles(distribution: RayDistribution, kind: str, u: Float[Tensor, "r n"]) -> Float[Tensor, "r n"]:
    """Draws at several uniforms of each ray."""
    if kind == "draw":
        return distribution.sample(u)
    running = distribution.w.cumsum(dim=-1)
    mass = running[..., -1:].contiguous()
    index = torch.searchsorted(running, (u * mass).contiguous(), right=True)
    return distribution.t.gather(-1, torch.minimum(index, torch.searchsorted(running, mass)))


def correspond(
    model: Model,
    scene: Scene,
    view_s: Side,
    pixels: Float[Tensor, "r 2"],
    view_t: Side,
    kind: str = "median",
    generator: Generator | None = None,
    *,
    least_opacity: float = 0.5,
    visible: float = 0.5,
) -> Matches:
    """Where view t shows what view s shows at `pixels`, as the field has it: X = o_s + t d_s(u), u' = project_t(X).

    Renders the asked rays themselves and keeps nothing. A view is a position in the scene's list of frames, or one
    camera of one's own (working units). Values as in `FieldLabels`.
    """
    labels = FieldLabels(model, scene, kind, least_opacity=least_opacity, visible=visible, cached=False)
    return labels.match(view_s, pixels, view_t, generator)


# -- a field -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Ends:
    """Where rays may end, and how far they see.

    distance  what may be chosen from: one of a deterministic kind, quantiles of a drawn one, bins of 'distribution'
    share     of each of them in the opacity, (r, 0) where all are alike
    blocked   distance at which the transmittance has fallen to `visible`; inf where it never does
    """

    distance: Float[Tensor, "r K"]
    share: Float[Tensor, "r k"]
    opacity: Float[Tensor, "r"]
    blocked: Float[Tensor, "r"]

    @staticmethod
    def of(distribution: RayDistribution, kind: str, visible: float) -> _Ends:
        """Compact, on the CPU."""
        share = distribution.w[:, :0]
        if kind in DRAWN:
            levels = (torch.arange(DRAWS, device=distribution.t.device) + 0.5) / DRAWS
            distance = _quantiles(distribution, kind, levels.expand(len(distribution.t), DRAWS).contiguous())
        elif kind == "distribution":
            share, bins = distribution.w.topk(min(BINS, distribution.w.shape[1]), dim=1)
            share = share / distribution.opacity.clamp_min(TINY)[:, None]
            share = share.where(share >= FAINT, 0.0)
            distance = distribution.midpoints.gather(1, bins)
        else:
            distance = distance_of(distribution, kind)[:, None]
        parts = distance, share, distribution.opacity, _blocked(distribution, visible)
        return _Ends(*(part.cpu() for part in parts))

    @staticmethod
    def cat(parts: list[_Ends]) -> _Ends:
        return _Ends(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(_Ends)))

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in vars(self).values())


def _blocked(distribution: RayDistribution, visible: float) -> Float[Tensor, "r"]:
    """Distance at which the transmittance falls to `visible`, linear inside the bin; inf where it stays above."""
    passed = distribution.w.cumsum(dim=-1)
    wanted = torch.full_like(passed[:, :1], 1 - visible)
    index = torch.searchsorted(passed, wanted).clamp_max(passed.shape[1] - 1)
    weight, left = distribution.w.gather(1, index), distribution.t.gather(1, index)
    before = passed.gather(1, index) - weight
    inside = ((wanted - before) / weight.clamp_min(TINY)).clamp(0, 1)
    at = left + inside * (distribution.t.gather(1, index + 1) - left)
    return torch.where(passed[:, -1:] >= wanted, at, torch.inf)[:, 0]


class FieldLabels:
    """Correspondences from where a field's rays end (a `Labels`).

    kind           of distance, one of `KINDS`; `match` of 'distribution' draws one of its bins, `match_all` has all
    least_opacity  a source ray with no more is taken for see-through, and matches nothing
    visible        a point is visible from the target camera where the transmittance just before it (1 % of its
                   distance) is above this; 0: not asked
    cached         True: each view's rays are rendered once, through the centres of its pixels, and what they say is
                   kept: 32 quantiles (or the 16 heaviest bins, or one distance) in float32. Between centres distances
                   are interpolated where the four around agree within 1 %, else the nearest one's is taken.
                   False: the asked rays themselves are rendered, of source and target
    dropped        how many source pixels were left without a match, by reason

    The matches' weight is the opacity of the source ray, times the bin's share in it for 'distribution': with it a loss
    over draws is an unbiased estimate of the loss over the distribution.

    UserError for another kind, and for shares outside [0, 1).
    """

    def __init__(
        self,
        model: Model,
        scene: Scene,
        kind: str = "median",
        *,
        least_opacity: float = 0.5,
        visible: float = 0.5,
        cached: bool = True,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UserError(f"no labels of a field named '{kind}'{did_you_mean(kind, KINDS)}")
        for name, value in (("least_opacity", least_opacity), ("visible", visible)):
            if not 0 <= value < 1:
                raise UserError(f"labels of a field: {name}={value:g}; expected a share, at least 0 and below 1")
        self.model, self.scene, self.kind = model, scene, kind
        self.least_opacity, self.visible, self.cached = least_opacity, visible, cached
        self.dropped: Counter[str] = Counter()
        self._kept: OrderedDict[int, _Ends] = OrderedDict()
        self._on_progress = on_progress

    @property
    def whole(self) -> bool:
        """Whether `match_all` has more to say than `match`."""
        return self.kind == "distribution"

    def prepare(self, views: list[int]) -> None:
        """Render what will be asked for, with progress in views; otherwise each view is when it is first asked for."""
        for done, view in enumerate(views, start=1):
            self._of_view(view)
            if self._on_progress is not None:
                self._on_progress(done, len(views))

    def match(
        self, view_s: Side, pixels: Float[Tensor, "r 2"], view_t: Side, generator: Generator | None = None
    ) -> Matches:
        """Where view t shows what view s shows at `pixels`; a view is a position in the scene's list of frames, or one
        camera of one's own, which is rendered each time. UserError for pixels outside the picture."""
        camera, source = self._camera(view_s), self._inside(view_s, pixels)
        count = len(pixels)
        u = torch.full((count,), 0.5) if generator is None else torch.rand(count, generator=generator)
        if self.cached and isinstance(view_s, int):
            distance, opacity = self._chosen(self._of_view(view_s), source, camera.size[0], u)
        else:
            distance, opacity = self._rendered(camera, view_s, source, u)
        return self._landed(camera, source, distance, opacity, view_t, opacity)

    def match_all(
        self, view_s: Side, pixels: Float[Tensor, "r 2"], view_t: Side
    ) -> tuple[Float[Tensor, "r S 2"], Float[Tensor, "r S"], Bool[Tensor, "r S"]]:
        """(pixel, weight, valid) for every bin that holds at least 1 % of the ray, at most 16 of them: the ray's whole
        distribution as it is seen in view t. Weights sum to about the opacity."""
        if self.kind != "distribution":
            raise UserError(f"labels '{self.kind}' are one distance a ray; the whole of it have labels 'distribution'")
        camera, source = self._camera(view_s), self._inside(view_s, pixels)
        if self.cached and isinstance(view_s, int):
            ends, at = self._of_view(view_s), _nearest(source, camera.size[0])
        else:
            ends, at = self._ends(self._rays(camera, view_s, source)), torch.arange(len(source))
        share, opacity = ends.share[at], ends.opacity[at]  # (r, S), (r,)
        bins = share.shape[1]
        every = source.repeat_interleave(bins, dim=0)
        weight = share * opacity[:, None]
        found = self._landed(
            camera,
            every,
            ends.distance[at].reshape(-1),
            opacity.repeat_interleave(bins),
            view_t,
            weight.reshape(-1),
            asked=weight.reshape(-1) > 0,
        )
        return found.pixel.view(-1, bins, 2), found.weight.view(-1, bins), found.valid.view(-1, bins)

    # -- what it is made of --------------------------------------------------------------------------------------------

    def _landed(
        self,
        camera: Cameras,
        source: Float[Tensor, "r 2"],
        distance: Float[Tensor, "r"],
        opacity: Float[Tensor, "r"],
        view_t: Side,
        weight: Float[Tensor, "r"],
        asked: Bool[Tensor, "r"] | None = None,
    ) -> Matches:
        """Project, and ask who sees it. `asked`: what is no row at all is counted nowhere."""
        target = self._camera(view_t)
        pixel, reach, inside = land(camera, source, distance, target)
        solid = opacity > self.least_opacity
        solid = solid if asked is None else solid & asked
        valid = solid & inside
        seen = valid & self._sees(view_t, target, pixel, reach, valid)
        missing = ~solid if asked is None else ~solid & asked
        self.dropped[SEE_THROUGH] += int(missing.sum())
        self.dropped[NOT_IN_PICTURE] += int((solid & ~inside).sum())
        self.dropped[HIDDEN] += int((valid & ~seen).sum())
        return Matches.of(pixel, seen, weight.double())

    def _sees(self, view: Side, camera: Cameras, pixel: Tensor, reach: Tensor, valid: Tensor) -> Bool[Tensor, "r"]:
        """Whether the transmittance just before the points is above `visible`."""
        if self.visible == 0:
            return valid
        if self.cached and isinstance(view, int):
            pixel = pixel.where(valid[:, None], 0.0)
            blocked = self._of_view(view).blocked.index_select(0, _nearest(pixel, camera.size[0]))
            return reach * (1 - SAME) < blocked
        seen = valid.clone()
        if bool(valid.any()):
            rays = self._rays(camera, view, pixel[valid])
            blocked = torch.cat([_blocked(part, self.visible).cpu() for part in self._distributions(rays)])
            seen[valid] = reach[valid] * (1 - SAME) < blocked
        return seen

    def _chosen(
        self, ends: _Ends, pixels: Float[Tensor, "r 2"], size: Int[Tensor, "2"], u: Float[Tensor, "r"]
    ) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
        """(distance, opacity) at pixels of a view that is kept."""
        at = _nearest(pixels, size)
        opacity = ends.opacity.index_select(0, at)
        if ends.share.shape[1]:
            distance = _one_of(ends.distance[at], ends.share[at], u)
        else:
            which = (u * ends.distance.shape[1]).long()
            distance = between(ends.distance, size, pixels, which, SAME)
        return distance, opacity

    def _rendered(
        self, camera: Cameras, view: Side, pixels: Float[Tensor, "r 2"], u: Float[Tensor, "r"]
    ) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
        """(distance, opacity) of these very rays."""
        distance, opacity, start = [], [], 0
        for distribution in self._distributions(self._rays(camera, view, pixels)):
            part = u[start : start + len(distribution.w)].to(distribution.w)
            if self.kind == "distribution":
                ends = _Ends.of(distribution, self.kind, self.visible)
                distance.append(_one_of(ends.distance, ends.share, part.cpu()))
            else:
                distance.append(distance_of(distribution, self.kind, part).cpu())
            opacity.append(distribution.opacity.cpu())
            start += len(part)
        return torch.cat(distance), torch.cat(opacity)

    def _of_view(self, view: int) -> _Ends:
        """What is kept of a view of the scene."""
        if view in self._kept:
            self._kept.move_to_end(view)
            return self._kept[view]
        self._camera(view)
        ends = self._ends(self.scene.view_rays(view))
        while self._kept and ends.bytes + sum(other.bytes for other in self._kept.values()) > MOST_BYTES:
            self._kept.popitem(last=False)
        self._kept[view] = ends
        return ends

    def _ends(self, rays: Rays) -> _Ends:
        return _Ends.cat([_Ends.of(part, self.kind, self.visible) for part in self._distributions(rays)])

    def _distributions(self, rays: Rays) -> Iterator[RayDistribution]:
        """Of consecutive chunks; of no rays, one chunk of none."""
        for seen in self.model.render_in_chunks(rays, CHUNK):
            yield seen.distribution
        if len(rays) == 0:
            yield RayDistribution(torch.zeros(0, 2), torch.zeros(0, 1))

    def _rays(self, camera: Cameras, view: Side, pixels: Float[Tensor, "r 2"]) -> Rays:
        if isinstance(view, int):
            return self.scene.rays(torch.full((len(pixels),), view), pixels)
        return self.scene.rays(torch.zeros(len(pixels), dtype=torch.long), pixels, cameras=camera)

    def _camera(self, view: Side) -> Cameras:
        if isinstance(view, Cameras):
            if len(view) != 1:
                raise UserError(f"a view of a correspondence is one camera; these are {len(view)}")
            return view
        if not 0 <= view < len(self.scene.cameras):
            raise UserError(
                f"{self.scene.path or self.scene.name}: no view {view}; expected 0 to {len(self.scene.cameras) - 1}"
            )
        return self.scene.cameras[view]

    def _inside(self, view: Side, pixels: Float[Tensor, "r 2"]) -> Float[Tensor, "r 2"]:
        name = f"view '{self.scene.names[view]}'" if isinstance(view, int) else "the given camera"
        return check_pixels(pixels, self._camera(view), name)


# -- known distances ---------------------------------------------------------------------------------------------------


class DistanceLabels:
    """Correspondences from maps of distances: a sensor's, a renderer's, of stereo (a `Labels`).

    cameras  of the scene's list of frames
    maps     by view: distance along the ray through each pixel's centre, (h, w), nan where unknown
    same     a match is valid where the target's own map has the point's distance, within this share of it: what is in
             front hides it, and what lies behind shows that there is no such point
    dropped  how many source pixels were left without a match, by reason

    Between centres distances are interpolated where the four around agree within `same`, else the nearest is taken.
    UserError for a map of another size than its camera's picture.
    """

    def __init__(self, cameras: Cameras, maps: Mapping[int, Float[Tensor, "h w"]], *, same: float = 0.02) -> None:
        for view, known in maps.items():
            width, height = cameras.size[view].tolist()
            if tuple(known.shape) != (height, width):
                raise UserError(
                    f"distances of view {view}: a map of {known.shape[1]}x{known.shape[0]} pixels; expected"
                    f" {width}x{height}, as its picture has"
                )
        self.cameras, self.maps, self.same = cameras, maps, same
        self.dropped: Counter[str] = Counter()

    def match(
        self, view_s: int, pixels: Float[Tensor, "r 2"], view_t: int, generator: Generator | None = None
    ) -> Matches:
        """Deterministic. A view without a map matches nothing."""
        camera, target = self.cameras[view_s], self.cameras[view_t]
        source = check_pixels(pixels, camera, f"view {view_s}")
        distance = self._at(view_s, source)
        known = distance.isfinite()
        pixel, reach, inside = land(camera, source, distance, target)
        inside &= known
        there = self._at(view_t, pixel.where(inside[:, None], 0.0))
        valid = inside & ((there - reach).abs() <= self.same * reach)
        self.dropped[UNKNOWN] += int((~known).sum())
        self.dropped[NOT_IN_PICTURE] += int((known & ~inside).sum())
        self.dropped[UNKNOWN_THERE] += int((inside & ~there.isfinite()).sum())
        self.dropped[OTHER_SURFACE] += int((inside & there.isfinite() & ~valid).sum())
        return Matches.of(pixel, valid)

    def _at(self, view: int, pixels: Float[Tensor, "r 2"]) -> Float[Tensor, "r"]:
        if view not in self.maps:
            return torch.full((len(pixels),), torch.nan)
        first = torch.zeros(len(pixels), dtype=torch.long)
        return between(self.maps[view].reshape(-1, 1), self.cameras.size[view], pixels, first, self.same)


# -- the way back ------------------------------------------------------------------------------------------------------


class CycleChecked:
    """Another source's matches whose way back leads to where they came from (a `Labels`).

    From the target u' the source is asked for its match u'' in the first view, and |u - u''| < within_px is kept. A
    source that draws draws anew. Of a whole distribution every bin is asked for its own way back.
    """

    def __init__(self, labels: Labels, within_px: float = 2.0) -> None:
        """UserError where no distance is allowed."""
        if not within_px > 0:
            raise UserError(f"cycle check within {within_px:g} px: expected more than 0, for example 2")
        self.labels, self.within_px = labels, within_px
        self._returned: Counter[str] = Counter()

    @property
    def whole(self) -> bool:
        return getattr(self.labels, "whole", False)

    @property
    def dropped(self) -> Counter[str]:
        """How many source pixels were left without a match, by reason, and how many matches had no way back."""
        return dropped_by(self.labels) + self._returned

    def match(
        self, view_s: int, pixels: Float[Tensor, "r 2"], view_t: int, generator: Generator | None = None
    ) -> Matches:
        found = self.labels.match(view_s, pixels, view_t, generator)
        valid = self._returns(view_s, pixels, view_t, found, generator)
        return Matches.of(found.pixel, valid, found.weight)

    def match_all(
        self, view_s: int, pixels: Float[Tensor, "r 2"], view_t: int, generator: Generator | None = None
    ) -> tuple[Float[Tensor, "r S 2"], Float[Tensor, "r S"], Bool[Tensor, "r S"]]:
        """As `FieldLabels.match_all` has it."""
        pixel, weight, valid = self.labels.match_all(view_s, pixels, view_t)  # pyright: ignore[reportAttributeAccessIssue]
        rows = Matches(pixel.reshape(-1, 2), weight.reshape(-1), valid.reshape(-1))
        kept = self._returns(view_s, pixels.repeat_interleave(valid.shape[1], dim=0), view_t, rows, generator)
        rows = Matches.of(rows.pixel, kept, rows.weight)
        return rows.pixel.view_as(pixel), rows.weight.view_as(weight), rows.valid.view_as(valid)

    def _returns(
        self, view_s: int, pixels: Tensor, view_t: int, found: Matches, generator: Generator | None
    ) -> Bool[Tensor, "r"]:
        """Which matches lead back."""
        back = _uncounted(self.labels, view_t, found.pixel[found.valid], view_s, generator)
        valid = found.valid.clone()
        valid[found.valid] = back.valid & ((back.pixel - pixels[found.valid]).norm(dim=1) < self.within_px)
        self._returned[CYCLE] += int(found.valid.sum() - valid.sum())
        return valid


def _uncounted(labels: Labels, view_s: int, pixels: Tensor, view_t: int, generator: Generator | None) -> Matches:
    """Matches of a way back, whose failures are none of the source's own."""
    counts = dropped_by(labels)
    before = Counter(counts)
    found = labels.match(view_s, pixels, view_t, generator)
    counts.clear()
    counts.update(before)
    return found


def dropped_by(labels: Labels) -> Counter[str]:
    """How many matches a source has refused so far, by reason; of a source that does not count, nothing."""
    counts = getattr(labels, "dropped", None)
    return Counter() if counts is None else counts


# -- what all of them share --------------------------------------------------------------------------------------------


def land(
    camera: Cameras, pixels: Float[Tensor, "r 2"], distance: Float[Tensor, "r"], target: Cameras
) -> tuple[Float[Tensor, "r 2"], Float[Tensor, "r"], Bool[Tensor, "r"]]:
    """(pixel, distance, inside) in the one camera `target` of the points at `distance` along one camera's rays."""
    only = torch.zeros(len(pixels), dtype=torch.long)
    points = camera.origins + distance.double()[:, None] * camera.directions(only, pixels)
    return target.project(points, only)


def between(
    values: Float[Tensor, "hw K"],
    size: Int[Tensor, "2"],
    pixels: Float[Tensor, "r 2"],
    which: Int[Tensor, "r"],
    same: float,
) -> Float[Tensor, "r"]:
    """Column `which` of a picture of distances, row by row, at sub-pixel places: bilinear where the four centres around
    agree with the nearest within `same` of it, else the nearest one's, so that no distance lies between two surfaces.
    """
    width, height = size.tolist()
    table, columns = values.reshape(-1), values.shape[1]
    corner = pixels - 0.5
    low = corner.floor()
    share = (corner - low).to(values.dtype)
    left, up = (low[:, i].long().clamp_(0, most - 1) for i, most in ((0, width), (1, height)))
    right, down = (low[:, i].long().add_(1).clamp_(0, most - 1) for i, most in ((0, width), (1, height)))

    def at(column: Tensor, row: Tensor) -> Tensor:
        return table.index_select(0, (row * width + column) * columns + which)

    above = at(left, up), at(right, up)
    below = at(left, down), at(right, down)
    nearest = table.index_select(0, _nearest(pixels, size) * columns + which)
    room = same * nearest
    agree = torch.ones_like(nearest, dtype=torch.bool)
    for value in (*above, *below):
        agree &= (value - nearest).abs() <= room
    across, along = share[:, 0], share[:, 1]
    mixed = torch.lerp(torch.lerp(*above, across), torch.lerp(*below, across), along)
    return torch.where(agree, mixed, nearest)


def check_pixels(pixels: Float[Tensor, "r 2"], camera: Cameras, name: str) -> Float[Tensor, "r 2"]:
    """In float64. UserError where one lies outside the camera's picture."""
    size = camera.size[0]
    inside = ((pixels >= 0) & (pixels < size)).all(dim=1)
    if not bool(inside.all()):
        u, v = pixels[~inside][0].tolist()
        width, height = size.tolist()
        raise UserError(f"{name}: no pixel ({u:g}, {v:g}); its picture has {width}x{height}, from (0, 0)")
    return pixels.double()


def _nearest(pixels: Float[Tensor, "r 2"], size: Int[Tensor, "2"]) -> Int[Tensor, "r"]:
    """Flat index of the pixel that each place lies in."""
    column, row = pixels.long().unbind(dim=1)
    return row * int(size[0]) + column


def _one_of(distance: Float[Tensor, "r K"], share: Float[Tensor, "r K"], u: Float[Tensor, "r"]) -> Float[Tensor, "r"]:
    """One of the bins of each ray, by their shares."""
    running = share.cumsum(dim=1)
    index = (running <= u[:, None] * running[:, -1:]).sum(dim=1).clamp_max(distance.shape[1] - 1)
    return distance.gather(1, index[:, None])[:, 0]

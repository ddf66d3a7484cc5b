"""Checks of what tells where things are: sparse points, depth maps, near, far and the box, against each other and
against matches triangulated with the stored poses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite, log

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayprior.capture.doctor.epipolar import triangulated
from rayprior.capture.doctor.findings import Finding, some
from rayprior.capture.doctor.poses import Evidence
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Description, Points
from rayprior.scenes.scene import Scene

SINE = 0.035  # of the angle between two rays (2 degrees), below which triangulation says little
FEWEST = 60  # distances, below which nothing is said
BESIDE = 0.05  # of the distance: how near a sparse point must be to a triangulated one to tell of the same thing
STRANGE_SEEN, STRANGE_BESIDE = 0.6, 0.25  # shares below which points belong to another scene
STRANGE_PX = 0.02  # of the longer side: reprojection error above which they do
FEW_POINTS = 20  # a view
PAIRS, SAMPLES = 24, 400  # of views whose depth is compared, and pixels of each
SCALES = torch.logspace(-4.1, 4.1, 165, dtype=torch.float64)  # of depth, tried against its neighbours
UNIT_OFF, UNIT_MENDS = 0.08, 0.6  # log of a scale worth a word, and the share of the residual that it must leave
RATIO_OFF = 0.22  # log of the ratio to matched features, beyond which depth is in another unit
UNIT_NEAR = 0.12  # relative: how near a scale must be to a unit to bear its name
KIND_MENDS, KIND_WIDE = 0.7, 0.97  # share of the residual; cosine at the corner, above which z and distance are one
UNITS = {1e-3: "thousandths (mm for m)", 1e3: "a thousand times the unit (m for mm)", 1e-2: "hundredths (cm for m)"}
UNITS |= {1e2: "a hundred times the unit (m for cm)", 10.0: "ten times the unit", 0.1: "tenths of the unit"}
UNITS |= {0.3048: "feet for metres", 1 / 0.3048: "metres for feet"}
CUT_DOUBTFUL, CUT_UNUSABLE = 0.05, 0.25  # share of what is seen that lies outside of what is rendered


@dataclass(frozen=True, eq=False)
class Known:
    """Places whose distance is known: which camera sees them where, how far along its ray, and where that is; in the
    capture's unit. at: in widths and heights of the picture, whatever its size."""

    camera: Int[Tensor, "r"]
    at: Float[Tensor, "r 2"]
    distance: Float[Tensor, "r"]
    position: Float[Tensor, "r 3"]

    def __len__(self) -> int:
        return self.camera.shape[0]


def triangulate(evidence: Evidence) -> Known:
    """What the matches tell with the stored poses: those that meet within the expected error, at 2 degrees or more."""
    cameras, matches = evidence.cameras, evidence.matches
    distance, sine = triangulated(cameras.c2w, matches.pair, evidence.xy)
    close = evidence.all_px(cameras.c2w) < evidence.fine_px
    good = (close & (distance > 0).all(dim=2) & (sine > SINE)).repeat_interleave(2, dim=0).view(len(matches), 2, -1)
    camera = matches.pair[:, :, None].expand_as(good)[good]
    pixel, along = matches.pixel[good], distance.transpose(1, 2)[good]
    return Known(
        camera,
        pixel / cameras.size[camera],
        along,
        cameras.origins[camera] + along[:, None] * cameras.directions(camera, pixel),
    )


# -- sparse points -----------------------------------------------------------------------------------------------------


def check_points(description: Description, known: Known | None) -> tuple[list[Finding], str, bool]:
    """Whether the sparse points are of this scene, and how many a view has; last: whether they can be believed."""
    points = description.points
    if points is None or len(points) == 0:
        return [], "none", False
    cameras = description.cameras
    evidence: dict[str, float | int | str] = {"points": len(points)}
    words = [f"{len(points)} points"]
    seen, error = _seen(points, cameras)
    evidence["visible"] = round(seen, 4)
    words.append(f"{seen:.0%} of their observations in view")
    strange = seen < STRANGE_SEEN
    if isfinite(error):
        evidence["reprojection_px"] = round(error, 3)
        words.append(f"reprojection error {error:.2f} px (median)")
        strange |= error > STRANGE_PX * float(cameras.size.double().amax(dim=1).median())
    if known is not None and len(known) >= FEWEST:
        some_known = torch.linspace(0, len(known) - 1, min(len(known), 1500)).long()
        gap = torch.cdist(known.position[some_known], points.position.double()).amin(dim=1)
        beside = float((gap < BESIDE * known.distance[some_known]).double().mean())
        evidence["matches_beside_points"] = round(beside, 4)
        words.append(f"{beside:.0%} of matched features lie beside one")
        strange |= beside < STRANGE_BESIDE
    fact = ", ".join(words)
    if strange:
        says = f"sparse points do not belong to these photos: {fact}"
        remedy = "take the points away, or give those of the same reconstruction as the poses (depth, bounds and units"
        return [Finding("points", "unusable", says, f"{remedy} come from them)", evidence)], fact, False
    if len(points.track_point) == 0:
        return [], fact, True
    a_view = points.track_camera.bincount(minlength=len(cameras))
    fact += f", {int(a_view.median())} a view (median), {int(a_view.min())} at least"
    poor = tuple(name for name, count in zip(description.names, a_view.tolist()) if count < FEW_POINTS)
    if not poor:
        return [], fact, True
    says = f"{len(poor)} of {len(cameras)} views see fewer than {FEW_POINTS} sparse points: {some(poor)}"
    remedy = "depth terms have little to say there; photos closer to each other give more points"
    return [Finding("points", "note", says, remedy, evidence | {"views_with_few": len(poor)}, poor)], fact, True


def _seen(points: Points, cameras: Cameras) -> tuple[float, float]:
    """Share of observations that are in view of the camera which made them, and their median error in pixels (nan where
    no pixels are known). Without tracks: share of the points that two cameras have in view."""
    position = points.position.double()
    if len(points.track_point) == 0:
        views = torch.zeros(len(points))
        for i in range(len(cameras)):
            views += cameras.project(position, torch.full((len(points),), i))[2]
        return float((views >= min(2, len(cameras))).double().mean()), float("nan")
    pixel, _, inside = cameras.project(position[points.track_point], points.track_camera)
    error = (pixel - points.track_pixel.double()).norm(dim=1)
    told = error[inside & error.isfinite()]
    return float(inside.double().mean()), float(told.median()) if len(told) else float("nan")


def points_known(description: Description) -> Known:
    """The observations of the sparse points."""
    points, cameras = description.points, description.cameras
    assert points is not None
    camera, position = points.track_camera, points.position.double()[points.track_point]
    pixel, distance, inside = cameras.project(position, camera)
    return Known(camera[inside], (pixel / cameras.size[camera])[inside], distance[inside], position[inside])


# -- depth maps --------------------------------------------------------------------------------------------------------


def check_depth(scene: Scene, known: Known | None, is_distance: bool) -> tuple[list[Finding], str, bool]:
    """Unit and kind of the depth maps: against the maps of other views, and against what is triangulated.

    known        of the scene's cameras, in the capture's unit
    is_distance  how the files were read: as distances along the ray, or as z

    The last value: whether a wrong unit was found.
    """
    depth, cameras = scene.depth, _in_own_units(scene)
    if depth is None:
        return [], "none", False
    have = [i for i in range(len(scene)) if bool(depth[i].isfinite().any())]
    share = sum(float(depth[i].isfinite().float().mean()) for i in have) / max(len(have), 1)
    fact = f"maps of {len(have)} of {len(scene)} views, {share:.0%} of their pixels known"
    scale, ratio = scene.similarity.scale, _ratio(scene, known)
    pairs = _depth_pairs(cameras, have)
    sampled = _Sampled.of(scene, pairs, scale) if pairs else None
    evidence: dict[str, float | int | str] = {"views": len(have), "known": round(share, 4)}
    if ratio is not None:
        evidence["ratio_to_matches"] = round(ratio, 6)
        fact += f", {ratio:.3g} x as far as matched features (median)"
    if sampled is not None:
        residual = sampled.residual(cameras, 1.0)
        evidence |= {"cross_view": round(residual, 5) if isfinite(residual) else "no overlap"}
        fact += f", {residual:.2%} apart between views (median)" if isfinite(residual) else ", no overlap between views"
    if ratio is not None:
        best, mends = 1 / ratio, abs(log(ratio)) > RATIO_OFF
    elif sampled is not None:
        best, mends = sampled.scale_that_fits(cameras)
    else:
        best, mends = 1.0, False
    if mends:
        name = next((f", which is {word}" for unit, word in UNITS.items() if abs(best / unit - 1) < UNIT_NEAR), "")
        says = f"depth is in another unit than the poses: times {best:.3g} it fits them{name}"
        remedy = (
            f"multiply the unit by {best:.3g}: depth_unit_scale_factor of transforms.json where frames name their maps,"
            ' "unit" of depth.json beside maps that are found by name'
        )
        return [Finding("depth", "unusable", says, remedy, evidence | {"scale": round(best, 7)})], fact, True
    return (_kind(sampled, cameras, is_distance, evidence) if sampled is not None else []), fact, False


def _kind(
    sampled: _Sampled, cameras: Cameras, is_distance: bool, evidence: dict[str, float | int | str]
) -> list[Finding]:
    """z read as distance, or distance as z."""
    if float(sampled.cosine.min()) > KIND_WIDE:
        return []
    as_read = sampled.residual(cameras, 1.0, wide=True)
    other = sampled.residual(cameras, 1.0, wide=True, power=-1.0 if is_distance else 1.0)
    if not other < KIND_MENDS * as_read:
        return []
    was, should = ("distance", "z") if is_distance else ("z", "distance")
    finding = Finding(
        "depth",
        "doubtful",
        f"depth maps hold {_WORD[should]}, but are read as {_WORD[was]}: views differ by {as_read:.2%} so,"
        f" by {other:.2%} otherwise (median, away from the pictures' middle)",
        f'say so with {{"kind": "{should}"}} in depth.json beside maps that are found by name; convert others by the'
        " cosine between a pixel's ray and the axis",
        evidence | {"cross_view_as_read": round(as_read, 5), "cross_view_otherwise": round(other, 5)},
    )
    return [finding]


_WORD = {"z": "z along the optical axis", "distance": "distance along the ray"}


@dataclass(frozen=True, eq=False)
class _Sampled:
    """Pixels with depth in one view and the maps of another that may see the same.

    pair      which views; direction, distance, cosine: of the pixels (p, s), capture's unit
    """

    scene: Scene
    scale: float
    pair: Int[Tensor, "p 2"]
    direction: Float[Tensor, "p s 3"]
    distance: Float[Tensor, "p s"]
    cosine: Float[Tensor, "p s"]

    @staticmethod
    def of(scene: Scene, pairs: list[tuple[int, int]], scale: float) -> _Sampled:
        assert scene.depth is not None
        cameras = _in_own_units(scene)
        directions, distances, cosines = [], [], []
        for i, _ in pairs:
            values = scene.depth[i].reshape(-1)
            flat = values.isfinite().nonzero()[:, 0]
            flat = flat[torch.linspace(0, len(flat) - 1, SAMPLES).long()]
            width = int(scene.depth.size[i, 0])
            pixel = torch.stack([flat % width, flat // width], dim=1) + 0.5
            camera = torch.full((SAMPLES,), i)
            directions.append(cameras.directions(camera, pixel))
            distances.append(values[flat].double() / scale)
            cosines.append(cameras.axis_cosine(camera, pixel))
        parts = torch.stack(directions), torch.stack(distances), torch.stack(cosines)
        return _Sampled(scene, scale, torch.tensor(pairs), *parts)

    def scale_that_fits(self, cameras: Cameras) -> tuple[float, bool]:
        """The scale of all depth under which views agree best, and whether it is another one than 1, clearly."""
        tried = torch.tensor([self.residual(cameras, float(scale)) for scale in SCALES])
        low = SCALES[max(int(tried.argmin()) - 1, 0)]
        fine = low * (SCALES[2] / SCALES[0]) ** torch.linspace(0, 1, 9, dtype=torch.float64)
        residuals = torch.tensor([self.residual(cameras, float(scale)) for scale in fine])
        best, left = float(fine[int(residuals.argmin())]), float(residuals.min())
        return best, abs(log(best)) > UNIT_OFF and left < UNIT_MENDS * self.residual(cameras, 1.0)

    def residual(self, cameras: Cameras, factor: float, *, wide: bool = False, power: float = 0.0) -> float:
        """Median relative difference between a pixel's place, seen from the other view, and that view's own map; depth
        times `factor`, and times the pixel's cosine to the `power`. wide: pixels away from the middle alone. inf where
        fewer than a tenth of the pixels meet a known one."""
        assert self.scene.depth is not None
        depth, pairs, samples = self.scene.depth, len(self.pair), self.distance.shape[1]
        along = self.distance * factor * self.cosine**power
        position = cameras.origins[self.pair[:, 0], None] + self.direction * along[:, :, None]
        other = self.pair[:, 1:].expand(pairs, samples).reshape(-1)
        pixel, seen, inside = cameras.project(position.reshape(-1, 3), other)
        pixel = torch.where(inside[:, None], pixel, 0.0)
        column, row = pixel.long().unbind(dim=1)
        own = depth.values[depth.start[other] + row * depth.size[other, 0] + column, 0].double() / self.scale * factor
        cosine = cameras.axis_cosine(other, pixel)
        relative = (seen / (own * cosine**power)).log().abs()
        told = inside & relative.isfinite()
        if wide:
            told &= torch.minimum(cosine, self.cosine.reshape(-1)) < float(self.cosine.median())
        enough = int(told.sum()) >= max(FEWEST, 0.1 * (len(told) if not wide else 0.5 * len(told)))
        return float(relative[told].median()) if enough else float("inf")


def _in_own_units(scene: Scene) -> Cameras:
    """The scene's cameras in the capture's unit."""
    return replace(scene.cameras, c2w=scene.similarity.inverse().poses(scene.cameras.c2w))


def _depth_pairs(cameras: Cameras, have: list[int]) -> list[tuple[int, int]]:
    """Neighbours among the views that have depth, by place and direction, not at one place; at most PAIRS."""
    if len(have) < 2:
        return []
    chosen = cameras[have]
    apart = torch.cdist(chosen.origins, chosen.origins)
    turned = 1 - chosen.forward @ chosen.forward.T
    cost = apart / apart.max().clamp_min(1e-12) + turned
    cost = torch.where(apart > 0.02 * float(apart.max()), cost, torch.inf)
    nearest = cost.argmin(dim=1).tolist()
    pairs = [(have[i], have[j]) for i, j in enumerate(nearest) if isfinite(float(cost[i, j]))]
    step = max(1, len(pairs) // PAIRS)
    return pairs[::step][:PAIRS]


def _ratio(scene: Scene, known: Known | None) -> float | None:
    """Depth over known distance, median; None where fewer than FEWEST tell."""
    depth = scene.depth
    if known is None or depth is None:
        return None
    size = depth.size[known.camera]
    column, row = (known.at * size).long().clamp_min(0).minimum(size - 1).unbind(dim=1)
    value = depth.values[depth.start[known.camera] + row * size[:, 0] + column, 0].double() / scene.similarity.scale
    ratio = (value / known.distance)[value.isfinite()]
    return float(ratio.median()) if len(ratio) >= FEWEST else None


# -- bounds ------------------------------------------------------------------------------------------------------------


def check_bounds(scene: Scene, known: Known | None) -> tuple[list[Finding], str]:
    """Whether near, far and the box hold what is seen; known: of the scene's cameras, in the capture's unit."""
    scale = scene.similarity.scale
    near, far = scene.bounds.near / scale, scene.bounds.far / scale
    fact = f"near {near:.4g}, far {far:.4g} of the capture's unit"
    if known is None or len(known) < FEWEST:
        return [], f"{fact}; not compared: too little is known of where things are"
    outside = {
        "near": float((known.distance < near).double().mean()),
        "far": float((known.distance > far).double().mean()),
    }
    if scene.bounded:
        position = scene.similarity.points(known.position)
        unit = scene.bounds.box.unit(position)
        outside["box"] = float(((unit < 0) | (unit > 1)).any(dim=1).double().mean())
    low, high = torch.quantile(known.distance, torch.tensor([0.02, 0.98], dtype=torch.float64)).tolist()
    fact += f"; features lie {low:.4g} to {high:.4g} away"
    worst = max(outside, key=lambda key: outside[key])
    evidence = {f"outside_{key}": round(value, 4) for key, value in outside.items()}
    evidence |= {"near": near, "far": far, "seen_from": low, "seen_to": high}
    if outside[worst] < CUT_DOUBTFUL:
        return [], fact
    where = {"near": "nearer than near", "far": "beyond far", "box": "outside the box"}[worst]
    says = f"bounds cut what is seen: {outside[worst]:.0%} of matched features lie {where}; {fact}"
    remedy = (
        "correct the box in the description" if worst == "box" else f"set --near {0.8 * low:.3g} --far {1.2 * high:.3g}"
    )
    grade = "unusable" if outside[worst] > CUT_UNUSABLE else "doubtful"
    return [Finding("bounds", grade, says, remedy, evidence)], fact

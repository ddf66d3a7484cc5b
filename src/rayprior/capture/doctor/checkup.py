"""The check-up, in its order: files, photos, cameras against matches, points, depth, bounds. A cause that is found is
named once: what follows from it is not listed as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rayprior.capture.doctor.distances import (
    Known,
    check_bounds,
    check_depth,
    check_points,
    points_known,
    triangulate,
)
from rayprior.capture.doctor.findings import Finding, Report
from rayprior.capture.doctor.matching import MOST_PHOTOS, check_exposure, choose_pairs, match_photos
from rayprior.capture.doctor.pictures import Look, check_blur, check_duplicates, check_masks, look_at
from rayprior.capture.doctor.poses import (
    FEWEST_PAIRS,
    Evidence,
    check_motion,
    check_overlap,
    check_places,
    check_poses,
)
from rayprior.errors import UserError
from rayprior.maths.poses import focus_point
from rayprior.scenes.description import Description
from rayprior.scenes.formats import FORMATS
from rayprior.scenes.formats.depth import find_depth
from rayprior.scenes.open import describe, load_scene
from rayprior.scenes.reading import cameras_of_photos
from rayprior.scenes.scene import Scene
from rayprior.scenes.splits import Frames, choose_split

Progress = Callable[[str, int, int], None]  # (what is done, how much, of how much)
WIDE = {"near": 1e-9, "far": 1e9}  # bounds that no depth lies outside of
INWARD_COSINE = 0.8  # of the angle between axes and what they look at, from which on cameras surround it


@dataclass(frozen=True, eq=False)
class Checkup:
    """What came out: the report, and the scene as `train` would open it, where it opens."""

    report: Report
    scene: Scene | None


@dataclass
class _Notes:
    """What gathers on the way."""

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def add(self, name: str, found: tuple[list[Finding], str]) -> None:
        self.findings += found[0]
        self.facts[name] = found[1]

    def found(self, *checks: str) -> bool:
        """Whether one of these checks found more than a note."""
        return any(f.check in checks and f.grade != "note" for f in self.findings)


def examine(path: str | Path, options: Mapping[str, Any] | None = None, on_progress: Progress | None = None) -> Checkup:
    """Look at a capture as `load_scene(path, **options)` opens it, and say what is wrong.

    Mistakes in the files become findings; UserError is raised only where there is nothing to look at: no such path, no
    description of cameras in it, options that say what does not exist or can't be.
    """
    options = dict(options or {})
    say = on_progress or (lambda what, done, total: None)
    _refuse_nowhere(path)
    name, notes = Path(str(path)).name or str(path), _Notes()
    asked = options.get("format")
    try:
        description, _ = describe(path, asked)
    except UserError as error:
        if asked is not None and (asked not in FORMATS or (Path(path).is_dir() and not _has(path, asked))):
            raise
        finding = Finding("description", "unusable", str(error), "correct the description, or export it again")
        return Checkup(Report(name, "", (finding,), {}, ("all other checks: no cameras",)), None)

    _refuse_mistyped(description, options)
    looks, files = look_at(description, lambda done, total: say("reading photos", done, total))
    notes.findings += files
    if len(looks) < 2:
        if not notes.found("files"):
            says = f"{len(looks)} photo; a scene needs at least 2"
            notes.findings.append(Finding("files", "unusable", says, "add photos with their cameras"))
        notes.skipped.append("all other checks: fewer than 2 photos can be read")
        return Checkup(_report(name, description, notes), None)
    notes.facts["photos"] = f"{len(looks)} of {len(description.names)} read"
    notes.add("blur", check_blur(description.names, looks))
    notes.findings += check_duplicates(description.names, looks)
    notes.add("masks", check_masks(description.names, looks))

    sizes = _check_sizes(description, sorted(looks))
    notes.findings += sizes
    known, cameras_hold = _check_cameras(description, looks, notes, say)
    say("comparing points, depth and bounds", 0, 1)
    known = _check_points(description, known, notes) if cameras_hold else known
    scene = _check_scene(path, options, description, known, notes, cameras_hold)
    say("comparing points, depth and bounds", 1, 1)
    return Checkup(_report(name, description, notes), scene)


def _refuse_nowhere(path: str | Path) -> None:
    """What is no capture at all is a mistake in typing, and none in the capture."""
    if not str(path).startswith("synthetic:") and not Path(path).exists():
        raise UserError(f"{path}: no such folder or file; expected a capture, a folder with photos and their cameras")


def _has(path: str | Path, format: str) -> bool:
    """Whether a capture's folder has a description of this format, whole or broken."""
    return FORMATS[format].present(Path(path))


def _refuse_mistyped(description: Description, options: Mapping[str, Any]) -> None:
    """Raises UserError for options that no capture, or not this one, could be opened with: `load_scene`'s messages."""
    if options.get("split") is not None:
        choose_split(Frames(description.names, description.lists, description.path), options["split"])
    if options.get("depth") is not None and not Path(options["depth"]).is_dir():
        find_depth(description, Path(options["depth"]))
    if options.get("downscale", 1) < 1:
        raise UserError(f"--downscale {options['downscale']}: expected a whole number of at least 1")
    near, far = options.get("near"), options.get("far")
    if (near is not None and not near >= 0) or (far is not None and not far > (near or 0)):
        given = " ".join(f"--{name} {x:g}" for name, x in (("near", near), ("far", far)) if x is not None)
        raise UserError(f"{given}: no range; expected 0 <= near < far, in the capture's unit")


def _report(name: str, description: Description, notes: _Notes) -> Report:
    return Report(name, description.format, tuple(notes.findings), notes.facts, tuple(notes.skipped))


# -- cameras -----------------------------------------------------------------------------------------------------------


def _check_sizes(description: Description, frames: list[int]) -> list[Finding]:
    """Photos of another size than their camera's, beyond one common factor."""
    part = replace(
        description,
        names=tuple(description.names[i] for i in frames),
        photos=tuple(description.photos[i] for i in frames),
        cameras=description.cameras[frames],
    )
    try:
        cameras_of_photos(part)
    except UserError as error:
        remedy = "give all photos the size that their cameras are for, or the cameras that of the photos"
        return [Finding("size", "unusable", str(error), remedy)]
    return []


def _check_cameras(
    description: Description, looks: dict[int, Look], notes: _Notes, say: Progress
) -> tuple[Known | None, bool]:
    """(what the matches triangulate to, by place in the description; whether the stored cameras can be believed)."""
    order = sorted(looks)
    if len(order) > MOST_PHOTOS:
        order = [order[round(at)] for at in torch.linspace(0, len(order) - 1, MOST_PHOTOS).tolist()]
        notes.skipped.append(f"matching: {len(order)} of {len(looks)} photos, evenly spread")
    chosen = [looks[i] for i in order]
    names = tuple(description.names[i] for i in order)
    size = torch.tensor([look.size for look in chosen])
    cameras = description.cameras[order].scaled(size)
    if not bool(cameras.c2w.isfinite().all()):
        notes.skipped.append("cameras against matches: poses hold nan or infinity")
        return None, False
    focus = focus_point(cameras.c2w)
    ahead = torch.nn.functional.normalize(focus - cameras.origins, dim=1)
    inward = float((ahead * cameras.forward).sum(dim=1).median()) > INWARD_COSINE
    places, fact = check_places(cameras, focus, inward)
    notes.facts["places"] = fact
    pairs = choose_pairs(cameras.origins, cameras.forward, chosen)
    try:
        matches, features = match_photos(chosen, pairs, lambda done, total: say("matching features", done, total))
    except UserError as error:  # pycolmap is not installed
        notes.skipped.append(f"cameras against matches, exposure, parallax: {error}")
        notes.findings += places
        return None, True
    notes.add("overlap", check_overlap(names, features, matches))
    if len(matches) < max(FEWEST_PAIRS, len(names) / 2):
        notes.skipped.append(
            f"cameras against matches: {len(matches)} of {len(pairs)} pairs share features; too few to judge poses by"
        )
        notes.findings += places
        return None, True
    notes.add("exposure", check_exposure(names, chosen, matches))
    evidence = Evidence.of(names, cameras, matches)
    moved, fact = check_motion(evidence)
    notes.facts["parallax"] = fact
    notes.findings += moved or places
    if any(finding.grade == "unusable" for finding in moved or places):
        return None, False
    found, fact = check_poses(evidence)
    notes.facts["epipolar error"] = fact
    notes.findings += found
    if any(finding.grade == "unusable" for finding in found):
        return None, False
    wrong = {name for finding in found for name in finding.frames}
    seen = triangulate(evidence.without([i for i, name in enumerate(names) if name in wrong]))
    return replace(seen, camera=torch.tensor(order)[seen.camera]), True


# -- points, depth, bounds ---------------------------------------------------------------------------------------------


def _check_points(description: Description, known: Known | None, notes: _Notes) -> Known | None:
    """What is known of distances: the matches', else the points', if these belong here."""
    found, fact, hold = check_points(description, known)
    notes.add("points", (found, fact))
    if known is None and hold and description.points is not None and len(description.points.track_point):
        return points_known(description)
    return known


def _check_scene(
    path: str | Path,
    options: dict[str, Any],
    description: Description,
    known: Known | None,
    notes: _Notes,
    cameras_hold: bool,
) -> Scene | None:
    """Opens the scene as `train` does, and compares its depth and bounds with what is known."""
    opening = {"skip_missing": True, **options}
    try:
        scene = opened = load_scene(path, **opening)
        refused = None
    except UserError as error:
        scene, refused = None, error
        try:  # a wrong unit of depth is what the bounds refuse: without them it can be named
            opened = load_scene(path, **{**opening, **WIDE})
        except UserError:
            opened = None
    unit_wrong = False
    if opened is not None and cameras_hold:
        here = _of_scene(opened, description, known)
        found, fact, unit_wrong = check_depth(opened, here, _is_distance(description, options.get("depth")))
        notes.add("depth", (found, fact))
        if scene is not None and not notes.found("points"):
            notes.add("bounds", check_bounds(scene, here))
    elif opened is not None:
        notes.skipped.append("points, depth and bounds: they are measured with the stored cameras")
    if refused is None:
        return scene
    explained = unit_wrong or notes.found("files", "size")
    if explained:
        notes.skipped.append(f"opening the scene: {refused}")
    else:
        notes.findings.append(
            Finding("opening", "unusable", str(refused), "see the message; train would stop there too")
        )
    return None


def _of_scene(scene: Scene, description: Description, known: Known | None) -> Known | None:
    """What is known, by the scene's own cameras; the frames that it does not use left out."""
    if known is None:
        return None
    place = {name: i for i, name in enumerate(scene.names)}
    moved = torch.tensor([place.get(name, -1) for name in description.names])[known.camera]
    kept = moved >= 0
    return Known(moved[kept], known.at[kept], known.distance[kept], known.position[kept])


def _is_distance(description: Description, folder: Path | None) -> bool:
    """How depth was read: as distance along the ray, or as z."""
    try:
        files = find_depth(description, folder)
    except UserError:
        files = {}
    if files:
        return next(iter(files.values())).legend.kind == "distance"
    return description.depths is not None and description.depths.is_distance

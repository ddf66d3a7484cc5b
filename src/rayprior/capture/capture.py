"""Photos or a video in, a scene folder out. The order of the steps, and what is written of them at the end.

OUT/steps/       what each step made; a second call goes on from there. May be removed when all is done
OUT/images       the photos, upright, under their names          OUT/masks      of those that have one
OUT/sparse/0     COLMAP's model: cameras, poses, points          OUT/points.npz points with sigma, by photo
OUT/transforms.json, OUT/points.ply    the same for nerfstudio   OUT/capture.json   what became of every photo
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rayprior.capture.features import (
    Effort,
    Lens,
    Pair,
    exhaustive_pairs,
    extract,
    feature_counts,
    match,
    read_matches,
    sequential_pairs,
    sfm_library,
)
from rayprior.capture.folds import NEIGHBOURS, contradicted, keep_one_side, keep_pairs, neighbours
from rayprior.capture.frames import is_video, take_frames
from rayprior.capture.intake import (
    LENSES,
    SHOWN,
    Photo,
    cameras_of,
    find_photos,
    photo_root,
    refuse_hopeless,
    take_in,
    take_masks,
    unread_kinds,
)
from rayprior.capture.posed import cameras_for, lenses_of
from rayprior.capture.scene_folder import REPORT, Captured, Found, write_scene_folder
from rayprior.capture.sfm import (
    ENOUGH,
    FAR_OVERLAP,
    FEWEST_REGISTERED,
    MOST_EXHAUSTIVE,
    Attempt,
    Matching,
    Model,
    kinds_of_pairs,
    ladder,
    map_photos,
    names_in,
    refine,
    triangulate,
)
from rayprior.capture.steps import RECORD, Step, facts_of_file, remove_unfinished, step
from rayprior.errors import UserError, did_you_mean
from rayprior.scenes.formats.photos import SUFFIXES, list_photos
from rayprior.scenes.open import describe

POSED = Effort(most=8192, peak=0.01 / 3)  # guided matching adds points, of which one in twenty is wrong
FEWEST_FEATURES = 50  # of a photo that shows something

OnProgress = Callable[[str, int, int], None]  # (what is being done, done, of how many)
Say = Callable[[str], None]


@dataclass(frozen=True)
class CaptureOptions:
    """What may be chosen.

    frames           of a video
    cameras          which photos share a camera: see `cameras_of`
    lens             COLMAP's camera model; None: see `cameras_of`
    matching         'auto': a ladder that begins with neighbours for a video, with all pairs for photos
    largest_side_px  at which features are sought
    attempts         at most this many rungs of the ladder; None: all
    masks            a folder of masks of the photos (white = keep)
    turntable        the object turns before a fixed camera: features are sought inside the masks alone
    poses            a capture whose cameras are taken as they are
    undistort        also write photos without distortion
    """

    frames: int = 120
    cameras: Literal["auto", "one", "each"] = "auto"
    lens: str | None = None
    matching: Literal["auto", "sequential", "exhaustive"] = "auto"
    largest_side_px: int = 1600
    attempts: int | None = None
    masks: Path | None = None
    turntable: bool = False
    poses: str | None = None
    undistort: bool = False
    seed: int = 0
    threads: int | None = None


def capture(
    source: Path,
    out: Path,
    options: CaptureOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    say: Say | None = None,
) -> Captured:
    """Place the photos of a folder, or frames of a video, in space, and write the scene in `out`.

    Steps that are there and up to date are not done again, so the same call goes on after a kill. Raises UserError for
    what can't work, with what was found and what to do.
    """
    options = options or CaptureOptions()
    say = say or (lambda text: None)
    progress = on_progress or (lambda what, done, count: None)
    sfm_library()
    _refuse_options(options)
    out = out.resolve() if ".." in out.parts else out
    _refuse_place(source, out)
    steps = out / "steps"
    remove_unfinished(steps)
    frames = _frames(source, steps, options, progress)
    folder = source if frames is None else frames.folder / "images"
    taken = _photos(folder, steps, options, frames, source, progress)
    photos = [_photo(content) for content in taken.result["photos"]]
    left_out: dict[str, str] = dict(taken.result["left_out"])
    notes = list(taken.result["notes"])
    say(f"photos: {len(photos)} taken in" + (f", {len(left_out)} left out" if left_out else ""))
    for name, why in list(left_out.items())[:SHOWN]:
        say(f"  {name}: {why}")
    if options.poses is not None:
        found = _with_poses(photos, taken, steps, options, progress, say)
    else:
        found = _climb(photos, taken, steps, options, frames is not None, progress, say)
    if options.undistort:
        say("undistorting")
    made_from = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    return write_scene_folder(
        out, source, photos, left_out, replace(found, notes=(*notes, *found.notes)), made_from,
        undistorted=options.undistort, threads=options.threads,
    )  # fmt: skip


# -- the steps ---------------------------------------------------------------------------------------------------------


def _frames(source: Path, steps: Path, options: CaptureOptions, progress: OnProgress) -> Step | None:
    """Frames of a video; None where the source is a folder."""
    if source.is_dir():
        return None
    if not source.is_file():
        raise UserError(f"{source}: no such folder or file; expected a folder of photos, or a video")
    if source.suffix.lower() in SUFFIXES:
        raise UserError(f"{source}: one photo; expected a folder of photos (3 at least, better 20 or more), or a video")
    if not is_video(source):
        raise UserError(
            f"{source}: no video that can be decoded; expected a film (mp4, mov, ...), or a folder of photos"
        )

    def make(folder: Path) -> Mapping[str, Any]:
        count = take_frames(
            source, folder / "images", options.frames, lambda done, of: progress("choosing frames", done, of)
        )
        return {"frames": count}

    return step(steps, "frames", {"video": facts_of_file(source), "frames": options.frames}, (), make)


def _photos(
    folder: Path, steps: Path, options: CaptureOptions, frames: Step | None, source: Path, progress: OnProgress
) -> Step:
    photos, root = find_photos(folder), photo_root(folder)
    masks = None if options.masks is None else _listed(list_photos(options.masks), options.masks)

    def make(target: Path) -> Mapping[str, Any]:
        taken, left_out = take_in(photos, root, target / "images", lambda d, n: progress("reading photos", d, n))
        refuse_hopeless(taken, left_out, source, posed=options.poses is not None, cut_out=options.turntable)
        notes = unread_kinds(folder)
        if options.masks is not None:
            without = take_masks(options.masks, taken, target / "masks")
            if without and options.turntable:
                shown = ", ".join(without[:SHOWN]) + (", ..." if len(without) > SHOWN else "")
                raise UserError(
                    f"--turntable: {len(without)} of {len(taken)} photos have no mask in {options.masks} ({shown}), and"
                    " their backdrop does not turn; add the masks, or take these photos away"
                )
            notes.append(f"{len(taken) - len(without)} of {len(taken)} photos have a mask")
        elif options.turntable and not all(photo.cut_out for photo in taken):
            raise UserError(
                "--turntable: features must come from the object alone, for the backdrop does not turn; give its masks"
                " with --masks DIR (white = keep)"
            )
        return {"photos": [_photo_json(photo) for photo in taken], "left_out": left_out, "notes": notes}

    made_from = {
        "photos": _listed(photos, root) if frames is None else "frames",
        "masks": masks,
        "turntable": options.turntable,
        "posed": options.poses is not None,
    }
    return step(steps, "photos", made_from, () if frames is None else (frames,), make)


def _listed(files: Sequence[Path], root: Path) -> list[list[Any]]:
    """What tells whether files of a folder are still the same."""
    return [[file.relative_to(root).as_posix(), *facts_of_file(file)[1:]] for file in files]


def _features(
    name: str,
    effort: Effort,
    groups: Sequence[tuple[Lens, Sequence[str]]],
    taken: Step,
    steps: Path,
    options: CaptureOptions,
    progress: OnProgress,
) -> Step:
    total = sum(len(names) for _, names in groups)

    def make(folder: Path) -> Mapping[str, Any]:
        database, done = folder / "database.db", 0
        for lens, names in groups:
            before = done
            extract(
                database, taken.folder / "images", names, lens=lens, largest_side_px=options.largest_side_px,
                effort=effort, masks=taken.folder / "masks" if options.turntable and options.masks else None,
                threads=options.threads, on_progress=lambda d, n, b=before: progress("finding features", b + d, total),
            )  # fmt: skip
            done += len(names)
        return {"features": feature_counts(database)}

    made_from = {
        "groups": [[lens.model, lens.parameters, list(names)] for lens, names in groups],
        "effort": asdict(effort),
        "largest_side_px": options.largest_side_px,
        "inside_masks": options.turntable,
    }
    return step(steps, name, made_from, (taken,), make)


def _matches(
    name: str,
    matching: Matching,
    effort: Effort,
    features: Step,
    steps: Path,
    options: CaptureOptions,
    progress: OnProgress,
) -> Step:
    def make(folder: Path) -> Mapping[str, Any]:
        database = folder / "database.db"
        shutil.copyfile(features.folder / "database.db", database)
        names = sorted(names_in(database))
        pairs = pairs_of(names, matching)
        match(
            database, pairs, effort=effort, threads=options.threads, seed=options.seed,
            on_progress=lambda d, n: progress("matching pairs", d, n),
        )  # fmt: skip
        return {"pairs": len(pairs), "verified": len(read_matches(database))}

    made_from = {"matching": matching, "effort": asdict(effort), "seed": options.seed}
    return step(steps, name, made_from, (features,), make)


def pairs_of(names: Sequence[str], matching: Matching) -> list[Pair]:
    """Which pairs are matched."""
    if matching == "exhaustive":
        return exhaustive_pairs(names)
    return sequential_pairs(names, FAR_OVERLAP) if matching == "far" else sequential_pairs(names)


def _climb(
    photos: Sequence[Photo],
    taken: Step,
    steps: Path,
    options: CaptureOptions,
    is_film: bool,
    progress: OnProgress,
    say: Say,
) -> Found:
    """Attempts until most photos have a place; the best of them, refined."""
    rungs = ladder(len(photos), ordered=is_film or options.matching == "sequential", seed=options.seed)
    if options.matching == "sequential":
        rungs = [replace(rung, matching="sequential") for rung in rungs[1:]]
    elif options.matching == "exhaustive":
        rungs = [replace(rung, matching="exhaustive") for rung in rungs if rung.matching != "sequential"]
    groups = cameras_of(photos, options.cameras, options.lens)
    tried: list[tuple[Attempt, Step, list[Model], Step]] = []
    told: list[str] = []
    for rung in rungs[: options.attempts]:
        kind = "wide" if rung.wide else "usual"
        features = _features(f"features-{kind}", rung.effort, groups, taken, steps, options, progress)
        _refuse_empty(features, photos)
        matches = _matches(
            f"matches-{rung.matching}-{kind}", rung.matching, rung.effort, features, steps, options, progress
        )
        if features.fresh or matches.fresh:
            say(
                f"matches: {matches.result['verified']} of {matches.result['pairs']} pairs agree"
                f" ({sum(features.result['features'].values())} features)"
            )
        mapped = _map(rung, matches, taken, steps, options, progress)
        models = [_model_of(mapped.folder, content) for content in mapped.result["models"]]
        tried.append((rung, mapped, models, matches))
        count = len(models[0].photos) if models else 0
        told.append(f"{rung}: {count} of {len(photos)} photos")
        say(f"attempt {len(tried)}: {told[-1]}")
        if count >= ENOUGH * len(photos):
            break
    rung, mapped, models, matches = max(tried, key=lambda t: (len(t[2][0].photos), t[2][0].points) if t[2] else (0, 0))
    if not models or len(models[0].photos) < FEWEST_REGISTERED:
        raise UserError(_why_nothing(photos, matches.folder / "database.db", told))
    notes: list[str] = []
    folded = contradicted(models[0].folder, matches.folder / "database.db")
    if folded:
        unfolded = _unfold(rung, matches, models[0], taken, steps, options, progress)
        shown = ", ".join(f"{a} and {b}" for a, b in folded[:SHOWN])
        if unfolded is None:
            notes.append(
                f"{len(folded)} pairs of photos that follow each other match, but not as they are placed ({shown}):"
                " something may look alike from two sides; if the photos are in order, try --matching sequential"
            )
        else:
            mapped, models = unfolded
            told.append(f"unfolded, for {shown} contradicted the model: {len(models[0].photos)} photos")
            say(told[-1])
    best = models[0]

    def make(folder: Path) -> Mapping[str, Any]:
        progress("refining", 0, 1)
        made = refine(best.folder, folder, options.threads)
        progress("refining", 1, 1)
        return _model_json(made, folder)

    model = step(steps, "model", {"of": best.folder.name}, (mapped,), make)
    others = tuple(other for other in models[1:] if set(other.photos) - set(best.photos))
    for number, other in enumerate(others, start=2):
        shown = ", ".join(other.photos[:SHOWN]) + (", ..." if len(other.photos) > SHOWN else "")
        notes.append(
            f"model {number} of {len(others) + 1} shares too little with the largest and is left out:"
            f" {len(other.photos)} photos ({shown}), {other.points} points; photos between the groups would join them"
        )
    database = matches.folder / "database.db"
    return Found(taken.folder, _model_of(model.folder, model.result), others, database, tuple(told), tuple(notes))


def _unfold(
    rung: Attempt,
    matches: Step,
    folded: Model,
    taken: Step,
    steps: Path,
    options: CaptureOptions,
    progress: OnProgress,
) -> tuple[Step, list[Model]] | None:
    """The model without folds, where there is one that places as many photos and contradicts fewer neighbours."""
    rung = replace(rung, mapper="incremental" if rung.mapper == "global" else rung.mapper)
    database = matches.folder / "database.db"

    def match_neighbours(folder: Path) -> Mapping[str, Any]:
        copy = folder / "database.db"
        shutil.copyfile(database, copy)
        pairs = neighbours(sorted(names_in(copy)))
        keep_pairs(copy, pairs)
        return {"pairs": len(pairs)}

    near = step(steps, "matches-near", {"neighbours": NEIGHBOURS}, (matches,), match_neighbours)
    open_chain = _map(rung, near, taken, steps, options, progress)
    first = [_model_of(open_chain.folder, content) for content in open_chain.result["models"]]
    if not first or len(first[0].photos) < ENOUGH * len(folded.photos):
        return None

    def match_one_side(folder: Path) -> Mapping[str, Any]:
        copy = folder / "database.db"
        shutil.copyfile(database, copy)
        return {"removed": keep_one_side(first[0].folder, copy)}

    one_side = step(steps, "matches-unfolded", {}, (open_chain, matches), match_one_side)
    mapped = _map(rung, one_side, taken, steps, options, progress)
    models = [_model_of(mapped.folder, content) for content in mapped.result["models"]]
    if not models or len(models[0].photos) < ENOUGH * len(folded.photos):
        return None
    fewer = len(contradicted(models[0].folder, database)) < len(contradicted(folded.folder, database))
    return (mapped, models) if fewer else None


def _map(rung: Attempt, matches: Step, taken: Step, steps: Path, options: CaptureOptions, progress: OnProgress) -> Step:
    def make(folder: Path) -> Mapping[str, Any]:
        database = matches.folder / "database.db"
        if rung.mapper == "global":  # which writes what it finds about focal lengths into it
            database = folder / "database.db"
            shutil.copyfile(matches.folder / "database.db", database)
        models = map_photos(
            database, taken.folder / "images", folder, rung, options.threads,
            lambda done, of: progress("placing photos", done, of),
        )  # fmt: skip
        return {"models": [_model_json(model, folder) for model in models]}

    name = f"{matches.name.replace('matches', 'map', 1)}-{rung.mapper}"
    return step(steps, name, {"mapper": rung.mapper, "seed": rung.seed}, (matches,), make)


def _with_poses(
    photos: Sequence[Photo], taken: Step, steps: Path, options: CaptureOptions, progress: OnProgress, say: Say
) -> Found:
    """Points by the cameras of another capture of the same photos."""
    assert options.poses is not None
    posed, _ = describe(options.poses)
    names, cameras = cameras_for(photos, posed)
    without = [photo.name for photo in photos if photo.name not in names]
    groups = lenses_of(cameras, names)
    matching: Matching = "exhaustive" if len(names) <= MOST_EXHAUSTIVE else "far"
    features = _features("features-posed", POSED, groups, taken, steps, options, progress)
    _refuse_empty(features, photos)
    matches = _matches("matches-posed", matching, POSED, features, steps, options, progress)
    say(f"matches: {matches.result['verified']} of {matches.result['pairs']} pairs agree")

    def make(folder: Path) -> Mapping[str, Any]:
        progress("triangulating", 0, 1)
        database = matches.folder / "database.db"
        made = triangulate(database, taken.folder / "images", cameras, names, folder, options.threads)
        progress("triangulating", 1, 1)
        return _model_json(made, folder)

    made_from = {"poses": cameras.c2w.tolist(), "names": names}
    model = step(steps, "model-posed", made_from, (matches,), make)
    notes = [f"cameras are those of {options.poses}, as they are"]
    if without:
        notes.append(f"{len(without)} photos have no camera in {options.poses}: {', '.join(without[:SHOWN])}")
    told = f"known cameras: {model.result['points']} points from {len(names)} photos"
    say(told)
    best = _model_of(model.folder, model.result)
    return Found(taken.folder, best, (), matches.folder / "database.db", (told,), tuple(notes))


# -- what can't work ---------------------------------------------------------------------------------------------------


def _refuse_options(options: CaptureOptions) -> None:
    if options.lens is not None and options.lens not in LENSES:
        raise UserError(f"--lens: no camera model {options.lens!r}{did_you_mean(options.lens, LENSES)}")
    for name, number, least in (("frames", options.frames, 3), ("feature-size", options.largest_side_px, 64)):
        if number < least:
            raise UserError(f"--{name} {number}: expected at least {least}")
    if options.attempts is not None and options.attempts < 1:
        raise UserError(f"--attempts {options.attempts}: expected at least 1")


def _refuse_place(source: Path, out: Path) -> None:
    """What is written must not be among what is read, nor among what somebody else made."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: there is a file of that name; choose another folder")
    here, there = source.resolve(), out.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise UserError(
            f"--out {out}: the scene would lie among its photos, or they in it ({source}); choose a folder beside them"
        )
    if out.is_dir() and any(out.iterdir()) and not _is_of_capture(out):
        raise UserError(f"--out {out}: the folder is not empty, and not from `rayprior capture`; choose another")


def _is_of_capture(folder: Path) -> bool:
    """Whether a capture was written there, or begun. Its `steps` may have been removed, or hold nothing yet."""
    steps = folder / "steps"
    begun = any(steps.glob(f"*/{RECORD}")) or any(steps.glob(".*.working"))
    bare = [file.name for file in folder.iterdir()] == ["steps"] and steps.is_dir() and not any(steps.iterdir())
    return begun or bare or (folder / REPORT).is_file()


def _refuse_empty(features: Step, photos: Sequence[Photo]) -> None:
    counts = features.result["features"]
    lost = [photo.name for photo in photos if photo.name not in counts]
    if len(lost) == len(photos):
        raise UserError(f"{photos[0].source}: COLMAP can't read this photo, nor any other; save them as JPEG or PNG")
    rich = [name for name, count in counts.items() if count >= FEWEST_FEATURES]
    if len(rich) < 2:
        most = max(counts, key=lambda name: counts[name])
        raise UserError(
            f"{Path(photos[0].source).parent}: the photos show nothing that can be recognised: {len(rich)} of"
            f" {len(photos)} have {FEWEST_FEATURES} features or more (most: {most} with {counts[most]}). They are too"
            " dark, too blurred, or of smooth surfaces: add light or texture (a newspaper under the object will do)"
        )


def _why_nothing(photos: Sequence[Photo], database: Path, told: Sequence[str]) -> str:
    """The message for a set that no attempt could place."""
    matches, kinds = read_matches(database), kinds_of_pairs(database)
    pairs = len(photos) * (len(photos) - 1) // 2
    evidence = f"{len(matches)} of {pairs} pairs match"
    flat = sum(count for kind, count in kinds.items() if "PLANAR" in kind or "PANORAMIC" in kind)
    if not matches:
        advice = "they seem to show different things, or from too far apart; take more, each overlapping the one before"
    elif flat > 0.5 * sum(kinds.values()):
        evidence += f", {flat} of them as a flat picture would, or as photos from one spot do"
        advice = "walk around the scene between photos; turning on the spot shows no depth"
    else:
        advice = "take more photos, each from a step aside, showing two thirds of what the one before shows"
    folder, tries = Path(photos[0].source).parent, "; ".join(told)
    return (
        f"{folder}: cameras of fewer than {FEWEST_REGISTERED} of {len(photos)} photos were found ({evidence}; tried:"
        f" {tries}): {advice}"
    )


# -- what steps say, as JSON ------------------------------------------------------------------------------------------


def _photo_json(photo: Photo) -> dict[str, Any]:
    return asdict(photo)


def _photo(content: Mapping[str, Any]) -> Photo:
    return Photo(**{**content, "size": tuple(content["size"])})


def _model_json(model: Model, root: Path) -> dict[str, Any]:
    return {
        "folder": model.folder.relative_to(root).as_posix(),
        "photos": list(model.photos),
        "points": model.points,
        "error_px": model.error_px,
    }


def _model_of(root: Path, content: Mapping[str, Any]) -> Model:
    return Model(root / content["folder"], tuple(content["photos"]), content["points"], content["error_px"])

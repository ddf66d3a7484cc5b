"""The verbs. A thin skin: each reads what was typed, calls the library, prints. Heavy imports wait for their verb."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from rayprior.errors import UserError

if TYPE_CHECKING:
    from rayprior.training.recipe import Recipe
    from rayprior.viewer.view import Watch

DONE, FAULT, MISTAKE, INTERRUPTED = 0, 1, 2, 130
ABOUT = "Radiance fields from imperfect captures: train, measure, render. Begin with: rayprior demo"


def option(metavar: str, default: str = "") -> Any:
    """How --help shows an option that may be left out: its value's name, and what leaving it out means."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})" if default else "")


SceneArg = Annotated[str, arg(metavar="SCENE", help="a capture's folder or file, or synthetic:NAME")]
RunArg = Annotated[Path, arg(metavar="RUN", help="the folder of a run")]
RecipeArg = Annotated[str, arg(metavar="RECIPE", help="a name from `rayprior methods`, or a JSON file")]
Settings = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=VALUE")]
Priors = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SPEC")]
Flag = Annotated[bool, arg(help_behavior_hint=""), FlagCreatePairsOff]
Whole = Annotated[int | None, option("N")]
Name = Annotated[str | None, option("NAME")]
Folder = Annotated[Path | None, option("DIR")]
Threads = Annotated[int | None, option("T", "all cores")]
Backbone = Annotated[Literal["mlp", "grid"] | None, option("mlp|grid", "the recipe's")]
Quality = Annotated[Literal["draft", "standard", "final"] | None, option("draft|standard|final", "the recipe's")]
MaskRule = Literal["ignore", "background", "score"]

app = tyro.extras.SubcommandApp()


@app.command
def demo(out: Folder = None) -> None:
    """Train, measure and render an embedded scene in about a minute; no download.

    Args:
        out: the run's folder
    """
    from rayprior.verbs.train import demo as run_demo

    run_demo(out)


@app.command
def inspect(
    scene: Positional[SceneArg],
    out: Folder = None,
    split: Name = None,
    downscale: Annotated[int, arg(metavar="K")] = 1,
    masks: MaskRule = "ignore",
    format: Name = None,
    skip_missing: Flag = False,
    depth: Folder = None,
) -> None:
    """Show what a capture holds: cameras, splits, bounds, depth, masks, in words and as a picture.

    Args:
        out: folder for inspect.png
        split: a named split
        downscale: whole factor by which pictures are made smaller
        masks: what masked-out pixels are: ignored, known background, or photographs that are not scored
        format: instead of the one that is found
        skip_missing: go on without listed photos that do not exist
        depth: folder of depth maps, instead of those beside the pictures
    """
    from rayprior.scenes.inspect import inspect_scene
    from rayprior.scenes.open import load_scene

    opened = load_scene(
        scene, format=format, split=split, downscale=downscale, masks=masks, skip_missing=skip_missing, depth=depth
    )
    lines, picture = inspect_scene(opened, out)
    print("\n".join(lines))
    if picture is not None:
        print(picture)


@app.command
def methods() -> None:
    """List the recipes."""
    from rayprior.verbs.lists import show_methods

    show_methods()


@app.command
def priors() -> None:
    """List the built-in priors and their options."""
    from rayprior.verbs.lists import show_priors

    show_priors()


@app.command
def recipe(
    recipe: Positional[RecipeArg],
    set: Settings = (),
    field: Backbone = None,
    size: Literal["small", "full"] = "full",
    quality: Quality = None,
    prior: Priors = (),
) -> None:
    """Print a recipe as JSON, to edit.

    Args:
        set: change a value by its path, field.octaves=12; may be given many times
        field: another backbone under the same terms
        size: small: what tests and studies of MLP fields use
        quality: how much a grid can hold and how long it trains
        prior: add a prior: NAME, NAME:option=value,..., or FILE.py:CLASS:option=value; may be given many times
    """
    import json

    from rayprior.training.recipe_json import recipe_to_plain

    print(json.dumps(recipe_to_plain(_chosen_recipe(recipe, field, size, quality, prior, set)), indent=2))


@app.command
def train(
    recipe: Positional[Annotated[str | None, option("RECIPE")]] = None,
    scene: Positional[Annotated[str | None, option("SCENE")]] = None,
    out: Annotated[Path | None, option("RUN", "runs/SCENE-RECIPE-DATE-TIME")] = None,
    steps: Annotated[int | None, option("N", "the recipe's")] = None,
    seconds: Annotated[float | None, option("S")] = None,
    split: Annotated[str | None, option("NAME", "the capture's own, else every 8th view is held out")] = None,
    views: Annotated[str | None, option("26,86,2,55")] = None,
    fewshot: Whole = None,
    fewshot_seed: Annotated[int | None, option("K", "0")] = None,
    downscale: Annotated[int | None, option("K", "1")] = None,
    seed: Annotated[int | None, option("K", "0")] = None,
    threads: Threads = None,
    device: Annotated[str | None, option("auto|cpu|cuda|cuda:N", "auto")] = None,
    field: Backbone = None,
    size: Annotated[Literal["small", "full"] | None, option("small|full", "full")] = None,
    quality: Quality = None,
    prior: Priors = (),
    set: Settings = (),
    format: Name = None,
    skip_missing: Flag = False,
    near: Annotated[float | None, option("X")] = None,
    far: Annotated[float | None, option("Y")] = None,
    masks: Annotated[MaskRule | None, option("ignore|background|score", "ignore")] = None,
    depth: Folder = None,
    snapshots: Annotated[int, arg(metavar="N")] = 0,
    resume: Annotated[Path | None, option("RUN")] = None,
    start_from: Annotated[Path | None, option("RUN")] = None,
    tensorboard: Flag = False,
    watch: Flag = False,
    port: Annotated[int, arg(metavar="P")] = 8080,
) -> None:
    """Train RECIPE on SCENE, measure it on the held-out views, write a report. With --resume RUN, go on with a run.

    Args:
        recipe: a name from `rayprior methods`, or a JSON file
        scene: a capture's folder or file, or synthetic:NAME; for recipes of many scenes, such as nerf-vae, a family
        out: the run's folder
        steps: budget in steps
        seconds: budget in seconds of the training loop, instead of steps
        split: a named split
        views: training views by name, or by the number that their names end in
        fewshot: train on so many of the training views
        fewshot_seed: which ones
        downscale: whole factor by which pictures are made smaller
        seed: of everything random
        threads: of the kernels and of torch
        device: where to train; auto takes CUDA where there is one
        field: another backbone under the same terms
        size: small: what tests and studies of MLP fields use
        quality: how much a grid can hold and how long it trains
        prior: add a prior: NAME, NAME:option=value,..., or FILE.py:CLASS:option=value; may be given many times
        set: change a value of the recipe by its path, field.octaves=12; may be given many times
        format: instead of the one that is found
        skip_missing: go on without listed photos that do not exist
        near: where rendering starts, in the capture's unit
        far: where rendering ends, in the capture's unit
        masks: what masked-out pixels are: ignored, known background, or photographs that are not scored
        depth: folder of depth maps, instead of those beside the pictures
        snapshots: keep the weights so many times on the way, for a video of training
        resume: the folder of a run to go on with; RECIPE and SCENE are then optional and must agree
        start_from: begin at another run's weights, with its recipe; give SCENE alone, or nothing for that run's own
        tensorboard: also write event files (extra: log)
        watch: show the field in a browser while it trains, and until Ctrl-C (extra: viewer)
        port: of the page that --watch opens
    """
    from rayprior.training.budget import Budget
    from rayprior.verbs import train as verb

    page = _watched(watch, port)
    budget = None if steps is None and seconds is None else Budget(steps, seconds)
    chooses = {"field": field, "size": size, "quality": quality, "prior": prior, "set": set}
    opens = {
        "split": split, "views": views, "fewshot": fewshot, "fewshot-seed": fewshot_seed, "downscale": downscale,
        "format": format, "skip-missing": skip_missing, "near": near, "far": far, "masks": masks, "depth": depth,
    }  # fmt: skip
    typed = {name: value for name, value in opens.items() if not (value is None or value is False)}
    given: dict[str, Any] = {name.replace("-", "_"): value for name, value in typed.items()}
    if start_from is not None:
        _refuse_beside_start(start_from, resume, scene, {"field": field, "size": size, "quality": quality})
        verb.start_from(
            start_from, recipe, given, prior, set, budget, out=out, seed=seed or 0, threads=threads,
            device=device or "auto", snapshots=snapshots, tensorboard=tensorboard, follow=page,
        )  # fmt: skip
        _stay(page)
        return
    if resume is not None:
        kept = {"out": out, "seed": seed, "threads": threads, "device": device, **opens}
        _refuse_beside_resume(resume, kept if recipe is not None else kept | chooses)
        wanted = None if recipe is None else _chosen_recipe(recipe, field, size, quality, prior, set)
        verb.resume(resume, budget, wanted, scene, snapshots=snapshots, tensorboard=tensorboard, follow=page)
        _stay(page)
        return
    if recipe is None or scene is None:
        missing = "a recipe and a scene" if recipe is None else "a scene"
        raise UserError(f"train needs {missing}: rayprior train RECIPE SCENE, or rayprior train --resume RUN")
    chosen = _chosen_recipe(recipe, field, size, quality, prior, set)
    verb.train(
        chosen, verb.opened_for(chosen, scene, given), budget, out=out, seed=seed or 0, threads=threads,
        device=device or "auto", snapshots=snapshots, tensorboard=tensorboard, follow=page,
    )  # fmt: skip
    _stay(page)


def _watched(watch: bool, port: int) -> Watch | None:
    """What `--watch` shows each step to."""
    if not watch:
        return None
    from rayprior.viewer.view import Watch

    return Watch(port)


def _stay(page: Watch | None) -> None:
    if page is not None:
        page.stay()


def _refuse_beside_resume(run: Path, options: Mapping[str, Any]) -> None:
    """A run keeps what it was started with: an option that would do nothing is not taken in silence."""
    typed = [f"--{name}" for name, value in options.items() if not (value is None or value is False or value == ())]
    if typed:
        raise UserError(
            f"--resume {run} with {', '.join(typed)}: a run goes on as it was started, and only its budget may grow "
            "(--steps, --seconds). Leave them out, or start a new run without --resume"
        )


def _refuse_beside_start(run: Path, resume: Path | None, second: str | None, options: Mapping[str, Any]) -> None:
    """A run is begun at another with the recipe of that one: what would choose another recipe is refused."""
    typed = [f"--{name}" for name, value in options.items() if value is not None]
    typed += ["--resume"] * (resume is not None) + ["a recipe"] * (second is not None)
    if typed:
        raise UserError(
            f"--start-from {run} with {', '.join(typed)}: the recipe is that of the run, with --set and --prior; give"
            f" SCENE alone, as in rayprior train --start-from {run} SCENE, or nothing for the run's own scene"
        )


@app.command(name="eval")
def evaluate(
    run: Positional[RunArg],
    lpips: Literal["auto", "alex", "vgg", "none"] = "auto",
    depth: Folder = None,
    refiner: Annotated[Path | None, option("RUN2")] = None,
    flicker: Flag = False,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Measure a run on its held-out views: RUN/eval/STEP/metrics.json.

    Args:
        lpips: network; auto leaves it out where its weights are not on this machine
        depth: folder of depth maps to measure distances against, instead of those that the run was opened with
        refiner: measure the pictures of this refiner of the run instead: RUN2/eval/STEP/metrics.json
        flicker: also render a short film, and measure how much colours on surfaces change along it
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.measure import evaluate_run

    evaluate_run(run, lpips, threads, device, depth, refiner, flicker)


@app.command
def render(
    run: Positional[RunArg],
    path: Annotated[str, arg(metavar="orbit|spiral|interpolate|train|test|FILE")] = "orbit",
    show: Annotated[str, arg(metavar="rgb,depth,opacity")] = "rgb",
    format: Literal["mp4", "webp", "gif", "png"] = "webp",
    frames: Annotated[int | None, option("N", "60, or as many as the path has")] = None,
    size: Annotated[str | None, option("WxH", "the first training picture's")] = None,
    out: Annotated[Path | None, option("PATH", "RUN/renders/PATH.FORMAT")] = None,
    appearance: Annotated[str | None, option("VIEW|mean", "mean")] = None,
    snapshots: Flag = False,
    refiner: Annotated[Path | None, option("RUN2")] = None,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Render a run along a camera path: RUN/renders/PATH.FORMAT.

    Args:
        path: a named path, or a JSON file with one
        show: what to show; several stand side by side
        format: of the film; png: a folder of frames, with depth also as numbers
        frames: how many
        size: of the pictures, 640x480
        out: the file, or with png the folder
        appearance: in the light of this training photograph, where each has its own (recipes wild, nerfw, nerf-a)
        snapshots: one still view through the training instead (train with --snapshots N)
        refiner: with the colours of this refiner of the run: RUN2/renders/PATH.FORMAT
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.render import render_run

    render_run(
        run, path, show, format, frames, size, out, appearance=appearance, snapshots=snapshots, refiner=refiner,
        threads=threads, device=device,
    )  # fmt: skip


@app.command
def depth(
    action: Positional[Annotated[Literal["make"], arg(metavar="make", help="write maps from a trained field")]],
    scene: Positional[SceneArg],
    run: Annotated[Path, arg(name="from", metavar="RUN", help="a run of this capture", help_behavior_hint="")],
    split: Name = None,
    views: Annotated[str | None, option("26,86,2,55", "every frame whose photo is there")] = None,
    out: Annotated[Path | None, option("DIR", "depth, in the capture's folder")] = None,
    force: Flag = False,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Write depth maps of a capture from a run that was trained on it, marked as derived; `train` then finds them.

    Args:
        split: the views of a named split
        views: views by name, or by the number that their names end in
        out: where to write; read them from there with --depth DIR
        force: replace derived maps that are there
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.depth import make_depth

    assert action == "make"
    make_depth(scene, run, split, views, out, force=force, threads=threads, device=device)


@app.command
def study(
    file: Positional[Annotated[Path, arg(metavar="FILE.toml")]],
    all: Flag = False,
    only: Annotated[str | None, option("ARM,ARM")] = None,
    out: Annotated[Path | None, option("DIR", "runs/study-NAME")] = None,
    data: Annotated[Path | None, option("DIR", "$RAYPRIOR_DATA, else the file's folder")] = None,
    workers: Annotated[int | None, option("N", "all cores")] = None,
    seeds: Annotated[int | None, option("N", "the file's")] = None,
    steps: Annotated[int | None, option("N", "the file's")] = None,
    seconds: Annotated[float | None, option("S", "the file's")] = None,
    dry_run: Flag = False,
) -> None:
    """Run a study, methods x scenes x seeds, and say what it shows. Resumable: the same command goes on.

    Args:
        file: what is compared with what
        all: also what is not decisive
        only: only these arms
        out: the study's folder
        data: where the file's scenes are
        workers: runs side by side, each with one thread
        seeds: how many seeds each run has; more of them later add runs to those that are there
        steps: budget of every run in steps
        seconds: budget of every run in seconds
        dry_run: only say what it would take
    """
    from rayprior.study.jobs import Selection
    from rayprior.training.budget import Budget
    from rayprior.verbs.study import study as run_study

    arms = tuple(filter(None, map(str.strip, (only or "").split(","))))
    budget = None if steps is None and seconds is None else Budget(steps, seconds)
    run_study(
        file,
        selection=Selection(all, arms),
        out=out,
        data=data,
        workers=workers,
        seeds=seeds,
        budget=budget,
        dry_run=dry_run,
    )


@app.command
def masks(
    path: Positional[Annotated[str, arg(metavar="SCENE|PHOTOS", help="a capture, or a folder of photos")]],
    folder: Annotated[Path | None, arg(name="from", metavar="DIR", help_behavior_hint="")] = None,
    key: Annotated[str | None, option("'#rrggbb'")] = None,
    sam: Folder = None,
    out: Annotated[Path | None, option("DIR", "masks, in the capture's folder")] = None,
    invert: Flag = False,
    tolerance: Annotated[int | None, option("T", "24")] = None,
    points: Annotated[str | None, option("'x,y;x,y,0'")] = None,
    boxes: Annotated[str | None, option("'x0,y0,x1,y1'")] = None,
    prompts: Annotated[Path | None, option("FILE")] = None,
    automatic: Flag = False,
    force: Flag = False,
) -> None:
    """Make masks of a capture's photos (white = keep), where `train` finds them; an overlay shows them.

    Args:
        folder: from pictures, one a photo, of the photo's name: black and white, or cut-outs with alpha
        key: by a colour: what has it is left out
        sam: by Segment Anything; the folder of its two ONNX files, *encoder*.onnx and *decoder*.onnx (extra: masks)
        out: where to write; masks that are up to date stay
        invert: in the files of --from black means keep
        tolerance: of --key, the largest difference of a channel in 8-bit steps
        points: for --sam, in pixels, the same for all photos; a third number 0: leave out
        boxes: for --sam, in pixels, the same for all photos; several are several objects
        prompts: for --sam, a JSON file with points and boxes of single photos
        automatic: for --sam, photos without prompts: the object in the middle
        force: replace masks that were not made here
    """
    from rayprior.verbs.masks import masks as make

    make(
        path, folder, key, sam, out, invert=invert, tolerance=tolerance, points=points, boxes=boxes, prompts=prompts,
        automatic=automatic, force=force,
    )  # fmt: skip


@app.command
def view(
    target: Positional[Annotated[str, arg(metavar="RUN|SCENE", help="the folder of a run, or a capture")]],
    port: Annotated[int, arg(metavar="P")] = 8080,
    refiner: Annotated[Path | None, option("RUN2")] = None,
    describer: Annotated[Path | None, option("DESCRIBER")] = None,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Look at a run's field, or at a capture, in a browser on this machine (extra: viewer).

    Args:
        port: of the page
        refiner: show colours as this refiner of the run makes them
        describer: find a point that is picked again in the view, as a heat map of its descriptor
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.viewer.view import view as show

    show(target, port=port, refiner=refiner, describer=describer, threads=threads, device=device)


@app.command
def doctor(
    scene: Positional[SceneArg],
    json: Annotated[Path | None, option("FILE")] = None,
    split: Name = None,
    downscale: Annotated[int, arg(metavar="K")] = 1,
    near: Annotated[float | None, option("X")] = None,
    far: Annotated[float | None, option("Y")] = None,
    masks: MaskRule = "ignore",
    format: Name = None,
    depth: Folder = None,
) -> None:
    """Say whether a capture can be trained on: each finding with its evidence and remedy. Exits with 0, 3 or 4.

    0 is usable, 3 doubtful, 4 unusable.

    Args:
        json: also write the findings there, for programs
        split: a named split
        downscale: whole factor by which pictures are made smaller
        near: where rendering starts, in the capture's unit
        far: where rendering ends, in the capture's unit
        masks: what masked-out pixels are: ignored, known background, or photographs that are not scored
        format: instead of the one that is found
        depth: folder of depth maps, instead of those beside the pictures
    """
    from rayprior.verbs import doctor as verb

    options = {
        "split": split, "downscale": downscale, "near": near, "far": far, "masks": masks, "format": format,
        "depth": depth,
    }  # fmt: skip
    status = verb.doctor(scene, options, json)
    if status:
        sys.exit(status)


@app.command
def capture(
    photos: Positional[Annotated[Path, arg(metavar="PHOTOS|VIDEO", help="a folder of photos, or a film")]],
    out: Annotated[Path, arg(metavar="SCENE")],
    frames: Annotated[int, arg(metavar="N")] = 120,
    cameras: Literal["auto", "one", "each"] = "auto",
    lens: Annotated[str | None, option("MODEL", "OPENCV, or SIMPLE_RADIAL for few photos")] = None,
    matching: Literal["auto", "sequential", "exhaustive"] = "auto",
    feature_size: Annotated[int, arg(metavar="PX")] = 1600,
    attempts: Annotated[int | None, option("N", "all that are needed")] = None,
    masks: Folder = None,
    turntable: Flag = False,
    poses: Annotated[str | None, option("SCENE")] = None,
    undistort: Flag = False,
    seed: Annotated[int, arg(metavar="N")] = 0,
    threads: Threads = None,
) -> None:
    """Find cameras and points of photos or of a film (structure from motion); the same command goes on after a stop.

    Args:
        out: where the scene is written
        frames: how many of a film, the sharpest of each stretch
        cameras: which photos share a camera: by size and EXIF, all, or none
        lens: COLMAP's model: SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV, OPENCV_FISHEYE, ...
        matching: which pairs are compared: sequential for photos in order, exhaustive for all pairs
        feature_size: longest side at which features are sought
        attempts: at most this many, each wider than the one before
        masks: folder of masks, NAME.png of each photo, white = keep; they go into the scene
        turntable: the object turns before a fixed camera: features are sought inside the masks alone
        poses: a capture whose cameras are taken as they are; points alone are made
        undistort: also write photos without distortion
        seed: of the first attempt
        threads: of matching and mapping
    """
    from rayprior.capture.capture import CaptureOptions
    from rayprior.verbs.capture import run_capture

    chosen = CaptureOptions(
        frames, cameras, lens, matching, feature_size, attempts, masks, turntable, poses, undistort, seed, threads
    )
    run_capture(photos, out, chosen)


@app.command
def export(
    run: Positional[RunArg],
    what: Positional[
        Annotated[str, arg(metavar="mesh|points|poses|depth|video|nerfstudio|colmap|llff", help="what to write")]
    ],
    out: Annotated[Path | None, option("PATH", "RUN/export/WHAT")] = None,
    format: Annotated[str | None, option("glb|ply|obj, mp4|webp|gif", "glb, mp4, or that of --out")] = None,
    resolution: Annotated[int | None, option("N", "256")] = None,
    level: Annotated[float | None, option("X", "0.5")] = None,
    box: Annotated[str | None, option("X,Y,Z,X,Y,Z", "the scene's own")] = None,
    count: Annotated[int | None, option("N", "300000")] = None,
    path: Annotated[str | None, option("orbit|train|test|...|FILE", "depth: train, video: orbit")] = None,
    frames: Annotated[int | None, option("N", "60, or as many as the path has")] = None,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Write a run's mesh, points, poses, depth or film, or its capture for nerfstudio, COLMAP or LLFF: RUN/export/WHAT.

    Args:
        out: the file, or the folder; nothing that is there is replaced
        format: of a mesh or a video
        resolution: of a mesh: cells along the longest side of its box
        level: of a mesh: the opacity that makes a surface, above 0 and below 1
        box: of a mesh: two corners, in the capture's unit
        count: of points: how many rays are followed to where they end
        path: of depth or a video: a named path, or a JSON file with one
        frames: of depth or a video: how many
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.export import export_run

    options = {
        "format": format, "resolution": resolution, "level": level, "box": box, "count": count, "path": path,
        "frames": frames,
    }  # fmt: skip
    export_run(run, what, out, options=options, threads=threads, device=device)


@app.command
def family(
    action: Positional[Annotated[Literal["make"], arg(metavar="make", help="write a family of embedded scenes")]],
    kind: Positional[Annotated[str, arg(metavar="rooms|table-top", help="of which kind")]],
    out: Annotated[Path, arg(metavar="DIR")],
    scenes: Annotated[int, arg(metavar="N")] = 500,
    views: Annotated[int, arg(metavar="V")] = 10,
    size: Annotated[int, arg(metavar="PX")] = 32,
    seed: Annotated[int, arg(metavar="K")] = 0,
    test: Annotated[int | None, option("N", "a tenth of the scenes")] = None,
    shift: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=X")] = (),
    exposure: Annotated[float, arg(metavar="X")] = 0.0,
    workers: Annotated[int | None, option("N", "all cores")] = None,
) -> None:
    """Make a family: many scenes of one kind, to train on all at once. The same command goes on after a stop.

    Args:
        out: where to write
        scenes: how many
        views: pictures of each
        size: width and height of a picture
        seed: of everything random; the same worlds are made again with the same one
        test: how many of the last scenes are held out
        shift: stand elsewhere: height=0.3, radius=0.2 (shares of the ring's), yaw=20, roll=20 (degrees)
        exposure: pictures are brighter and darker at random, by up to exp(X)
        workers: processes side by side, each with one thread
    """
    from rayprior.verbs.family import make_family

    assert action == "make"
    make_family(
        kind, out, scenes=scenes, views=views, size=size, seed=seed, test=test, shift=shift, exposure=exposure,
        workers=workers,
    )  # fmt: skip


@app.command
def infer(
    run: Positional[Annotated[str, arg(metavar="RUN", help="a run of nerf-vae on a family, or the word demo")]],
    scene: Positional[Annotated[str, arg(metavar="SCENE", help="a capture, or a family's scene: FAMILY/12")]],
    views: Annotated[str | None, option("0,3,5", "the training views of the scene's split")] = None,
    out: Annotated[Path | None, option("DIR", "runs/SCENE-inferred-DATE-TIME")] = None,
    samples: Annotated[int, arg(metavar="N")] = 16,
    refinements: Annotated[int | None, option("K", "as it was trained")] = None,
    seed: Annotated[int, arg(metavar="S")] = 0,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Infer a scene never seen before from a few views: a run like any other, for render, view, export and eval.

    Args:
        views: that are shown, by name, or by the number that their names end in; a family's scene has no others
        out: the folder of the result
        samples: how many scenes are drawn from what is believed, to see what is not known
        refinements: how often the first guess is improved
        seed: of what is drawn
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.infer import infer as verb

    verb(
        run, scene, views, out, samples=samples, refinements=refinements, seed=seed, threads=threads, device=device
    )  # fmt: skip


@app.command
def sample(
    run: Positional[Annotated[str, arg(metavar="RUN", help="a run of nerf-vae on a family, or the word demo")]],
    out: Annotated[Path, arg(metavar="DIR")],
    n: Annotated[int | None, option("N", "8")] = None,
    between: Annotated[tuple[Path, Path] | None, option("A B")] = None,
    frames: Annotated[int | None, option("N", "20")] = None,
    size: Annotated[int | None, option("PX", "the family's")] = None,
    seed: Annotated[int, arg(metavar="K")] = 0,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Draw new scenes from what a model learned of a family: a picture and a turntable each, and all on one sheet.

    Args:
        out: where to write; an empty or a new folder
        n: how many scenes
        between: two folders that `rayprior infer` wrote: a film from one scene to the other instead
        frames: of each film
        size: width of the pictures
        seed: of what is drawn
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.sample import sample as verb

    verb(
        run, out, n=n, between=between, frames=frames, size=size, seed=seed, threads=threads, device=device
    )  # fmt: skip


@app.command
def refine(
    run: Positional[RunArg],
    out: Annotated[Path | None, option("RUN2", "RUN/refiner")] = None,
    steps: Annotated[int | None, option("N", "the recipe's")] = None,
    seconds: Annotated[float | None, option("S")] = None,
    recipe: Annotated[str, arg(metavar="refiner|ganerf-refiner")] = "refiner",
    scale: Annotated[Literal[2, 4] | None, option("2|4", "1")] = None,
    shuffled: Flag = False,
    set: Settings = (),
    seed: Annotated[int | None, option("K", "0")] = None,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Train a network that makes a run's renderings look like its photographs. The same command goes on after a stop.

    Args:
        out: the refiner's folder; use it with --refiner of eval, render and view
        steps: budget in steps
        seconds: budget in seconds of the training loop, instead of steps
        recipe: refiner: full resolution, starts as the identity; ganerf-refiner: as published, for GPUs
        scale: the field renders at 1/2 or 1/4 of the photographs' size, the refiner gives their size
        shuffled: a control: every rendering is shown the photograph of another view
        set: change a value by its path, l1=3 or net.width=24; may be given many times
        seed: of everything random
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.training.budget import Budget
    from rayprior.verbs.refine import refine_run

    budget = None if steps is None and seconds is None else Budget(steps, seconds)
    refine_run(
        run, out, recipe, set, budget, scale=scale, shuffled=shuffled, seed=seed, threads=threads, device=device
    )  # fmt: skip


describe = tyro.extras.SubcommandApp()
DescriberArg = Annotated[Path, arg(metavar="DESCRIBER", help="the folder of a describer")]
PixelArg = Annotated[str, arg(metavar="U,V", help="a pixel of PICTURE, column and row from 0")]


@describe.command(name="train")
def describe_train(
    targets: Positional[Annotated[tuple[str, ...], arg(metavar="RUN|SCENE ...", help="runs, or captures")]],
    labels: Annotated[str | None, option("SOURCE", "of a run draw")] = None,
    pairs: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE")] = (),
    out: Annotated[Path | None, option("DIR", "runs/SCENE-describer-DATE-TIME")] = None,
    recipe: Annotated[str, arg(metavar="describer|dense-object-nets")] = "describer",
    dimension: Annotated[int | None, option("D", "3")] = None,
    mode: Literal["single", "class", "instance"] = "single",
    steps: Annotated[int | None, option("N", "the recipe's")] = None,
    seconds: Annotated[float | None, option("S")] = None,
    set: Settings = (),
    count: Annotated[int | None, option("N", "100000")] = None,
    cycle: Annotated[float | None, option("PX", "none")] = None,
    seed: Annotated[int | None, option("K", "0")] = None,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Train descriptors of a run's or a capture's object. With --out the same command goes on after a stop.

    Args:
        labels: who says which pixels match: of a run its field, raw-mean, mean, median, mode, draw, draw-left or
            distribution; of a run or a capture exact, depth, stereo, points or homography
        pairs: pairs of pixels from a file that `rayprior correspond` wrote, instead of labels; one for each target
        out: the describer's folder
        recipe: describer: small, for CPUs; dense-object-nets: ResNet34, as published, for GPUs
        dimension: numbers of a descriptor
        mode: single: one object; class: several of one kind; instance: several, to be told apart
        steps: budget in steps
        seconds: budget in seconds of the training loop, instead of steps
        set: change a value by its path, lr=1e-3 or net.width=24; may be given many times
        count: pairs of pixels drawn from each target
        cycle: keep a label only if the way back ends this near to where it began
        seed: of everything random
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.training.budget import Budget
    from rayprior.verbs.describe import train as verb

    budget = None if steps is None and seconds is None else Budget(steps, seconds)
    verb(
        targets, labels, pairs, out, recipe=recipe, dimension=dimension, mode=mode, settings=set, count=count,
        cycle=cycle, budget=budget, seed=seed, threads=threads, device=device,
    )  # fmt: skip


@describe.command(name="eval")
def describe_eval(
    describer: Positional[DescriberArg],
    target: Positional[Annotated[str | None, option("RUN|SCENE", "what it was trained on")]] = None,
    labels: Annotated[str | None, option("exact|depth|points", "the best there is")] = None,
    pairs: Annotated[Path | None, option("FILE")] = None,
    views: Annotated[str | None, option("A,B,...", "the held-out ones")] = None,
    count: Annotated[int | None, option("N", "2000")] = None,
    seed: Annotated[int, arg(metavar="K")] = 0,
    sift: Flag = False,
    out: Annotated[Path | None, option("FILE", "DESCRIBER/eval/STEP/metrics.json")] = None,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Measure a describer on pairs of pixels whose match is known: AEPE, PCK, errors in space; in the mask as well.

    Args:
        target: the capture to measure on, or a run of it
        labels: what is taken for the truth
        pairs: labelled pairs from a file, instead of labels
        views: between which pairs are drawn, by name, or by the number that their names end in
        count: pairs of pixels that are drawn
        seed: of what is drawn
        sift: also measure the cheap rival, SIFT at every pixel
        out: where metrics.json is written
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.describe import evaluate as verb

    verb(
        describer, target, labels, pairs, views, count=count, seed=seed, sift=sift, out=out, threads=threads,
        device=device,
    )  # fmt: skip


@describe.command(name="match")
def describe_match(
    describer: Positional[DescriberArg],
    picture: Positional[Annotated[str, arg(metavar="PICTURE", help="a file, or with --scene the name of a view")]],
    pixel: Positional[PixelArg],
    others: Positional[Annotated[tuple[str, ...], arg(metavar="PICTURE ...", help="where it is sought")]],
    scene: Annotated[str | None, option("RUN|SCENE")] = None,
    out: Annotated[Path | None, option("DIR", "DESCRIBER/match")] = None,
    threads: Threads = None,
) -> None:
    """Find a pixel of one picture in others: the best match, the distance of its descriptor, and a heat map each.

    Args:
        scene: a capture whose views may be named
        out: where heat maps and match.json are written
        threads: of the kernels and of torch
    """
    from rayprior.verbs.keypoints import match as verb

    verb(describer, picture, pixel, others, scene, out, threads)


@describe.command(name="track")
def describe_track(
    describer: Positional[DescriberArg],
    picture: Positional[Annotated[str, arg(metavar="PICTURE", help="a file")]],
    pixel: Positional[PixelArg],
    where: Positional[Annotated[Path, arg(metavar="FOLDER|FILM", help="pictures, or a film, to follow it through")]],
    out: Annotated[Path | None, option("DIR", "DESCRIBER/track")] = None,
    frames: Annotated[int | None, option("N", "60")] = None,
    threads: Threads = None,
) -> None:
    """Follow a pixel of one picture through a folder of pictures or a film: JSON, a film, and a sheet.

    Args:
        out: where track.json, track.webp and track.png are written
        frames: of a film, the sharpest of so many stretches
        threads: of the kernels and of torch
    """
    from rayprior.verbs.keypoints import track as verb

    verb(describer, picture, pixel, where, out, frames, threads)


@describe.command(name="keypoint")
def describe_keypoint(
    describer: Positional[DescriberArg],
    scene: Annotated[str, arg(metavar="RUN|SCENE")],
    views: Annotated[str, arg(metavar="A[,B,...]")],
    at: Annotated[str, arg(metavar="PICTURE:U,V")],
    out: Annotated[Path | None, option("FILE", "printed")] = None,
    hand_eye: Annotated[Path | None, option("FILE")] = None,
    metres: Flag = False,
    scale: Annotated[float | None, option("X")] = None,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Tell where in space a pixel's point is, and the surface's normal, as JSON for a robot.

    Args:
        scene: the capture that the views are of, or a run of it
        views: in which it is sought: two or more, or one whose depth a map or the run knows
        at: the pixel, in a view or in a picture file
        out: where the JSON is written
        hand_eye: JSON of a 4x4 transform from the axes of the first view's camera to the robot's, in metres
        metres: refuse rather than answer in the capture's own unit
        scale: metres in one unit of the capture, where its format does not say
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.keypoints import keypoint as verb

    verb(
        describer, scene, views, at, out=out, hand_eye=hand_eye, metres=metres, scale=scale, threads=threads,
        device=device,
    )  # fmt: skip


@describe.command(name="export")
def describe_export(
    describer: Positional[DescriberArg],
    onnx: Annotated[Path, arg(metavar="FILE.onnx")],
) -> None:
    """Write a describer's network as an ONNX file, checked to give the same descriptors (extra: masks).

    Args:
        onnx: the file
    """
    from rayprior.verbs.describe import export as verb

    verb(describer, onnx)


@describe.command(name="page")
def describe_page(
    describer: Positional[DescriberArg],
    targets: Positional[Annotated[tuple[str, ...], arg(metavar="RUN|SCENE|PICTURES ...", help="what to look at")]],
    out: Annotated[Path, arg(metavar="FILE.html")],
    views: Annotated[str | None, option("A,B,...")] = None,
    count: Annotated[int | None, option("N", "12")] = None,
    side: Annotated[int | None, option("PX", "256")] = None,
    threads: Threads = None,
) -> None:
    """Write a page in which a mouse over one picture shows the heat map of that pixel in all others; works offline.

    Args:
        out: the page
        views: of a capture, by name, or by the number that their names end in
        count: pictures, spread over all that there are
        side: descriptors along the longer side of a picture, at most
        threads: of the kernels and of torch
    """
    from rayprior.verbs.describe_pages import describe_page as verb

    verb(describer, targets, out, views=views, count=count, side=side, threads=threads)


@describe.command(name="rays")
def describe_rays(
    run: Positional[Annotated[str, arg(metavar="RUN", help="the folder of a run")]],
    out: Annotated[Path, arg(metavar="FILE.html")],
    views: Annotated[str | None, option("A,B,...")] = None,
    count: Annotated[int | None, option("N", "6")] = None,
    every: Annotated[int | None, option("PX", "as fine as the page has room for")] = None,
    seed: Annotated[int, arg(metavar="K")] = 0,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Write a page in which a mouse over one picture shows where all samples of that pixel's ray lie in the others.

    Args:
        out: the page
        views: by name, or by the number that their names end in
        count: views, spread over all that there are
        every: pixels from one ray to the next
        seed: of what is drawn
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.describe_pages import describe_rays as verb

    verb(run, out, views=views, count=count, every=every, seed=seed, threads=threads, device=device)


@describe.command(name="pictures")
def describe_pictures(
    describer: Positional[DescriberArg],
    targets: Positional[Annotated[tuple[str, ...], arg(metavar="RUN|SCENE|PICTURES ...", help="what to look at")]],
    out: Annotated[Path, arg(metavar="DIR")],
    views: Annotated[str | None, option("A,B,...")] = None,
    count: Annotated[int | None, option("N", "12")] = None,
    path: Annotated[str | None, option("orbit|train|test|...|FILE")] = None,
    frames: Annotated[int | None, option("N", "60, or as many as the path has")] = None,
    colouring: Annotated[Path | None, option("FILE", "from the pictures")] = None,
    scores: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE")] = (),
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Show descriptors as colours, clusters of them, and curves of their errors: pictures, a film, a page.

    Args:
        out: where to write
        views: of a capture, by name, or by the number that their names end in
        count: pictures, spread over all that there are
        path: the film shows a run along this path instead of the pictures
        frames: of the path
        colouring: colouring.json of other pictures, for the same colours
        scores: metrics.json of `describe eval`, for the curves; may be given many times
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.describe_pages import describe_pictures as verb

    verb(
        describer, targets, out, views=views, count=count, path=path, frames=frames, colouring=colouring,
        scores=scores, threads=threads, device=device,
    )  # fmt: skip


app.command(describe, name="describe", help="Descriptors of a pixel: train, measure, match, track, place in space.")


@app.command
def correspond(
    run: Positional[RunArg],
    out: Annotated[Path, arg(metavar="DIR")],
    views: Annotated[str | None, option("A,B,...", "the training views")] = None,
    labels: Annotated[str, arg(metavar="SOURCE")] = "median",
    cycle: Annotated[str, arg(metavar="PX|none")] = "2",
    count: Annotated[int, arg(metavar="N")] = 100_000,
    form: Annotated[str, arg(metavar="json|original")] = "json",
    seed: Annotated[int, arg(metavar="K")] = 0,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Write pairs of matching pixels of a run's views, and what they are worth where the truth is known.

    Args:
        out: where to write; an empty or a new folder
        views: between which, by name, or by the number that their names end in
        labels: who says which pixels match: the field by raw-mean, mean, median, mode, draw, draw-left or
            distribution of where rays end; or exact, depth, stereo, points, homography
        cycle: keep a pair only if the way back ends this near to where it began
        count: source pixels with a match
        form: original: also the folders of NeRF-Supervision's own training, large
        seed: of what is drawn
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.correspond import correspond as verb

    verb(
        run, out, views=views, labels=labels, cycle=cycle, count=count, form=form, seed=seed, threads=threads,
        device=device,
    )  # fmt: skip


@app.command
def compare(
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN RUN ...", help="runs; the first is the control")]],
    out: Annotated[Path | None, option("DIR", "runs/compare-RUN-DATE-TIME")] = None,
    lpips: Literal["auto", "alex", "vgg", "none"] = "auto",
    threads: Threads = None,
) -> None:
    """Compare finished runs of one scene: a table with intervals, curves, pictures, a film, a report.

    Args:
        out: where to write
        lpips: network for runs not measured yet; auto leaves it out where its weights are not on this machine
        threads: of the kernels and of torch
    """
    from rayprior.verbs.study import compare_runs

    compare_runs(runs, out, lpips, threads)


def _chosen_recipe(
    name: str, field: Any, size: Any, quality: Any, priors: Sequence[str], settings: Sequence[str]
) -> Recipe:
    """The recipe that was typed."""
    from rayprior.methods import recipe_from

    return recipe_from(name, field, size, quality, priors, settings)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line. Exits with 0 done, 2 the user's mistake, 1 a fault of ours, 130 interrupted."""
    try:
        app.cli(prog="rayprior", description=ABOUT, args=argv)
    except UserError as error:
        print(f"rayprior: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt as stop:
        print(" ".join(["rayprior: interrupted", *map(str, stop.args)]), file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone (`rayprior ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
    except Exception:
        import traceback

        traceback.print_exc()
        print("rayprior: this is a fault of ours, not yours; please report it with the lines above", file=sys.stderr)
        sys.exit(FAULT)


if __name__ == "__main__":
    main()

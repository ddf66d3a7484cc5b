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
    tensorboard: Flag = False,
) -> None:
    """Train RECIPE on SCENE, measure it on the held-out views, write a report. With --resume RUN, go on with a run.

    Args:
        recipe: a name from `rayprior methods`, or a JSON file
        scene: a capture's folder or file, or synthetic:NAME
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
        tensorboard: also write event files (extra: log)
    """
    from rayprior.training.budget import Budget
    from rayprior.verbs import train as verb

    budget = None if steps is None and seconds is None else Budget(steps, seconds)
    chooses = {"field": field, "size": size, "quality": quality, "prior": prior, "set": set}
    opens = {
        "split": split, "views": views, "fewshot": fewshot, "fewshot-seed": fewshot_seed, "downscale": downscale,
        "format": format, "skip-missing": skip_missing, "near": near, "far": far, "masks": masks, "depth": depth,
    }  # fmt: skip
    if resume is not None:
        kept = {"out": out, "seed": seed, "threads": threads, "device": device, **opens}
        _refuse_beside_resume(resume, kept if recipe is not None else kept | chooses)
        wanted = None if recipe is None else _chosen_recipe(recipe, field, size, quality, prior, set)
        verb.resume(resume, budget, wanted, scene, snapshots=snapshots, tensorboard=tensorboard)
        return
    if recipe is None or scene is None:
        missing = "a recipe and a scene" if recipe is None else "a scene"
        raise UserError(f"train needs {missing}: rayprior train RECIPE SCENE, or rayprior train --resume RUN")
    chosen = _chosen_recipe(recipe, field, size, quality, prior, set)
    from rayprior.scenes.open import load_scene

    given: dict[str, Any] = {name.replace("-", "_"): value for name, value in opens.items() if value is not None}
    verb.train(
        chosen, load_scene(scene, **given), budget, out=out, seed=seed or 0, threads=threads, device=device or "auto",
        snapshots=snapshots, tensorboard=tensorboard,
    )  # fmt: skip


def _refuse_beside_resume(run: Path, options: Mapping[str, Any]) -> None:
    """A run keeps what it was started with: an option that would do nothing is not taken in silence."""
    typed = [f"--{name}" for name, value in options.items() if not (value is None or value is False or value == ())]
    if typed:
        raise UserError(
            f"--resume {run} with {', '.join(typed)}: a run goes on as it was started, and only its budget may grow "
            "(--steps, --seconds). Leave them out, or start a new run without --resume"
        )


@app.command(name="eval")
@app.command(name="eval")
def evaluate(
    run: Positional[RunArg],
    lpips: Literal["auto", "alex", "vgg", "none"] = "auto",
    depth: Folder = None,
    threads: Threads = None,
    device: Annotated[str, arg(metavar="D")] = "auto",
) -> None:
    """Measure a run on its held-out views: RUN/eval/STEP/metrics.json.

    Args:
        lpips: network; auto leaves it out where its weights are not on this machine
        depth: folder of depth maps to measure distances against, instead of those that the run was opened with
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.measure import evaluate_run

    evaluate_run(run, lpips, threads, device, depth)


@app.command
def render(
    run: Positional[RunArg],
    path: Annotated[str, arg(metavar="orbit|spiral|interpolate|train|test|FILE")] = "orbit",
    show: Annotated[str, arg(metavar="rgb,depth,opacity")] = "rgb",
    format: Literal["mp4", "webp", "gif", "png"] = "webp",
    frames: Annotated[int | None, option("N", "60, or as many as the path has")] = None,
    size: Annotated[str | None, option("WxH", "the first training picture's")] = None,
    out: Annotated[Path | None, option("PATH", "RUN/renders/PATH.FORMAT")] = None,
    snapshots: Flag = False,
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
        snapshots: one still view through the training instead (train with --snapshots N)
        threads: of the kernels and of torch
        device: auto, cpu, cuda or cuda:N
    """
    from rayprior.verbs.render import render_run

    render_run(run, path, show, format, frames, size, out, snapshots=snapshots, threads=threads, device=device)


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
        file, selection=Selection(all, arms), out=out, data=data, workers=workers, budget=budget, dry_run=dry_run
    )


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

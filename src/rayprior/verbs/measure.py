"""`eval`, and what `train` does when it has trained: score, print the table, write the report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from rayprior.errors import UserError
from rayprior.evaluation.appearance import fit_code
from rayprior.evaluation.evaluate import ALL_MEASURES, MEASURES, Evaluation, LpipsChoice, evaluate
from rayprior.evaluation.export import film_bytes, shown, side_by_side
from rayprior.evaluation.pictures import Renders, Span, on_background, render_camera
from rayprior.evaluation.report import write_report
from rayprior.evaluation.trajectories import camera_path, resized
from rayprior.kernels.threads import set_threads
from rayprior.rendering.refined import Refined
from rayprior.scenes.scene import Scene
from rayprior.training.fit import cores, device_named
from rayprior.training.recipe import Expects, Recipe
from rayprior.training.recipe_json import recipe_to_plain
from rayprior.training.refining import RefinerRun
from rayprior.training.run import Run
from rayprior.training.tasks import scene_for
from rayprior.verbs.measure_family import evaluate_family_run, network
from rayprior.verbs.terminal import console, counted, number, weight_text

QUICK_SECONDS = 30.0  # what the report after a training may spend on measuring; `eval` takes the time it needs
# what fits a terminal of 80 columns; metrics.json has every number
TABLE = ("psnr", "ssim", "lpips", "distance_abs_rel", "floater_share")
FILM_SECONDS, FILM_FRAMES, FILM_WIDTH = 15.0, 24, 200


def evaluate_run(
    path: Path,
    lpips: LpipsChoice,
    threads: int | None,
    device: str,
    depth: Path | None = None,
    refiner: Path | None = None,
    flicker: bool = False,
) -> None:
    """Score all held-out views of a run, or all held-out scenes of one of a family; write metrics.json; print its path
    last. With a refiner, of the pictures that it makes of the run's; with `flicker`, of a short film too."""
    run = Run.open(path)
    if run.of_family:
        if refiner is not None:
            raise UserError(f"--refiner {refiner}: {path} is a run of many scenes, a refiner is of one; leave it out")
        if flicker:
            raise UserError(f"--flicker: {path} is a run of many scenes, and a film is of one; leave it out")
        set_threads(threads or cores())
        network(run).to(device_named(device))
        evaluate_family_run(run, lpips, depth)
        return
    run, scene = opened(path, threads, device, {} if depth is None else {"depth": depth})
    if refiner is not None:
        print(_evaluate_refined(RefinerRun.open(refiner, run), scene, lpips, flicker))
        return
    result = _score(run, scene, scene.split.test, lpips, flicker=flicker)
    result.write(run.metrics_path)
    _print_table(result, run)
    print(run.metrics_path)


def _evaluate_refined(of: RefinerRun, scene: Scene, lpips: LpipsChoice, flicker: bool) -> Path:
    """The refiner's pictures; where the field renders fewer pixels, beside them what bicubic makes of the same."""
    run, refined = of.run, of.refined(scene)
    codes = run.model.codes
    halves = codes is not None and codes.config.colours
    for view in scene.split.test if halves else ():
        fit_code(run.model, on_background(scene, None), view)
    result = _score(run, scene, scene.split.test, lpips, refined, halves, flicker)
    result = replace(result, protocol={**result.protocol, "refiner": of.said})
    path = of.metrics_path
    result.write(path)
    _print_table(result, run, ", refined")
    console.print(of.said)
    if of.refining.scale > 1:
        plain = Refined(run.model, None, of.refining.scale)
        beside = _score(run, scene, scene.split.test, lpips, plain, halves, flicker)
        how = f"rendered at 1/{of.refining.scale} of the size, enlarged bicubic; no refiner"
        replace(beside, protocol={**beside.protocol, "refiner": how}).write(path.with_name("metrics-bicubic.json"))
        _print_table(beside, run, ", bicubic")
    return path


def finish(run: Run, scene: Scene, orbit: bool = False) -> None:
    """After a training: score what half a minute allows, print the table, write the report."""
    scene = scene_for(run.recipe, scene)
    views = scene.split.test
    begun = time.perf_counter()
    first = evaluate(run.model, scene, views[:1], keep=1)
    a_view = time.perf_counter() - begun
    fit_in = max(1, min(len(views), int(QUICK_SECONDS / max(a_view, 1e-9))))
    scored = [views[i * len(views) // fit_in] for i in range(fit_in)]
    result = first if scored == list(views[:1]) else _score(run, scene, scored, "auto")
    _print_table(result, run)
    if fit_in < len(views):
        console.print(f"scored {fit_in} of {len(views)} test views; all of them: rayprior eval {run.path}")
    else:
        result.write(run.metrics_path)
    width, height = scene.pictures.size[scene.split.train[0]].tolist()
    film = None
    if orbit or a_view * FILM_FRAMES * min(1.0, FILM_WIDTH / width) ** 2 < FILM_SECONDS:
        film = _film(run, scene, width, height)
    report = _write_report(run, scene, result, film)
    console.print(f"run: {run.path}\nreport: {report}")


def _score(
    run: Run,
    scene: Scene,
    views: Sequence[int],
    lpips: LpipsChoice,
    model: Renders | None = None,
    halves: bool | None = None,
    flicker: bool = False,
) -> Evaluation:
    """Score views with a bar; of the run's model, or of another one's pictures."""
    with counted("measuring", "views") as bar:
        return evaluate(
            run.model if model is None else model, scene, views, lpips=lpips, halves=halves,
            measures=ALL_MEASURES if flicker else MEASURES,
            on_progress=lambda done, count, view: bar(done, count),
        )  # fmt: skip


def _film(run: Run, scene: Scene, width: int, height: int) -> bytes:
    """A short look around, small enough to stand in the report."""
    share = min(1.0, FILM_WIDTH / width)
    path = "orbit" if scene.inward else "spiral"
    cameras = resized(camera_path(path, scene, FILM_FRAMES), (round(width * share), round(height * share)))
    frames = (
        side_by_side([shown(render_camera(run.model, scene, cameras, i), "rgb", Span(1.0, 2.0))])
        for i in range(len(cameras))
    )
    return film_bytes(frames)


def _write_report(run: Run, scene: Scene, result: Evaluation, film: bytes | None) -> Path:
    log = run.read_log()
    facts = {
        "scene": scene.name,
        "split": f"{scene.split.name} ({len(scene.split.train)} train, {len(scene.split.test)} test)",
        "budget": str(run.budget),
        "steps": f"{run.latest or 0:,}",
        "seconds of training": f"{log[-1]['seconds']:.1f}" if log else "",
        "seed": str(run.conditions.seed),
        "threads": str(run.conditions.threads),
        "terms": ", ".join(f"{name} x {weight_text(term.weight)}" for name, term in run.recipe.terms.items()),
    }
    return write_report(
        run.path / "report.html",
        title=f"{run.recipe.name} on {scene.name}",
        about=run.recipe.about,
        command=(run.path / "command.txt").read_text().strip(),
        machine=run.machine,
        facts=facts,
        evaluation=result,
        expects=_expectation(run.recipe),
        log=log,
        recipe=recipe_to_plain(run.recipe),
        film=film,
        snapshots=_snapshot_pictures(run, scene),
    )


def _snapshot_pictures(run: Run, scene: Scene) -> list[tuple[str, Any]]:
    """The first test view through the training, from at most eight of the kept weights."""
    steps = run.snapshots
    picked = sorted({steps[i * (len(steps) - 1) // max(1, min(8, len(steps)) - 1)] for i in range(min(8, len(steps)))})
    return [(f"step {step:,}", frame_of_step(run, scene, step)) for step in picked]


def frame_of_step(run: Run, scene: Scene, step: int, size: tuple[int, int] | None = None) -> Any:
    """The first test view as the weights kept at `step` show it."""
    model = run.snapshot(step)
    cameras = scene.cameras[scene.split.test[0]]
    picture = render_camera(model, scene, cameras if size is None else resized(cameras, size), 0)
    return shown(picture, "rgb", Span(1.0, 2.0))


def _expectation(recipe: Recipe) -> str:
    expects = recipe.expects
    if not isinstance(expects, Expects):
        return expects
    return (
        f"published: {expects.metric} {expects.value:g} on {expects.protocol} ({expects.source}; {expects.mark}); "
        "comparable only under that protocol"
    )


def _print_table(result: Evaluation, run: Run, what: str = "") -> None:
    title = f"{run.recipe.name}, step {run.latest or 0:,}{what}, {len(result.views)} held-out views"
    table = Table(title=title, title_style="bold")
    keys = [key for key in TABLE if result.mean.get(key) is not None]
    table.add_column("view")
    for key in keys:
        table.add_column(key, justify="right")
    for row in result.views if len(result.views) <= 12 else []:
        table.add_row(str(row["name"]), *(number(row.get(key)) for key in keys))
    table.add_section()
    table.add_row("mean", *(number(result.mean[key]) for key in keys), style="bold")
    console.print(table)
    together = [f"{key} {number(result.mean[key])}" for key in ALL_MEASURES if result.mean.get(key) is not None]
    if together:  # of all views together: no row has them
        console.print("; ".join(together))
    if run.recipe.codes.of_photographs:  # they differ, and whose light they are scored in decides a decibel
        console.print(f"appearance: {result.protocol['appearance']}")
    console.print(_expectation(run.recipe))


def opened(
    path: Path, threads: int | None, device: str, otherwise: Mapping[str, Any] | None = None
) -> tuple[Run, Scene]:
    """A run and its scene, opened as it was but for `otherwise`; the run's own priors are not imported."""
    set_threads(threads or cores())
    run = Run.open(path)
    run.model.to(device_named(device))
    return run, scene_for(run.recipe, run.reopen(**(otherwise or {})))

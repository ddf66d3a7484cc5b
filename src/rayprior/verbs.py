"""What each verb does at a terminal: says what it is about to do, shows progress, prints tables, writes the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from rayprior.errors import UserError
from rayprior.evaluation.depth_maps import make_depth as write_depth_of_capture
from rayprior.evaluation.evaluate import Evaluation, LpipsChoice, evaluate
from rayprior.evaluation.export import export_path, film_bytes, shown, side_by_side
from rayprior.evaluation.pictures import Span, render_camera
from rayprior.evaluation.report import write_report
from rayprior.evaluation.trajectories import camera_path, resized
from rayprior.kernels.threads import set_threads
from rayprior.maths.schedules import Schedule
from rayprior.methods import METHODS, grid
from rayprior.priors import TERMS, Depth, FreeSpace, Surface
from rayprior.priors.spec import options_text, user_file
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene
from rayprior.study.compare import compare
from rayprior.study.jobs import (
    Job,
    Selection,
    check_scenes,
    choice,
    jobs,
    needs_sweep,
    open_folder,
    rows_of,
    run_jobs,
    selected_scenes,
    slug,
    study_bill,
    sweep_jobs,
)
from rayprior.study.rows import Row, read_rows
from rayprior.study.spec import NO_DEGRADATION, Study, absent_scenes, read_study
from rayprior.study.statistics import value
from rayprior.training.bill import available_memory, bill, refuse_if_too_large
from rayprior.training.budget import Budget
from rayprior.training.fit import cores, device_named, fit, go_on
from rayprior.training.loop import Progress as Standing
from rayprior.training.recipe import Expects, Recipe
from rayprior.training.recipe_json import recipe_hash, recipe_to_plain
from rayprior.training.run import Run, default_path
from rayprior.training.settle import settle
from rayprior.training.tasks import scene_for

QUICK_SECONDS = 30.0  # what the report after a training may spend on measuring; `eval` takes the time it needs
# what fits a terminal of 80 columns; metrics.json has every number
TABLE = ("psnr", "ssim", "lpips", "distance_abs_rel", "floater_share")
DEMO_SECONDS = 20.0
FILM_SECONDS, FILM_FRAMES, FILM_WIDTH = 15.0, 24, 200

console = Console(highlight=False, soft_wrap=True, markup=False)  # names of files and scenes may hold brackets


# -- demo --------------------------------------------------------------------------------------------------------------


def demo(out: Path | None) -> None:
    """The main job on an embedded scene: train, measure, render, report. The last line is the report's path."""
    scene = load_scene("synthetic:still-life")
    console.print(
        f"rayprior demo: {len(scene.split.train)} pictures of an embedded scene -> a radiance field", style="bold"
    )
    run = train(grid, scene, Budget(seconds=DEMO_SECONDS), out=out, snapshots=12, orbit=True)
    film = export_path(run.model, scene, camera_path("orbit", scene, 40), run.path / "renders" / "orbit.webp")
    console.print(f"orbit: {film}")
    print(run.path / "report.html")


# -- train -------------------------------------------------------------------------------------------------------------


def train(
    recipe: Recipe,
    scene: Scene,
    budget: Budget | None,
    *,
    out: Path | None = None,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    snapshots: int = 0,
    tensorboard: bool = False,
    orbit: bool = False,
) -> Run:
    """Print the bill, train with progress, measure, report."""
    settled = settle(recipe, scene)
    budget = budget or Budget(settled.steps)
    _announce(settled, scene, budget, device)
    steps, seconds = budget.steps, budget.seconds
    with _progress() as watch:
        run = fit(
            settled, scene, steps=steps, seconds=seconds, out=out, seed=seed, threads=threads, device=device,
            watch=watch, snapshots=snapshots, events=_events(tensorboard),
        )  # fmt: skip
    _finish(run, scene, orbit)
    return run


def resume(
    path: Path, budget: Budget | None, wanted: Recipe | None, scene: str | None, snapshots: int, tensorboard: bool
) -> None:
    """Go on with a run; what was typed beside it must agree with what it is."""
    run = Run.open(path, import_priors=True)
    if scene is not None and Path(scene).resolve() != Path(run.opening.path).resolve():
        raise UserError(
            f"{path}: this run is of {run.opening.path}, not of {scene}; leave SCENE out, or start a new run"
        )
    opened = load_scene(run.opening.path, **run.opening.options)
    if wanted is not None and recipe_hash(settle(wanted, opened)) != run.recipe_hash:
        raise UserError(
            f"{path}: the recipe that was typed is not the one of this run ({path / 'recipe.json'}); "
            "only a larger budget may change. Leave RECIPE and its options out, or start a new run"
        )
    if budget is not None:
        run = run.extend(budget)
    for change in run.changed_versions():
        console.print(f"note: {change}: the same bits as an uninterrupted run are not promised")
    console.print(f"resuming {path} from step {run.latest or 0:,} of {run.budget}")
    for name, term in run.recipe.terms.items():
        file = user_file(term)
        if file is not None:
            console.print(f"  prior '{name}' from the run's own copy, {file.path}")
    with _progress() as watch:
        run = go_on(run, opened, watch=watch, snapshots=snapshots, events=_events(tensorboard))
    _finish(run, opened)


def _announce(recipe: Recipe, scene: Scene, budget: Budget, device: str) -> None:
    """The scene's notes, the terms with their weights, the bill; refuses what memory can't hold."""
    views = f"{len(scene.split.train)} training and {len(scene.split.test)} test views, split {scene.split.name}"
    console.print(f"{recipe.name} on {scene.name}: {views}", style="bold")
    for note in scene.notes:
        console.print(f"  {note}")
    weights = ", ".join(f"{name} x {_weight(term.weight)}" for name, term in recipe.terms.items())
    console.print(f"terms: {weights}")
    for name, term in recipe.terms.items():
        if getattr(term, "poses", "") == "loaded+test":
            console.print(f"  prior '{name}': unseen rays {scene.said_of_poses('loaded+test')}")
    if any(isinstance(term, Depth | FreeSpace | Surface) for term in recipe.terms.values()):
        console.print(f"  depth: {scene.said_of_depth}")
    cost = bill(recipe, scene, budget)
    console.print(str(cost))
    refuse_if_too_large(cost, available_memory(device_named(device)))


def _weight(weight: float | Schedule) -> str:
    return f"{weight:g}" if isinstance(weight, (int, float)) else "a schedule"


@contextmanager
def _progress() -> Iterator[Callable[[Standing], None]]:
    """A bar with PSNR, rays/s and time left; where the output is no terminal, a line every tenth."""
    bar = Progress(
        TextColumn("step {task.fields[step]:>7,}"),
        BarColumn(bar_width=None),
        TextColumn("[bold]{task.fields[psnr]:5.2f} dB[/bold]  {task.fields[rate]:>9}  {task.fields[left]} left"),
        console=console,
        disable=not console.is_terminal,
        refresh_per_second=8,
    )
    status = console.status("preparing; the first run on a machine compiles its kernels, about half a minute")
    status.start() if console.is_terminal else console.print("preparing ...")
    shown_at, tenth, task = 0.0, 0, None

    def watch(now: Standing) -> None:
        nonlocal shown_at, tenth, task
        clock = time.monotonic()
        if now.share < 1 and clock - shown_at < 0.1:
            return
        shown_at = clock
        status.stop()
        numbers = {
            "step": now.step,
            "psnr": now.psnr,
            "rate": _rate(now.rays_per_second),
            "left": _time(now.seconds_left),
        }
        if task is None:
            bar.start()
            task = bar.add_task("", total=1.0, **numbers)
        bar.update(task, completed=now.share, **numbers)
        if not console.is_terminal and int(now.share * 10) > tenth:
            tenth = int(now.share * 10)
            console.print(
                f"{now.share:4.0%}  step {now.step:,}  {now.psnr:.2f} dB  {numbers['rate']}  {numbers['left']} left"
            )

    try:
        yield watch
    finally:
        status.stop()
        bar.stop()


def _events(tensorboard: bool) -> Callable[[Run], None] | None:
    if not tensorboard:
        return None
    from rayprior.training.events import Events

    return Events().update


def _rate(rays_per_second: float) -> str:
    return f"{rays_per_second / 1000:.1f}k rays/s" if rays_per_second >= 1000 else f"{rays_per_second:.0f} rays/s"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}" if seconds < float("inf") else "?"


# -- measure and report ------------------------------------------------------------------------------------------------


def _finish(run: Run, scene: Scene, orbit: bool = False) -> None:
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
        result.write(_metrics_path(run))
    width, height = scene.pictures.size[scene.split.train[0]].tolist()
    film = None
    if orbit or a_view * FILM_FRAMES * min(1.0, FILM_WIDTH / width) ** 2 < FILM_SECONDS:
        film = _film(run, scene, width, height)
    report = _write_report(run, scene, result, film)
    console.print(f"run: {run.path}\nreport: {report}")


def _score(run: Run, scene: Scene, views: Sequence[int], lpips: LpipsChoice) -> Evaluation:
    """Score views with a bar."""
    with Progress(
        TextColumn("measuring"), BarColumn(bar_width=None), TextColumn("{task.completed:.0f}/{task.total:.0f} views"),
        console=console, disable=not console.is_terminal, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=len(views))
        return evaluate(
            run.model, scene, views, lpips=lpips, on_progress=lambda done, count, view: bar.update(task, completed=done)
        )


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
        "terms": ", ".join(f"{name} x {_weight(term.weight)}" for name, term in run.recipe.terms.items()),
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
    return [(f"step {step:,}", _frame(run, scene, step)) for step in picked]


def _frame(run: Run, scene: Scene, step: int, size: tuple[int, int] | None = None) -> Any:
    model = run.build()
    run.load_snapshot(model, step)
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


def _metrics_path(run: Run) -> Path:
    return run.path / "eval" / f"{run.latest or 0:06d}" / "metrics.json"


def _print_table(result: Evaluation, run: Run) -> None:
    table = Table(
        title=f"{run.recipe.name}, step {run.latest or 0:,}, {len(result.views)} held-out views", title_style="bold"
    )
    keys = [key for key in TABLE if result.mean.get(key) is not None]
    table.add_column("view")
    for key in keys:
        table.add_column(key, justify="right")
    for row in result.views if len(result.views) <= 12 else []:
        table.add_row(str(row["name"]), *(_number(row.get(key)) for key in keys))
    table.add_section()
    table.add_row("mean", *(_number(result.mean[key]) for key in keys), style="bold")
    console.print(table)
    console.print(_expectation(run.recipe))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"


def evaluate_run(path: Path, lpips: LpipsChoice, threads: int | None, device: str, depth: Path | None = None) -> None:
    """Score all held-out views of a run; write metrics.json; print its path last."""
    run, scene = _opened(path, threads, device, {} if depth is None else {"depth": depth})
    result = _score(run, scene, scene.split.test, lpips)
    result.write(_metrics_path(run))
    _print_table(result, run)
    print(_metrics_path(run))


# -- render ------------------------------------------------------------------------------------------------------------


def render_run(
    path: Path,
    trajectory: str,
    show: str,
    format: Literal["mp4", "webp", "gif", "png"],
    frames: int | None,
    size: str | None,
    out: Path | None,
    *,
    snapshots: bool,
    threads: int | None,
    device: str,
) -> None:
    """A film along a path, or of the training; prints its path last."""
    run, scene = _opened(path, threads, device)
    wanted = None if size is None else _size(size)
    if snapshots:
        print(_training_film(run, scene, format, wanted, out))
        return
    cameras = camera_path(trajectory, scene, frames, wanted)
    target = out or run.path / "renders" / Path(trajectory).stem
    with Progress(
        TextColumn("rendering"), BarColumn(bar_width=None), TextColumn("{task.completed:.0f}/{task.total:.0f} frames"),
        console=console, disable=not console.is_terminal, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=len(cameras))
        shows: Any = tuple(part.strip() for part in show.split(",") if part.strip())
        written = export_path(
            run.model, scene, cameras, target, shows=shows, format=format,
            on_progress=lambda done, count: bar.update(task, completed=done),
        )  # fmt: skip
    print(written)


def _training_film(run: Run, scene: Scene, format: Any, size: tuple[int, int] | None, out: Path | None) -> Path:
    from rayprior.evaluation.export import write_film, write_frames

    if not run.snapshots:
        raise UserError(f"{run.path}: this run kept no weights on the way; train with --snapshots N")
    frames = [_frame(run, scene, step, size) for step in run.snapshots]
    target = out or run.path / "renders" / "training"
    if format == "png":
        write_frames(target, frames)
        return target
    target = target if target.suffix == f".{format}" else target.with_name(f"{target.name}.{format}")
    write_film(target, frames, format, fps=4)
    return target


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not cross or not width.isdigit() or not height.isdigit():
        raise UserError(f"--size {text}: expected WIDTHxHEIGHT in pixels, as in --size 640x480")
    return int(width), int(height)


def _opened(
    path: Path, threads: int | None, device: str, otherwise: Mapping[str, Any] | None = None
) -> tuple[Run, Scene]:
    """A run and its scene, opened as it was but for `otherwise`; the run's own priors are not imported."""
    set_threads(threads or cores())
    run = Run.open(path)
    run.model.to(device_named(device))
    options = {**run.opening.options, **(otherwise or {})}
    return run, scene_for(run.recipe, load_scene(run.opening.path, **options))


# -- depth -------------------------------------------------------------------------------------------------------------


def make_depth(
    scene: str,
    path: Path,
    split: str | None,
    views: str | None,
    out: Path | None,
    *,
    force: bool,
    threads: int | None,
    device: str,
) -> None:
    """Depth maps of a capture from a run, with a bar; prints their folder last."""
    set_threads(threads or cores())
    run = Run.open(path)
    run.model.to(device_named(device))
    with Progress(
        TextColumn("rendering depth"), BarColumn(bar_width=None), MofNCompleteColumn(),
        console=console, disable=not console.is_terminal, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=None)
        folder, kept = write_depth_of_capture(
            scene, run, split=split, views=views, out=out, force=force,
            on_progress=lambda done, count: bar.update(task, completed=done, total=count),
        )  # fmt: skip
    saw = run.opening.protocol["train"]
    fewest = min(kept, key=lambda name: kept[name])
    console.print(
        f"depth of {len(kept)} views, derived from {path}, trained on {len(saw)} views; kept"
        f" {sum(kept.values()) / len(kept):.0%} of their pixels (fewest: {fewest} {kept[fewest]:.0%})"
    )
    if out is not None:
        console.print(f"to use it: --depth {out}")
    print(folder)


# -- study -------------------------------------------------------------------------------------------------------------


def study(
    file: Path,
    *,
    selection: Selection,
    out: Path | None,
    data: Path | None,
    workers: int | None,
    budget: Budget | None,
    dry_run: bool,
) -> None:
    """The bill, the runs that are not there yet, the report, its path last. Exits with 1 where a run failed."""
    plan = read_study(file, data)
    if budget is not None:
        plan = replace(plan, steps=budget.steps, seconds=budget.seconds)
    selection = replace(selection, absent=_left_out(plan, selection, data))
    folder, side = out or Path("runs") / f"study-{slug(plan.name)}", _workers(workers, plan.threads)
    swept = sweep_jobs(plan, selection)
    decided = len(rows_of(folder, swept)) == len(swept)
    if decided:
        plan = _with_choice(plan, swept, folder)
    first = swept if not decided and needs_sweep(plan, selection) else ()
    wanted = jobs(plan, selection)
    there = rows_of(folder, (*first, *wanted))
    todo = _not_in(there, (*first, *wanted))
    check_scenes(todo)
    console.print(f"study {plan.name}: {plan.about}".rstrip(": "), style="bold")
    console.print(str(study_bill(todo, there, side)))
    if dry_run:
        return
    open_folder(folder, file, plan)
    if first:
        _run_study(_not_in(there, first), there, folder, side, plan.metrics[0])
        plan = _with_choice(plan, swept, folder)
        wanted = jobs(plan, selection)
        there = rows_of(folder, wanted)
    _run_study(_not_in(there, wanted), there, folder, side, plan.metrics[0])
    _report_study(folder, plan, (*swept, *jobs(plan, replace(selection, all=True, only=()))))


def _report_study(folder: Path, plan: Study, belongs: Sequence[Job]) -> None:
    """Report what there is of these jobs; exit with 1 where one of them failed."""
    from rayprior.study.report import write_study

    keys = {job.key for job in belongs}
    rows = [row for row in read_rows(folder) if row.key in keys]
    report = write_study(folder, plan, rows, say=console.print)
    failed = [row for row in rows if not row.done]
    if failed:
        console.print(f"{len(failed)} of {len(rows)} runs failed; the same command tries them again")
    print(report)
    if failed:
        raise SystemExit(1)


def _with_choice(plan: Study, swept: Sequence[Job], folder: Path) -> Study:
    """The study with its sweep decided, which is said; without a sweep, as it is."""
    if not swept or plan.sweep is None:
        return plan
    settings = choice(plan, swept, read_rows(folder))
    console.print(f"chosen for '{plan.sweep.arm}' by {plan.metrics[0]} on validation views: {', '.join(settings)}")
    return plan.with_choice(settings)


def _not_in(there: Sequence[Row], wanted: Sequence[Job]) -> list[Job]:
    keys = {row.key for row in there}
    return [job for job in wanted if job.key not in keys]


def _left_out(plan: Study, selection: Selection, data: Path | None) -> tuple[str, ...]:
    """Scenes that are not here. With --data that is an error; else they are left out, and this is said."""
    absent = absent_scenes(plan)
    wanted = {*selected_scenes(plan, selection), *(plan.sweep.scenes if plan.sweep else ())}
    missed = [name for name in absent if name in wanted]
    if missed and data is not None:
        source = plan.scenes[missed[0]].source
        raise UserError(f"{source}: no such folder or file (scene '{missed[0]}'); expected it in --data {data}")
    if missed:
        places = ", ".join(f"{name} ({plan.scenes[name].source})" for name in missed)
        console.print(f"left out, since they are not here: {places}; name the folder that has them with --data DIR")
    return absent


def _workers(asked: int | None, threads: int) -> int:
    if asked is not None and asked < 1:
        raise UserError(f"--workers {asked}: expected at least 1")
    return max(1, min(cores() // threads, asked or cores()))


def _run_study(todo: Sequence[Job], there: Sequence[Row], folder: Path, workers: int, metric: str) -> None:
    """Run with a table that fills; where the output is no terminal, a line a run."""
    rows, new = list(there), []
    total = len(there) + len(todo)

    def shown_now() -> Table:
        table = Table(title=f"{len(rows)} of {total} runs, {_left(new, len(todo), workers)} left; {metric}")
        arms, scenes = (list(dict.fromkeys(getattr(job, part) for job in todo)) for part in ("arm", "scene"))
        table.add_column("arm")
        for scene in scenes:
            table.add_column(scene, justify="right")
        for arm in arms:
            table.add_row(arm, *(_cell(rows, todo, arm, scene, metric) for scene in scenes))
        return table

    with Live(console=console, refresh_per_second=1) if console.is_terminal else nullcontext() as live:

        def on_row(row: Row) -> None:
            rows.append(row)
            new.append(row)
            if live is not None:
                live.update(shown_now())
                return
            place = row.scene if row.degradation == NO_DEGRADATION else f"{row.scene} {row.degradation}"
            said = f"{metric} {_number(value(row, metric))}" if row.done else f"failed: {row.error}"
            left = _left(new, len(todo), workers)
            console.print(f"{len(rows)}/{total}  {place}, {row.arm}, seed {row.seed}: {said} ({left} left)")

        if live is not None:
            live.update(shown_now())
        run_jobs(todo, folder, workers, on_row)


def _left(new: Sequence[Row], count: int, workers: int) -> str:
    """What the runs to come will take, by those that this process has seen."""
    return _time(sum(row.wall for row in new) / len(new) * (count - len(new)) / workers) if new else "?"


def _cell(rows: Sequence[Row], todo: Sequence[Job], arm: str, scene: str, metric: str) -> str:
    """'3/5  21.34': runs that have ended, and the mean of the headline metric so far."""
    ended = [row for row in rows if (row.arm, row.scene) == (arm, scene)]
    waiting = {job.key for job in todo if (job.arm, job.scene) == (arm, scene)} - {row.key for row in ended}
    values = [number for row in ended if (number := value(row, metric)) is not None]
    failed = sum(not row.done for row in ended)
    mean = _number(sum(values) / len(values)) if values else ""
    return f"{len(ended)}/{len(ended) + len(waiting)}  {f'{failed} failed  ' if failed else ''}{mean}"


# -- compare -----------------------------------------------------------------------------------------------------------


def compare_runs(paths: Sequence[Path], out: Path | None, lpips: LpipsChoice, threads: int | None) -> None:
    """Compare finished runs with a bar; print the table, and the report's path last."""
    set_threads(threads or cores())
    with Progress(
        TextColumn("measuring"), BarColumn(bar_width=None), TextColumn("{task.completed:.0f}/{task.total:.0f} runs"),
        console=console, disable=not console.is_terminal, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=len(paths))
        report = compare(
            paths, out or default_path("compare", Path(paths[0]).name if paths else ""), lpips=lpips, say=console.print,
            on_progress=lambda done, count: bar.update(task, completed=done),
        )  # fmt: skip
    print(report)


# -- lists -------------------------------------------------------------------------------------------------------------


def show_methods() -> None:
    """A table of the recipes."""
    table = Table("recipe", "what it is", "terms", "expects")
    for name, recipe in METHODS.items():
        expects = recipe.expects
        number = (
            f"{expects.metric} {expects.value:g} on {expects.protocol} [{expects.mark}]"
            if isinstance(expects, Expects)
            else "-"
        )
        table.add_row(name, recipe.about, ", ".join(recipe.terms), number)
    console.print(table)


def show_priors() -> None:
    """A table of the built-in priors and their options."""
    table = Table("prior", "what it judges", "options")
    for name, term in TERMS.items():
        table.add_row(name, (term.__doc__ or "").strip().split("\n")[0], options_text(term))
    console.print(table)
    console.print("your own: --prior FILE.py:CLASS:option=value (examples/own_prior.py)")

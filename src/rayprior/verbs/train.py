"""`train`, `resume` and `demo`: announce, show progress, measure, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn

from rayprior.errors import UserError
from rayprior.evaluation.export import export_path
from rayprior.evaluation.trajectories import camera_path
from rayprior.methods import grid
from rayprior.priors import Depth, FreeSpace, Surface
from rayprior.priors.spec import user_file
from rayprior.rendering.model import Model
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene
from rayprior.training.bill import available_memory, bill, refuse_if_too_large
from rayprior.training.budget import Budget
from rayprior.training.fit import device_named, fit, go_on
from rayprior.training.loop import Progress as Standing
from rayprior.training.recipe import Recipe
from rayprior.training.recipe_json import recipe_hash
from rayprior.training.run import Run
from rayprior.training.settle import settle
from rayprior.training.tasks import scene_for
from rayprior.verbs.measure import finish
from rayprior.verbs.terminal import console, duration, rate, weight_text

DEMO_SECONDS = 20.0
Follow = Callable[[Scene], Callable[[Model, Standing], None]]  # given the scene: what each step's model is shown to


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
    follow: Follow | None = None,
) -> Run:
    """Print the bill, train with progress, measure, report."""
    settled = settle(recipe, scene)
    budget = budget or Budget(settled.steps)
    _announce(settled, scene, budget, device)
    steps, seconds = budget.steps, budget.seconds
    on_step = None if follow is None else follow(scene_for(settled, scene))
    with _progress() as watch:
        run = fit(
            settled, scene, steps=steps, seconds=seconds, out=out, seed=seed, threads=threads, device=device,
            watch=watch, snapshots=snapshots, events=_events(tensorboard), on_step=on_step,
        )  # fmt: skip
    finish(run, scene, orbit)
    return run


def resume(
    path: Path,
    budget: Budget | None,
    wanted: Recipe | None,
    scene: str | None,
    snapshots: int,
    tensorboard: bool,
    follow: Follow | None = None,
) -> None:
    """Go on with a run; what was typed beside it must agree with what it is."""
    run = Run.open(path, import_priors=True)
    if scene is not None and Path(scene).resolve() != Path(run.opening.path).resolve():
        raise UserError(
            f"{path}: this run is of {run.opening.path}, not of {scene}; leave SCENE out, or start a new run"
        )
    opened = run.reopen()
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
    on_step = None if follow is None else follow(scene_for(run.recipe, opened))
    with _progress() as watch:
        run = go_on(run, opened, watch=watch, snapshots=snapshots, events=_events(tensorboard), on_step=on_step)
    finish(run, opened)


def _announce(recipe: Recipe, scene: Scene, budget: Budget, device: str) -> None:
    """The scene's notes, the terms with their weights, the bill; refuses what memory can't hold."""
    views = f"{len(scene.split.train)} training and {len(scene.split.test)} test views, split {scene.split.name}"
    console.print(f"{recipe.name} on {scene.name}: {views}", style="bold")
    for note in scene.notes:
        console.print(f"  {note}")
    weights = ", ".join(f"{name} x {weight_text(term.weight)}" for name, term in recipe.terms.items())
    console.print(f"terms: {weights}")
    for name, term in recipe.terms.items():
        if getattr(term, "poses", "") == "loaded+test":
            console.print(f"  prior '{name}': unseen rays {scene.said_of_poses('loaded+test')}")
    if any(isinstance(term, Depth | FreeSpace | Surface) for term in recipe.terms.values()):
        console.print(f"  depth: {scene.said_of_depth}")
    cost = bill(recipe, scene, budget)
    console.print(str(cost))
    refuse_if_too_large(cost, available_memory(device_named(device)))


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
            "rate": rate(now.rays_per_second),
            "left": duration(now.seconds_left),
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

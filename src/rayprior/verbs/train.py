"""`train`, `resume` and `demo`: announce, show progress, measure, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayprior.errors import UserError
from rayprior.evaluation.export import export_path
from rayprior.evaluation.trajectories import camera_path
from rayprior.methods import grid
from rayprior.priors import Depth, FreeSpace, Surface
from rayprior.priors.spec import parse_priors, user_file
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family, open_family
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene
from rayprior.training import processes
from rayprior.training.bill import available_memory, bill, refuse_if_too_large
from rayprior.training.budget import Budget
from rayprior.training.fit import cores, device_named, fit, go_on
from rayprior.training.loop import Progress as Standing
from rayprior.training.one_scene import check_placed, of_one_scene, start_run
from rayprior.training.recipe import Recipe
from rayprior.training.recipe_json import recipe_hash, set_value
from rayprior.training.run import Conditions, Run, default_path
from rayprior.training.settle import settle
from rayprior.training.tasks import scene_for
from rayprior.verbs.measure import finish
from rayprior.verbs.measure_family import finish_family
from rayprior.verbs.terminal import console, rate, stepped, weight_text

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


def opened_for(recipe: Recipe, scene: str, options: Mapping[str, Any]) -> Scene | Family:
    """What a recipe trains on: a scene, opened with these options of `load_scene`, or a family, which has none."""
    if recipe.episodes is None:
        return load_scene(scene, **options)
    family = open_family(scene)
    if options:
        typed = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise UserError(
            f"{scene}: a family of scenes, with {typed}: these are of one scene's views. Leave them out; which are"
            " held out stands in the family (rayprior family make --test N)"
        )
    return family


def train(
    recipe: Recipe,
    scene: Scene | Family,
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
    console.quiet = not processes.first()
    settled = settle(recipe, scene)
    budget = budget or Budget(settled.steps)
    _announce(settled, scene, budget, device)
    steps, seconds = budget.steps, budget.seconds
    on_step = _followed(follow, settled, scene)
    with _progress() as watch:
        run = fit(
            settled, scene, steps=steps, seconds=seconds, out=out, seed=seed, threads=threads, device=device,
            watch=watch, snapshots=snapshots, events=_events(tensorboard), on_step=on_step,
        )  # fmt: skip
    _finish(run, scene, orbit)
    return run


def start_from(
    path: Path,
    scene: str | None,
    options: Mapping[str, Any],
    priors: Sequence[str],
    settings: Sequence[str],
    budget: Budget | None,
    *,
    out: Path | None = None,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    snapshots: int = 0,
    tensorboard: bool = False,
    follow: Follow | None = None,
) -> Run:
    """Fit one scene from where another run ended: an inferred scene, or the middle of a family's prior. Its recipe and
    weights are taken, and its scene too where none is named."""
    source = Run.open(path)
    recipe = of_one_scene(source)
    recipe = replace(recipe, terms={**recipe.terms, **parse_priors(priors)})
    for setting in settings:
        recipe = set_value(recipe, setting)
    if scene is not None:
        opened = load_scene(scene, **options)
        if source.of_family:
            check_placed(source, opened)
    elif source.of_family:
        raise UserError(f"--start-from {path}: a run of a family, which of its scenes is to be fitted? Name one")
    else:
        opened = source.reopen(**options)
    settled = settle(recipe, opened)
    budget = budget or Budget(settled.steps)
    _announce(settled, opened, budget, device)
    console.print(f"begins at {path}, step {source.latest or 0:,}")
    conditions = Conditions(budget, seed, threads or cores(), str(device_named(device)))
    run = start_run(out or default_path(opened.name, settled.name), settled, opened, source.model, conditions, sys.argv)
    on_step = _followed(follow, settled, opened)
    with _progress() as watch:
        go_on(run, opened, watch=watch, snapshots=snapshots, events=_events(tensorboard), on_step=on_step)
    finish(run, opened)
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
    console.quiet = not processes.first()
    run = Run.open(path, import_priors=True)
    if scene is not None and Path(scene).resolve() != Path(run.opening.path).resolve():
        raise UserError(
            f"{path}: this run is of {run.opening.path}, not of {scene}; leave SCENE out, or start a new run"
        )
    opened = run.reopen_family() if run.of_family else run.reopen()
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
    on_step = _followed(follow, run.recipe, opened)
    with _progress() as watch:
        run = go_on(run, opened, watch=watch, snapshots=snapshots, events=_events(tensorboard), on_step=on_step)
    _finish(run, opened)


def _finish(run: Run, scene: Scene | Family, orbit: bool = False) -> None:
    """Measure and report what was trained; of several processes the first does."""
    if not processes.first():
        return
    if isinstance(scene, Family):
        finish_family(run, scene)
    else:
        finish(run, scene, orbit)


def _followed(follow: Follow | None, recipe: Recipe, scene: Scene | Family) -> Callable[[Model, Standing], None] | None:
    if follow is None:
        return None
    if isinstance(scene, Family):
        raise UserError(
            f"--watch: {scene.path} is a family, and a page shows one scene; leave it out, and look at a scene that"
            " rayprior infer finds"
        )
    return follow(scene_for(recipe, scene))


def _announce(recipe: Recipe, scene: Scene | Family, budget: Budget, device: str) -> None:
    """The scene's notes, the terms with their weights, the bill; refuses what memory can't hold."""
    many = isinstance(scene, Family)
    held = f"{len(scene.split.train)} training and {len(scene.split.test)} test {'scenes' if many else 'views'}"
    of_each = f", {scene.views} views of each at {scene.size[0]}x{scene.size[1]}" if many else ""
    console.print(f"{recipe.name} on {scene.name}: {held}, split {scene.split.name}{of_each}", style="bold")
    for note in scene.notes:
        console.print(f"  {note}")
    weights = ", ".join(f"{name} x {weight_text(term.weight)}" for name, term in recipe.terms.items())
    console.print(f"terms: {weights}")
    for name, term in recipe.terms.items():
        if getattr(term, "poses", "") == "loaded+test":
            said = "of all views of each scene" if many else scene.said_of_poses("loaded+test")
            console.print(f"  prior '{name}': unseen rays {said}")
    if not many and any(isinstance(term, Depth | FreeSpace | Surface) for term in recipe.terms.values()):
        console.print(f"  depth: {scene.said_of_depth}")
    cost = bill(recipe, scene, budget)
    console.print(str(cost))
    refuse_if_too_large(cost, available_memory(device_named(device)))


@contextmanager
def _progress() -> Iterator[Callable[[Standing], None]]:
    """A bar with PSNR, rays/s and time left."""
    status = console.status("preparing; the first run on a machine compiles its kernels, about half a minute")
    status.start() if console.is_terminal else console.print("preparing ...")
    try:
        with stepped(lambda now: f"{now.psnr:.2f} dB  {rate(now.rays_per_second)}", status.stop) as watch:
            yield watch
    finally:
        status.stop()


def _events(tensorboard: bool) -> Callable[[Run], None] | None:
    if not tensorboard:
        return None
    from rayprior.training.events import Events

    return Events().update

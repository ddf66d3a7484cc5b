"""Fit: a recipe and a scene -> a run. The public way to train; the command line is a thin skin over it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.kernels.threads import keep_freed_memory, set_threads
from rayprior.networks.gqn import Gqn
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family
from rayprior.scenes.scene import Scene
from rayprior.training import processes
from rayprior.training.bill import bill
from rayprior.training.budget import Budget
from rayprior.training.family import FitFamily
from rayprior.training.loop import Progress, train
from rayprior.training.pictures import FitPictures
from rayprior.training.recipe import Recipe
from rayprior.training.run import Conditions, Opening, Run, default_path
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene


def fit(
    recipe: Recipe,
    scene: Scene | Family,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    watch: Callable[[Progress], None] = lambda progress: None,
    snapshots: int = 0,
    events: Callable[[Run], None] | None = None,
    on_step: Callable[[Model, Progress], None] | None = None,
) -> Run:
    """Train `recipe` on `scene` and return the run; `run.model.render(rays)` is the result.

    scene           or a family of scenes, for recipes with episodes; `run.model.infer(views)` is then the result
    steps, seconds  the budget, at most one of them; seconds count the training loop's own time. None: recipe.steps
    out             the run's folder; None: runs/SCENE-RECIPE-DATE-TIME
    threads         of kernels and torch; None: all cores
    device          'cpu', 'cuda', 'cuda:1', ...; 'auto': cuda where there is one
    watch           called after every step with the Progress
    snapshots       how many times on the way the weights are kept, for a video of the training
    events          called with the run fifty times on the way: whoever mirrors the log elsewhere
    on_step         called after every step with the model as it stands, which it may render and must not change

    Raises UserError for whatever the user can mend; KeyboardInterrupt after an interrupt, with the state saved.
    """
    settled = settle(recipe, scene)
    budget = Budget(steps, seconds) if steps is not None or seconds is not None else Budget(settled.steps)
    bill(settled, scene, budget)  # asks every term once: what cannot be asked is refused before a folder is made
    each = threads or max(1, cores() // processes.beside())
    conditions = Conditions(budget, seed, each, str(device_named(device)))
    _refuse_processes(settled)
    processes.meet(device_named(device))
    path = Path(out) if out is not None else default_path(scene.name, settled.name)
    run = Run(path, settled, Opening.of(scene), conditions)
    if processes.first():
        run = Run.create(path, settled, run.opening, conditions, sys.argv)
    return go_on(run, scene, watch=watch, snapshots=snapshots, events=events, on_step=on_step)


def go_on(
    run: Run,
    scene: Scene | Family,
    *,
    watch: Callable[[Progress], None] = lambda progress: None,
    snapshots: int = 0,
    events: Callable[[Run], None] | None = None,
    on_step: Callable[[Model, Progress], None] | None = None,
) -> Run:
    """Train a run from where it stands (its start, or its last checkpoint) to the end of its budget.

    Started by `torchrun` (which a recipe of many scenes alone can be) each process has its share of the scenes of a
    step, and the first alone writes, calls `watch` and `on_step`, and is told of events.
    """
    _refuse_processes(run.recipe)
    keep_freed_memory()
    set_threads(run.conditions.threads, kernels_only=isinstance(run.recipe.field, Grid))
    task = task_of(run.recipe, scene, run.conditions.seed, processes.meet(device_named(run.conditions.device)))
    if not processes.first():
        train(task, run, run.conditions.budget, run.budget)
        processes.largest(0.0)  # the first has written its last checkpoint
        return run
    marks = [(((i + 1) / snapshots) ** 2, lambda step: run.save_snapshot(step, task.model)) for i in range(snapshots)]
    if events is not None:  # snapshots are early-heavy, since most changes early; these are even
        mirror = events
        marks += [((i + 1) / 50, lambda step: mirror(run)) for i in range(50)]

    def stepped(now: Progress) -> None:
        watch(now)
        if on_step is not None:
            assert isinstance(task.model, Model)
            on_step(task.model, now)

    train(task, run, run.conditions.budget, run.budget, stepped, marks)
    processes.largest(0.0)
    return run


def _refuse_processes(recipe: Recipe) -> None:
    """UserError where these processes cannot train this recipe."""
    episodes, count = recipe.episodes, processes.started()
    if count > 1 and (episodes is None or isinstance(recipe.field, Gqn)):
        raise UserError(f"recipe '{recipe.name}' trains in one process, and {count} were started; leave torchrun out")
    if episodes is None:
        return
    if count * episodes.accumulate > episodes.scenes:
        raise UserError(
            f"{episodes.scenes} scenes a step are too few for {count} processes with {episodes.accumulate} parts each"
            f" (episodes.accumulate); set episodes.scenes={count * episodes.accumulate} or more, or start fewer"
        )


def task_of(
    recipe: Recipe, scene: Scene | Family, seed: int, device: torch.device
) -> FitScene | FitFamily | FitPictures:
    """What a step of this recipe means."""
    if isinstance(scene, Family) and isinstance(recipe.field, Gqn):
        return FitPictures(recipe, scene, seed, device)
    if isinstance(scene, Family):
        return FitFamily(recipe, scene, seed, device)
    return FitScene(recipe, scene, seed, device)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_named(name: str) -> torch.device:
    """'auto', or torch's name of a device that is here; UserError otherwise."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such device; choices: auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: only cpu and cuda are supported; choices: auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use; "
            "use --device cpu, or install a torch built for your CUDA"
        )
    return device

"""Fit: a recipe and a scene -> a run. The public way to train; the command line is a thin skin over it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.kernels.threads import set_threads
from rayprior.rendering.model import Model
from rayprior.scenes.scene import Scene
from rayprior.training.bill import bill
from rayprior.training.budget import Budget
from rayprior.training.loop import Progress, train
from rayprior.training.recipe import Recipe
from rayprior.training.run import Conditions, Opening, Run, default_path
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene


def fit(
    recipe: Recipe,
    scene: Scene,
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
    conditions = Conditions(budget, seed, threads or cores(), str(device_named(device)))
    path = Path(out) if out is not None else default_path(scene.name, settled.name)
    opening = Opening(str(scene.path), scene.opened, scene.protocol)
    run = Run.create(path, settled, opening, conditions, sys.argv)
    return go_on(run, scene, watch=watch, snapshots=snapshots, events=events, on_step=on_step)


def go_on(
    run: Run,
    scene: Scene,
    *,
    watch: Callable[[Progress], None] = lambda progress: None,
    snapshots: int = 0,
    events: Callable[[Run], None] | None = None,
    on_step: Callable[[Model, Progress], None] | None = None,
) -> Run:
    """Train a run from where it stands (its start, or its last checkpoint) to the end of its budget."""
    set_threads(run.conditions.threads, kernels_only=isinstance(run.recipe.field, Grid))
    task = FitScene(run.recipe, scene, run.conditions.seed, device_named(run.conditions.device))
    marks = [(((i + 1) / snapshots) ** 2, lambda step: run.save_snapshot(step, task.model)) for i in range(snapshots)]
    if events is not None:  # snapshots are early-heavy, since most changes early; these are even
        mirror = events
        marks += [((i + 1) / 50, lambda step: mirror(run)) for i in range(50)]

    def stepped(now: Progress) -> None:
        watch(now)
        if on_step is not None:
            on_step(task.model, now)

    train(task, run, run.conditions.budget, run.budget, stepped, marks)
    return run


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

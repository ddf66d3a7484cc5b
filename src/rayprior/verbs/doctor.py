"""`doctor`: a verdict on a capture before it is trained on, with findings, remedies, and what a training would take."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from rayprior.capture.doctor import Finding, examine
from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.files import write_json
from rayprior.kernels.threads import set_threads
from rayprior.methods import grid
from rayprior.scenes.scene import Scene
from rayprior.training.bill import available_memory, bill, refuse_if_too_large
from rayprior.training.budget import Budget
from rayprior.training.fit import cores, device_named
from rayprior.training.recipe import Recipe
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene
from rayprior.verbs.terminal import console

STYLES = {"note": "", "doubtful": "yellow", "unusable": "red"}
WIDTH = 100
PROBE_STEPS = 4  # of training, to tell how long all will take


def doctor(scene: str, options: Mapping[str, Any], out: Path | None) -> int:
    """Examine a capture, print what was found and what a training of recipe `grid` takes; the exit status."""
    columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        checkup = examine(scene, options, show)
    report = checkup.report
    style = {"usable": "bold green", "doubtful": "bold yellow", "unusable": "bold red"}[report.verdict]
    console.print(f"{report.scene}: {report.verdict}", style=style)
    for finding in sorted(report.findings, key=lambda f: list(STYLES).index(f.grade), reverse=True):
        _show(finding)
    for name, fact in report.facts.items():
        console.print(f"  {name}: {fact}", style="dim")
    for reason in report.skipped:
        console.print(f"  not checked: {reason}", style="dim")
    cost = None if checkup.scene is None else _cost(checkup.scene, report.verdict != "unusable")
    for line in (cost or {}).get("says", ()):
        console.print(f"  {line}", style="dim")
    if out is not None:
        write_json(out, report.to_plain() | {"training": cost})
        console.print(str(out))
    return report.exit_status


def _show(finding: Finding) -> None:
    console.print(f"{finding.grade}: {finding.check}", style=STYLES[finding.grade])
    for text in filter(None, (finding.says, finding.remedy and f"-> {finding.remedy}")):
        console.print(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False))


def _cost(scene: Scene, usable: bool) -> dict[str, Any] | None:
    """Memory of the recipe `grid` as it stands, whether it is there, and the time on this machine: a few steps tell."""
    try:
        recipe = settle(grid, scene)
        budget = Budget(recipe.steps)
        cost = bill(recipe, scene, budget)
        pace = _rays_per_second(recipe, scene) if usable else None
        cost = bill(recipe, scene, budget, pace)
    except UserError as error:
        return {"says": [f"recipe grid: {error}"]}
    lines = [f"recipe grid: {line}" for line in str(cost).splitlines() if line.startswith(("memory", "time"))]
    free = available_memory()
    try:
        refuse_if_too_large(cost, free)
    except UserError as error:
        lines.append(str(error))
    numbers = {"memory_bytes": cost.peak, "free_bytes": free, "steps": recipe.steps, "seconds": cost.seconds}
    return {"recipe": "grid", **numbers, "says": lines}


def _rays_per_second(recipe: Recipe, scene: Scene) -> float:
    """Measured on a few steps after the first, which compiles."""
    set_threads(cores(), kernels_only=isinstance(recipe.field, Grid))
    task = FitScene(recipe, scene, seed=0, device=device_named("cpu"))
    begun = 0.0
    for step in range(PROBE_STEPS + 1):
        if step == 1:
            begun = time.perf_counter()
        losses, _ = task.losses(step, 0.0)
        torch.stack(list(losses.values())).sum().backward()
        task.step()
    return PROBE_STEPS * sum(task.rays.values()) / (time.perf_counter() - begun)

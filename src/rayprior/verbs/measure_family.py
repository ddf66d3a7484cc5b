"""`eval` of a family's run, and what `train` does when it has trained one: score, print the table, write the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table

from rayprior.errors import UserError
from rayprior.evaluation.evaluate import LpipsChoice
from rayprior.evaluation.export import Frame
from rayprior.evaluation.family import (
    COUNTS,
    TARGETS,
    FamilyEvaluation,
    evaluate_family,
    fixed_order,
)
from rayprior.evaluation.family_report import NUMBERS, number_at, write_family_report
from rayprior.evaluation.pictures import to_bytes
from rayprior.evaluation.predicted import Rendered
from rayprior.maths.schedules import Schedule
from rayprior.networks.gqn import Gqn, GqnModel
from rayprior.priors import SceneLikelihood
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family
from rayprior.training.recipe import Recipe
from rayprior.training.recipe_json import recipe_to_plain
from rayprior.training.run import Run
from rayprior.verbs.terminal import console, counted, weight_text

QUICK_COUNTS = (1, 3, 5)
QUICK_SECONDS = 30.0  # what the report after a training may spend on measuring
SHOWN_SCENES, SHOWN_SAMPLES = 4, 16
TABLE = ("psnr", "nearest_view_psnr", "prior_mean_psnr", "mean_picture_psnr", "distance_abs_rel", "kl", "active_units")


def evaluate_family_run(run: Run, lpips: LpipsChoice, depth: Path | None) -> None:
    """Score all held-out scenes of a family's run; write metrics.json; print its path last."""
    for option, given in (("lpips", lpips in ("alex", "vgg")), ("depth", depth is not None)):
        if given:
            raise UserError(
                f"{run.path}: eval --{option} is for runs of one scene, and this is of a family; leave it out"
            )
    family = run.reopen_family()
    scenes = _held_out(family)
    if not scenes:
        raise UserError(f"{family.path}: no scene is held out; make the family with --test N")
    counts = counts_of(family, COUNTS)
    with counted("measuring", "scenes") as bar:
        result = evaluate_family(
            network(run), family, scenes, counts, samples=1, std=likelihood_std(run.recipe), on_progress=bar
        )
    result.write(run.metrics_path)
    _print_table(result, run)
    print(run.metrics_path)


def finish_family(run: Run, family: Family) -> None:
    """After a training: score what half a minute allows, print the table, write the report."""
    scenes, counts, std = _held_out(family), counts_of(family, QUICK_COUNTS), likelihood_std(run.recipe)
    result, kept = None, ()
    if scenes:
        model = network(run)
        begun = time.perf_counter()
        evaluate_family(model, family, scenes[:1], counts, std=std)
        fit_in = max(1, min(len(scenes), int(QUICK_SECONDS / max(time.perf_counter() - begun, 1e-9))))
        picked = [scenes[i * len(scenes) // fit_in] for i in range(fit_in)]
        with counted("measuring", "scenes") as bar:
            result = evaluate_family(model, family, picked, counts, std=std, on_progress=bar)
        _print_table(result, run)
        said = "all of them, and ELBOs" if fit_in == len(scenes) else f"{fit_in} of {len(scenes)} scenes scored; all"
        console.print(f"{said}: rayprior eval {run.path}")
        shown = scenes[:SHOWN_SCENES]
        ends = sorted({counts[0], counts[-1]})
        kept = evaluate_family(
            model, family, shown, ends, samples=SHOWN_SAMPLES, std=std, shown=shown, sanity=False
        ).kept
    log = run.read_log()
    report = write_family_report(
        run.path / "report.html",
        title=f"{run.recipe.name} on {family.name}",
        about=run.recipe.about,
        command=(run.path / "command.txt").read_text().strip(),
        machine=run.machine,
        facts={
            "family": f"{family.name} ({family.kind}), {len(family)} scenes of {family.views} views",
            "split": f"{family.split.name} ({len(family.split.train)} train, {len(family.split.test)} test)",
            "budget": str(run.budget),
            "steps": f"{run.latest or 0:,}",
            "seconds of training": f"{log[-1]['seconds']:.1f}" if log else "",
            "seed": str(run.conditions.seed),
            "threads": str(run.conditions.threads),
            "terms": ", ".join(f"{name} x {weight_text(term.weight)}" for name, term in run.recipe.terms.items()),
        },
        evaluation=result,
        shown=kept,
        expects=run.recipe.expects if isinstance(run.recipe.expects, str) else "",
        log=log,
        recipe=recipe_to_plain(run.recipe),
        snapshots=_snapshot_pictures(run, family),
    )
    console.print(f"run: {run.path}\nreport: {report}")


def network(run: Run) -> Model | GqnModel:
    """What a family's run trained."""
    return run.painter if isinstance(run.recipe.field, Gqn) else run.model


def likelihood_std(recipe: Recipe) -> float:
    """The standard deviation of a colour under a recipe's likelihood, at the end of its training."""
    stds = [term.std for term in recipe.terms.values() if isinstance(term, SceneLikelihood)]
    if isinstance(recipe.field, Gqn):
        std = recipe.field.std
        return std.points[-1][1] if isinstance(std, Schedule) else std
    return stds[0] if stds else 0.1 if recipe.inference is None else recipe.inference.std


def counts_of(family: Family, counts: Sequence[int]) -> list[int]:
    """Of these numbers of shown views the ones that leave the targets; the most that there can be, if none does."""
    most = family.views - TARGETS
    return [n for n in counts if n <= most] or [most]


def _held_out(family: Family) -> tuple[int, ...]:
    return family.split.test or family.split.val


def _snapshot_pictures(run: Run, family: Family) -> list[tuple[str, Frame]]:
    """A view of the first held-out scene through the training, as one other view tells it."""
    steps, scenes = run.snapshots, _held_out(family)
    if not steps or not scenes or isinstance(run.recipe.field, Gqn):
        return []
    order, scene = fixed_order(family, scenes[:1]), torch.tensor(scenes[:1])
    shown, asked = family.shown(scene, order[:, :1]), family.shown(scene, order[:, -1:])
    picked = sorted({steps[i * (len(steps) - 1) // max(1, min(8, len(steps)) - 1)] for i in range(min(8, len(steps)))})
    return [
        (f"step {step:,}", to_bytes(Rendered(run.snapshot(step)).predict(shown, asked).rgb[0, 0])) for step in picked
    ]


def _print_table(result: FamilyEvaluation, run: Run) -> None:
    title = f"{run.recipe.name}, step {run.latest or 0:,}, {len(result.scenes)} held-out scenes"
    table = Table(title=title, title_style="bold")
    table.add_column("views shown")
    for n in result.counts:
        table.add_column(str(n), justify="right")
    for key in TABLE:
        values = [number_at(result, key, n) for n in result.counts]
        if any(value is not None for value in values):
            label, form = NUMBERS[key]
            table.add_row(label, *("" if v is None else form.format(v) for v in values))
    console.print(table)

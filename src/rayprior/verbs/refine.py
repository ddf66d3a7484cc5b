"""`refine`: train a refiner of a run's renderings; announce, show progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rayprior.errors import UserError, did_you_mean
from rayprior.networks.features import NAMES
from rayprior.networks.refiner import Scale
from rayprior.training.budget import Budget
from rayprior.training.refining import REFINERS, Refining, refine, with_value
from rayprior.training.run import Run
from rayprior.verbs.terminal import console, counted, stepped


def refine_run(
    path: Path,
    out: Path | None,
    recipe: str,
    settings: Sequence[str],
    budget: Budget | None,
    *,
    scale: Scale | None,
    shuffled: bool,
    seed: int | None,
    threads: int | None,
    device: str,
) -> None:
    """Train or go on; prints the refiner's folder last."""
    run = Run.open(path)
    chosen, typed = _chosen(recipe, settings, scale, shuffled)
    with (
        counted("rendering the training views", "views") as on_render,
        stepped(lambda now: f"{now.psnr:.2f} dB") as watch,
    ):
        of = refine(
            run, chosen, typed=typed, budget=budget, out=out, seed=seed, threads=threads, device=device, watch=watch,
            on_render=on_render, on_begin=lambda begun, pairs: _announce(run, begun.refining, pairs),
        )  # fmt: skip
    console.print(f"measure it: rayprior eval {path} --refiner {of.path}")
    print(of.path)


def _chosen(
    recipe: str, settings: Sequence[str], scale: Scale | None, shuffled: bool
) -> tuple[Refining, tuple[str, ...]]:
    """What was typed, and the keys that were."""
    if recipe not in REFINERS:
        raise UserError(f"no refiner named '{recipe}'{did_you_mean(recipe, REFINERS)}")
    chosen = REFINERS[recipe]
    for setting in settings:
        chosen = with_value(chosen, setting)
    if scale is not None:
        chosen = replace(chosen, scale=scale)
    if shuffled:
        chosen = replace(chosen, shuffled=True)
    return chosen, tuple(setting.partition("=")[0].strip() for setting in settings)


def _announce(run: Run, how: Refining, pairs: int) -> None:
    """What is trained on what, before the first step."""
    small = f", the field at 1/{how.scale} of the size" if how.scale > 1 else ""
    console.print(f"refining {run.path}, step {run.latest or 0:,}: {pairs} training views{small}", style="bold")
    if pairs < how.batch:
        console.print(f"  {pairs} pictures are fewer than a batch of {how.batch}: some are drawn twice in a step")
    if how.shuffled:
        console.print("  a control: every rendering is shown the photograph of another view")
    terms = {"adversarial": how.adversarial, "l1": how.l1, "perceptual": how.perceptual}
    weights = ", ".join(f"{name} x {weight:g}" for name, weight in terms.items() if weight)
    tile = f"; critic: {how.critic}, tiles of {how.tile} px" if how.adversarial else ""
    console.print(f"  {how.batch} crops of {how.crop} px a step; {weights}{tile}")
    if how.perceptual and how.features != "auto":
        console.print(f"  perceptual: {NAMES[how.features]}")

"""What the jobs of a family study do: train and measure an arm, or fit one scene; and what all of them will take."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

from rayprior.errors import UserError
from rayprior.evaluation.evaluate import strict
from rayprior.evaluation.family import FamilyEvaluation, evaluate_family
from rayprior.evaluation.pictures import to_bytes
from rayprior.evaluation.predicted import Rendered
from rayprior.files import write_atomically
from rayprior.kernels.threads import set_threads
from rayprior.networks.gqn import Gqn, GqnModel
from rayprior.priors import LatentKL, SceneLikelihood
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family, open_family
from rayprior.scenes.synthetic.again import seen_again
from rayprior.scenes.synthetic.making import make_family
from rayprior.study.ascent import gaps
from rayprior.study.family import FAMILY, ArmJob, FamilyStudy, FitJob, Fits
from rayprior.study.family_fits import Fitted, fit_one, recipe_of_one, scene_of
from rayprior.study.jobs import DEVICE, PREVIEWS, RUNS, ended, of_run, row_begun, seconds_of_steps, trained_run
from rayprior.study.rows import Row
from rayprior.training.bill import rounded_duration
from rayprior.training.budget import Budget
from rayprior.training.fit import device_named, task_of
from rayprior.training.recipe import Recipe
from rayprior.training.run import Run
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene

SHOWN_SCENES = 3  # of which pictures are kept
PRIOR_SCENES = 8  # drawn from the prior, to be looked at
CONDITIONS = ("mse", "psnr", "distance_rmse", "distance_abs_rel", "kl")
OF_DRAWS = ("nats", "bits", "deviation", "auc_unseen", "unseen_share", "coverage_50", "coverage_80", "coverage_95")
SANITY = ("nearest_view_mse@{n}", "prior_mean_mse", "mean_picture_mse")
PROBE_SCENES = 12  # of a family that is made to measure speed


def family_folder(study: FamilyStudy, folder: Path) -> Path:
    """Where the scenes lie: in the study's folder, unless the study names a family."""
    return Path(study.family.path) if study.family.path else folder / FAMILY


def ready_family(
    study: FamilyStudy, folder: Path, workers: int, on_progress: Callable[[int, int], None] = lambda done, of: None
) -> Family:
    """The study's family, made where it is not there."""
    where = family_folder(study, folder)
    if study.family.path is None:
        make_family(study.family.plan(), where, workers, on_progress)
    return open_family(where)


def run_family_job(job: ArmJob | FitJob, folder: Path) -> Row:
    """Train and measure, or fit; what goes wrong is said in the row. Of a worker, so it is a module's function."""
    row = row_begun(job, job.study.name)
    if isinstance(job, ArmJob):
        return ended(row, lambda row: _measured(job, folder, replace(row, run=f"{RUNS}/{job.run}")))
    return ended(row, lambda row: _fitted(job, folder, row))


# -- an arm ------------------------------------------------------------------------------------------------------------


def _measured(job: ArmJob, folder: Path, row: Row) -> Row:
    study, family = job.study, _opened(str(family_folder(job.study, folder)))
    recipe, budget = study.arms[job.arm].chosen(), Budget(study.steps_of(job.arm))
    run = trained_run(folder / row.run, recipe, family, budget, job.seed, study.threads)
    model = run.painter if isinstance(recipe.field, Gqn) else run.model
    scenes, std = list(study.family.held_out), std_of(recipe)
    few = scenes[:SHOWN_SCENES]
    scored = evaluate_family(model, family, scenes, study.contexts, std=std, shown=few)
    entries = _entries(scored, (*CONDITIONS, *SANITY))
    pictures = _pictures(scored)
    for name, what, amount in study.shift_amounts():
        moved = _moved(family, what, amount)
        found = evaluate_family(
            model, family, scenes, (study.shift_views,), std=std, shown=few[:1], targets_from=moved, sanity=False
        )
        entries += _entries(found, CONDITIONS, shift=name, amount=amount)
        pictures |= _shifted_pictures(found, name, amount)
    if study.is_drawn_from(job.arm):
        drawn = evaluate_family(
            model, family, scenes[: study.draws.scenes], study.draws.views, samples=study.draws.samples, std=std,
            shown=few, sanity=False,
        )  # fmt: skip
        entries += _entries(drawn, OF_DRAWS)
        pictures |= _deviations(drawn)
    if study.is_ascended(job.arm):
        assert isinstance(model, Model)
        how = study.ascents
        some = scenes[: how.scenes]
        found_gaps = gaps(model, family, some, how.views, how.steps, how.rays)
        entries += [{"scene": n, "views": how.views} | gap for n, gap in zip(some, found_gaps)]
    if isinstance(model, Model) and has_prior(recipe):
        pictures["prior"] = _prior_pictures(model, family, few[0])
    write_pictures(folder / PREVIEWS / f"{job.key}.npz", pictures)
    return replace(
        of_run(row, run),
        status="done",
        metrics=strict({key: value for key, value in scored.mean.items() if value is not None}),
        per_view=tuple(strict(entries)),
        protocol=strict(scored.protocol),
    )


def std_of(recipe: Recipe) -> float:
    """The standard deviation of a colour under a recipe's likelihood."""
    judged = next((term for term in recipe.terms.values() if isinstance(term, SceneLikelihood)), SceneLikelihood())
    return judged.std


def has_prior(recipe: Recipe) -> bool:
    """Whether latents were asked to be draws of a prior: new scenes may then be drawn."""
    return any(isinstance(term, LatentKL) and term.weight != 0 for term in recipe.terms.values())


def _entries(scored: FamilyEvaluation, wanted: Sequence[str], **condition: Any) -> list[dict[str, Any]]:
    """An entry for each scene and number of views, with the wanted numbers that there are."""
    entries = []
    for row in scored.scenes:
        for n in scored.counts:
            entry = {"scene": row["scene"], "views": n, **condition}
            for key in wanted:
                found = row.get(key.format(n=n), row.get(f"{key}@{n}"))
                if found is not None:
                    entry[key.removesuffix("@{n}")] = found
            entries.append(entry)
    return entries


@lru_cache(maxsize=2)
def _opened(path: str) -> Family:
    return open_family(path)


@lru_cache(maxsize=32)
def _moved(family: Family, what: str, amount: float) -> Family:
    return seen_again(family, {what: amount})


# -- a fit -------------------------------------------------------------------------------------------------------------


def _fitted(job: FitJob, folder: Path, row: Row) -> Row:
    study, family = job.study, _opened(str(family_folder(job.study, folder)))
    fits = study.fits
    assert fits is not None
    set_threads(study.threads)
    recipe = _recipe_of_fit(job, fits)
    start = None if job.start is None else Run.open(folder / RUNS / job.start).model.state_dict()
    begun = time.perf_counter()
    best = fit_one(
        recipe, family, job.number, job.views, steps=fits.steps, every=fits.every, seed=job.seed, start=start
    )
    entry = {"scene": job.number, "views": job.views} | {k: best[k] for k in (*CONDITIONS, "step") if k in best}
    return replace(
        row,
        status="done",
        metrics=strict({"psnr": best["psnr"], "mse": best["mse"]}),
        per_view=tuple(strict([entry])),
        seconds=round(time.perf_counter() - begun, 3),
        steps=fits.steps,
    )


def _recipe_of_fit(job: FitJob, fits: Fits) -> Recipe:
    recipe = job.study.arms[fits.of].chosen()
    return recipe_of_one(recipe, fits.set, latent=job.arm == "started", entropy=job.arm == "entropy")


# -- pictures ----------------------------------------------------------------------------------------------------------

Stack = np.ndarray  # uint8, (pictures, h, w, 3)


def write_pictures(path: Path, pictures: Mapping[str, Stack]) -> None:
    """Small pictures of a row by name, in one .npz."""
    write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **pictures))


def read_pictures(path: Path) -> dict[str, Stack]:
    """What `write_pictures` wrote; nothing where there is no such file."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _pictures(scored: FamilyEvaluation) -> dict[str, Stack]:
    """context-I, truth-I, and N-I for n = N views, of scene I of those that are shown."""
    found = {}
    for i, scene in enumerate(scored.kept):
        found |= {f"context-{i}": _bytes(scene.context), f"truth-{i}": _bytes(scene.truth)}
        found |= {f"{n}-{i}": _bytes(seen.rgb[0]) for n, seen in scene.predictions.items()}
    return found


def _shifted_pictures(scored: FamilyEvaluation, shift: str, amount: float) -> dict[str, Stack]:
    """truth and prediction of the first scene."""
    name = f"{shift}={amount:g}"
    return {
        key: stack
        for scene in scored.kept
        for n, seen in scene.predictions.items()
        for key, stack in ((f"truth {name}", _bytes(scene.truth)), (name, _bytes(seen.rgb[0])))
    }


def _deviations(scored: FamilyEvaluation) -> dict[str, Stack]:
    """deviation-N-I: 0 is black, 0.25 and more is white."""
    found = {}
    for i, scene in enumerate(scored.kept):
        for n, seen in scene.predictions.items():
            if seen.deviation is not None:
                found[f"deviation-{n}-{i}"] = _bytes((4 * seen.deviation[0])[..., None].expand(-1, -1, -1, 3))
    return found


def _prior_pictures(model: Model, family: Family, scene: int) -> Stack:
    """New scenes, each from the same camera of the ring."""
    assert model.codes is not None
    latent = torch.randn(PRIOR_SCENES, model.codes.config.latent, generator=Generator().manual_seed(0))
    asked = family.shown(torch.full((PRIOR_SCENES,), scene), torch.zeros(PRIOR_SCENES, 1, dtype=torch.long))
    return _bytes(Rendered(model).render(asked, latent)[0][:, 0])


def _bytes(pictures: torch.Tensor) -> Stack:
    return np.stack([to_bytes(picture) for picture in pictures])


# -- the bill ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FamilyBill:
    """What a study will take. seconds: predicted wall time; each: of a run of an arm, or of a fit, with its measuring.

    measured: by runs that have ended, and not by a few steps alone; troubles: arms that could not take a step
    """

    runs: int
    there: int
    workers: int
    seconds: float
    each: Mapping[str, float]
    measured: bool
    troubles: tuple[str, ...] = ()

    def __str__(self) -> str:
        there = f", {self.there} more are there already" if self.there else ""
        if not self.runs:
            return f"runs: 0{there}"
        how = "of runs that have ended" if self.measured else "of a few steps"
        side = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        each = ", ".join(f"{arm} {rounded_duration(seconds)}" for arm, seconds in self.each.items())
        trouble = "".join(f"\nwill fail: {trouble}" for trouble in self.troubles)
        return (
            f"runs: {self.runs}{there}\neach: {each} (by the time {how})\n"
            f"time: about {rounded_duration(self.seconds)} with {side}{trouble}"
        )


def family_bill(
    study: FamilyStudy, arms: Sequence[ArmJob], fits: Sequence[FitJob], there: Sequence[Row], workers: int
) -> FamilyBill:
    """The runs and the predicted time: by rows that are there, else by a few steps and pictures on a family of a dozen
    scenes that is made, measured and thrown away."""
    each = {row.arm: max(row.wall, row.seconds) for row in there if row.done}
    wanted = list(dict.fromkeys(job.arm for job in (*arms, *fits)))
    unknown = [arm for arm in wanted if arm not in each]
    troubles: list[str] = []
    if unknown:
        with tempfile.TemporaryDirectory() as folder:
            make_family(replace(study.family.plan(), scenes=PROBE_SCENES, test=2), Path(folder))
            family = open_family(folder)
            for arm in unknown:
                try:
                    fit = next((job for job in fits if job.arm == arm), None)
                    each[arm] = _seconds_of_fit(fit, family) if fit else _seconds_of_arm(study, arm, family)
                except UserError as error:
                    each[arm] = 0.0
                    troubles.append(f"{arm}: {error}")
    seconds = 0.0
    for part in (arms, fits):  # one after the other; a part takes no less than its longest run
        seconds += max(sum(each[job.arm] for job in part) / workers, *(each[job.arm] for job in part), 0.0)
    return FamilyBill(
        len(arms) + len(fits), len(there), workers, seconds, {arm: each[arm] for arm in wanted}, not unknown,
        tuple(troubles),
    )  # fmt: skip


def _seconds_of_arm(study: FamilyStudy, arm: str, family: Family) -> float:
    """Training, and all pictures of the measuring."""
    set_threads(study.threads)
    task = task_of(settle(study.arms[arm].chosen(), family), family, 0, device_named(DEVICE))
    a_step, a_scene = seconds_of_steps(task), _seconds_of_look(task.model, family)
    scenes = study.family.test * (len(study.contexts) + 1 + len(study.shift_amounts()))
    if study.is_drawn_from(arm):
        scenes += min(study.draws.scenes, study.family.test) * len(study.draws.views) * (1 + study.draws.samples)
    steps = study.steps_of(arm) + (study.ascents.steps if study.is_ascended(arm) else 0)
    return steps * a_step + scenes * a_scene


def _seconds_of_fit(job: FitJob, family: Family) -> float:
    """A fit's steps, and its looks at the targets."""
    fits = job.study.fits
    assert fits is not None
    set_threads(job.study.threads)
    scene = scene_of(family, family.split.test[0], (0, 1))
    task = FitScene(settle(_recipe_of_fit(job, fits), scene), scene, 0, device_named(DEVICE))
    a_step, a_look = seconds_of_steps(task), _seconds_of_look(Fitted(task.model), family)
    return fits.steps * a_step + fits.steps // fits.every * a_look


def _seconds_of_look(model: Model | GqnModel | Fitted, family: Family) -> float:
    """Of one scene's targets, predicted and scored."""
    begun = time.perf_counter()
    evaluate_family(model, family, family.split.test[:1], (1,), sanity=False)
    return time.perf_counter() - begun

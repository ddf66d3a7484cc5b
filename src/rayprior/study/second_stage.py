"""The second stage of a study's arm: what is done with a field beside training it. Refined, sharpened, followed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rayprior.errors import UserError
from rayprior.evaluation.appearance import fit_code
from rayprior.evaluation.pictures import Renders, on_background
from rayprior.evaluation.sharpened import UnsharpMask
from rayprior.files import remove
from rayprior.maths.schedules import Schedule, number
from rayprior.priors.follow import Follow
from rayprior.rendering.refined import Refined
from rayprior.scenes.scene import Scene
from rayprior.study.spec import FOLLOW, ArmSpec, Refine
from rayprior.training.budget import Budget
from rayprior.training.fit import device_named, go_on, task_of
from rayprior.training.loop import train
from rayprior.training.recipe import Recipe
from rayprior.training.refining import RefinerRun, refine
from rayprior.training.run import Conditions, Opening, Run, is_run
from rayprior.training.settle import settle

REFINERS = "refiners"  # in a study's folder, one for each job that refines
FOLLOWED = "followed"  # the refiner of half-way, in its field's folder
DEVICE = "cpu"  # many small trainings side by side, one thread each


@dataclass(frozen=True)
class Shown:
    """What an arm's pictures are: `model` renders them; protocol: what was done to them; refining: the seconds that a
    refiner was trained, beside the field."""

    model: Renders
    protocol: dict[str, str]
    refining: float = 0.0


def shown(arm: ArmSpec, run: Run, scene: Scene, folder: Path) -> Shown:
    """An arm's pictures; a refiner that is not there yet is trained in `folder`, or trained on.

    scene: on the recipe's background.
    """
    halfway = _seconds(RefinerRun.open(run.path / FOLLOWED, run)) if arm.follow is not None else 0.0
    if arm.refine is not None:
        of = _refiner(arm.refine, run, folder)
        return Shown(of.refined(scene), {"refiner": of.said}, halfway + _seconds(of))
    if arm.sharpen:
        mask = UnsharpMask(arm.sharpen)
        return Shown(Refined(run.model, mask), {"sharpened": mask.said})
    return Shown(run.model, {}, halfway)


def fit_codes(run: Run, scene: Scene, views: Sequence[int]) -> None:
    """Fit the codes of views to their left halves, which `evaluate` does for a bare model alone."""
    for view in views if run.model.codes is not None else ():
        fit_code(run.model, on_background(scene, None), view)


def _refiner(how: Refine, run: Run, folder: Path) -> RefinerRun:
    """Trained with the seed and the threads of its field."""
    seed, threads = run.conditions.seed, run.conditions.threads
    return refine(run, how.chosen(), out=folder, seed=seed, threads=threads, device=DEVICE)


def _seconds(of: RefinerRun) -> float:
    log = of.read_log()
    return float(log[-1]["seconds"]) if log else 0.0


# -- followed ----------------------------------------------------------------------------------------------------------


def followed_run(
    path: Path, arm: ArmSpec, scene: Scene, budget: Budget, seed: int, threads: int, snapshots: int
) -> Run:
    """A field that is trained for half of its steps, refined, and trained on with that refiner to follow: as many rays
    as of any other arm. Goes on where an earlier process left it.

    UserError for a budget of seconds, and one of a single step.
    """
    assert arm.follow is not None
    half = _half(budget)
    run = _begun(
        path, _following(arm.chosen(), path / FOLLOWED, half), scene, Conditions(budget, seed, threads, DEVICE)
    )
    if (run.latest or 0) < half:
        task = task_of(run.recipe, scene, seed, device_named(DEVICE))
        train(task, run, budget, Budget(half))
        run = Run.open(path, import_priors=True)
    if run.latest == half:
        _refiner(arm.follow, run, path / FOLLOWED)
        run = Run.open(path, import_priors=True)  # the model that it holds is that of half-way
    return go_on(run, scene, snapshots=snapshots)


def probed(arm: ArmSpec) -> Recipe:
    """An arm's recipe to take a few steps of: one that follows has nothing to follow yet."""
    return arm.chosen() if arm.follow is None else _following(arm.chosen(), Path(FOLLOWED), half=1 << 30)


def _half(budget: Budget) -> int:
    if budget.steps is None or budget.steps < 2:
        raise UserError(f"a budget of {budget}: an arm that follows its refiner needs one of two steps or more")
    return budget.steps // 2


def _following(recipe: Recipe, refiner: Path, half: int) -> Recipe:
    """The recipe whose term `follow` has no weight until this step, and follows what is there then."""
    term = recipe.terms[FOLLOW]
    assert isinstance(term, Follow)
    weight = Schedule(((half - 1, 0.0), (half, number(term.weight))))
    return replace(
        recipe, terms={**recipe.terms, FOLLOW: replace(term, weight=weight, refiner=str(refiner.absolute()))}
    )


def _begun(path: Path, recipe: Recipe, scene: Scene, conditions: Conditions) -> Run:
    """The run that stands there, or a new one."""
    if is_run(path):
        with suppress(UserError):  # killed before it was whole: it is then started anew
            run = Run.open(path, import_priors=True)
            if run.latest is not None:
                return run
    remove(path)
    return Run.create(path, settle(recipe, scene), Opening.of(scene), conditions, sys.argv)

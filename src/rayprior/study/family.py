"""A study of families: what learned from many scenes, on scenes it never saw, from few views, and from elsewhere.

A TOML file with a table [family] says it. Jobs are of two kinds: an arm at a seed is trained on the family and measured
on its test scenes; then single test scenes are fitted by themselves, as the rival that has time. Each leaves one row,
whose `per_view` has an entry for each scene and condition (`study.family_claims`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import field as default
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any, Literal

from rayprior.errors import UserError, did_you_mean
from rayprior.evaluation.family import TARGETS
from rayprior.methods import recipe_from
from rayprior.networks.gqn import Gqn
from rayprior.plain import Reader, to_plain
from rayprior.scenes.formats.family import FILE, read_index
from rayprior.scenes.synthetic.families import SHIFTS, check_shift
from rayprior.scenes.synthetic.making import FamilyPlan
from rayprior.study.family_claims import (
    CLAIMS,
    FIT_KINDS,
    FamilyClaim,
    FewViews,
    GapClosed,
    Lower,
    SmallerSlope,
    Uncertain,
    Worth,
)
from rayprior.study.jobs import Selection, slug
from rayprior.training.recipe import Recipe
from rayprior.training.recipe_json import recipe_hash

FAMILY = "family"  # the folder, in the study's, of a family that is made for it
DECISIVE = Selection()
FitKind = Literal["scratch", "entropy", "started"]
DRAWN = ("nats", "bits", "deviation", "auc_unseen")  # what takes draws of latents to measure


@dataclass(frozen=True)
class Scenes:
    """The family: made in the study's folder by the generator, or one that is there: `path`.

    scenes  in all, of which the last `test` are held out
    """

    kind: str = "rooms"
    scenes: int = 540
    test: int = 40
    views: int = 10
    size: int = 32
    seed: int = 0
    exposure: float = 0.0
    path: str | None = None

    def plan(self) -> FamilyPlan:
        """What the generator is asked for. UserError where it cannot be made."""
        return FamilyPlan(self.kind, self.scenes, self.views, self.size, self.seed, self.test, {}, self.exposure)

    @property
    def held_out(self) -> range:
        """The numbers of the test scenes."""
        return range(self.scenes - self.test, self.scenes)


@dataclass(frozen=True)
class FamilyArm:
    """A recipe for families as it would be typed. steps: None: the study's; decisive: else it runs with --all."""

    recipe: str
    prior: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    steps: int | None = None
    decisive: bool = False

    def chosen(self) -> Recipe:
        """The recipe, not yet settled. UserError for whatever in it does not exist, and for one of a single scene."""
        recipe = recipe_from(self.recipe, priors=self.prior, settings=self.set)
        if recipe.episodes is None:
            raise UserError(f"recipe '{recipe.name}' fits one scene; expected one of families, such as nerf-vae")
        return recipe


@dataclass(frozen=True)
class Fits:
    """Test scenes that are fitted by themselves, with the scene function of the arm `of`, from n views.

    scenes   the first so many test scenes
    views    the numbers n; beyond what the family's views leave, the same worlds are photographed again
    kinds    scratch: from nothing; entropy: and with the prior of that name; started: from what `of` makes of a scene
             of which nothing was shown (latent 0), weights and all
    steps    of each; every `every` of them the targets are looked at, and the best look counts: stopped by an oracle
    set      settings of the recipe of one scene
    seeds    for the first so many seeds of the study
    """

    of: str
    scenes: int = 10
    views: tuple[int, ...] = (1, 2, 3, 5)
    kinds: tuple[FitKind, ...] = FIT_KINDS
    steps: int = 600
    every: int = 50
    set: tuple[str, ...] = ()
    seeds: int = 1


@dataclass(frozen=True)
class Draws:
    """How uncertainty is measured: draws of a latent, on the first so many test scenes, with these numbers of views."""

    samples: int = 16
    scenes: int = 20
    views: tuple[int, ...] = (1, 3, 5)


@dataclass(frozen=True)
class Ascents:
    """How the gap is measured that amortised inference leaves: on the first so many test scenes with n `views`, by
    `steps` of Adam on mean and deviation, from `rays` pixels a scene each."""

    scenes: int = 10
    views: int = 3
    steps: int = 200
    rays: int = 64


@dataclass(frozen=True)
class FamilyStudy:
    """All that a study's file says.

    shifts       by name: the one thing that is shifted, and how far, in steps: {"yaw": (10, 20, 30)}
    contexts     numbers of views that arms are shown
    shift_views  that they are shown where cameras are shifted
    """

    name: str
    family: Scenes
    arms: Mapping[str, FamilyArm]
    about: str = ""
    steps: int = 6_000
    seeds: tuple[int, ...] = (0, 1, 2)
    contexts: tuple[int, ...] = (1, 2, 3, 5)
    shifts: Mapping[str, Mapping[str, tuple[float, ...]]] = default(default_factory=dict)
    shift_views: int = 3
    threads: int = 1
    fits: Fits | None = None
    draws: Draws = default(default_factory=Draws)
    ascents: Ascents = default(default_factory=Ascents)
    claims: tuple[FamilyClaim, ...] = ()

    def steps_of(self, arm: str) -> int:
        return self.arms[arm].steps or self.steps

    def shift_amounts(self) -> tuple[tuple[str, str, float], ...]:
        """(name of the shift, what is shifted, how far), every step of every shift."""
        return tuple(
            (name, what, amount) for name, s in self.shifts.items() for what, far in s.items() for amount in far
        )

    def is_drawn_from(self, arm: str) -> bool:
        """Whether some claim needs draws of this arm's latents."""
        uncertain = any(isinstance(c, Uncertain) and c.arm == arm for c in self.claims)
        return uncertain or any(
            isinstance(c, Lower) and c.metric in DRAWN and arm in (c.better, c.than) for c in self.claims
        )

    def is_ascended(self, arm: str) -> bool:
        """Whether some claim needs this arm's inference gap."""
        return any(isinstance(claim, GapClosed) and claim.arm == arm for claim in self.claims)


def is_family_study(path: Path) -> bool:
    """Whether a TOML file is a study of families; False for whatever cannot be read, which others say."""
    try:
        return "family" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def read_family_study(path: Path, data: Path | None = None) -> FamilyStudy:
    """The study of a TOML file, every name in it checked and every arm's recipe made once.

    data  the folder that a family's `path` starts from; None: the file's own

    Raises UserError naming file, key, value and what was expected.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a study's TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None
    if type(table.get("seeds")) is int:
        table["seeds"] = list(range(table["seeds"]))
    study: FamilyStudy = Reader(str(path), CLAIMS, fill=True).read(table, FamilyStudy)
    if study.family.path is not None:
        study = replace(study, family=_as_made(study.family, (data or path.parent) / study.family.path))
    _check(study, str(path))
    return study


def _as_made(scenes: Scenes, path: Path) -> Scenes:
    """What the index of a family says of it."""
    if not (path / FILE).is_file():
        raise UserError(f"{path}: no family ({FILE}); make one with rayprior family make, or leave family.path out")
    index = read_index(path)
    first, end = index.split["test"]
    return Scenes(
        index.kind, index.scenes, end - first, index.views, index.size[0], index.seed, index.exposure, str(path)
    )


def _check(study: FamilyStudy, where: str) -> None:
    def expect(true: bool, key: str, stands: Any, expected: str) -> None:
        if not true:
            raise UserError(f"{where}: '{key}' is {dumps(stands)}; expected {expected}")

    def known(key: str, what: str, name: str, choices: Any) -> None:
        if name not in choices:
            raise UserError(f"{where}: '{key}': no {what} named '{name}'{did_you_mean(name, choices)}")

    try:
        study.family.plan()
    except UserError as error:
        raise UserError(f"{where}: [family]: {error}") from None
    most = study.family.views - TARGETS
    fits = study.family.test >= 1 and len(study.arms) > 0
    expect(fits, "arms", list(study.arms), "at least one table [arms.NAME], and family.test at least 1")
    for name in study.arms:
        expect(name not in FIT_KINDS, f"arms.{name}", name, f"another name: {', '.join(FIT_KINDS)} are kinds of fits")
    seeds = study.seeds
    fine = len(set(seeds)) == len(seeds) > 0 and min(seeds) >= 0
    expect(fine, "seeds", list(seeds), "a count of at least 1, or a list of different whole numbers from 0")
    expect(bool(slug(study.name)), "name", study.name, "a name that a folder can have")
    for key, number in {
        "steps": study.steps,
        "threads": study.threads,
        "draws.samples": study.draws.samples - 1,
        "draws.scenes": study.draws.scenes,
        "ascents.scenes": study.ascents.scenes,
        "ascents.steps": study.ascents.steps,
        "ascents.rays": study.ascents.rays,
        **{f"arms.{name}.steps": study.steps_of(name) for name in study.arms},
    }.items():
        expect(number >= 1, key, number, "a positive number" if key != "draws.samples" else "at least 2")
    said = f"numbers from 1 to {most}, each once: the family's views without the {TARGETS} that are asked for"
    for key, counts in {
        "contexts": study.contexts,
        "draws.views": study.draws.views,
        "shift_views": (study.shift_views,),
        "ascents.views": (study.ascents.views,),
    }.items():
        fine = len(counts) > 0 and len(set(counts)) == len(counts) and min(counts) >= 1 and max(counts) <= most
        expect(fine, key, list(counts), said)
    expect(study.shift_views in study.contexts, "shift_views", study.shift_views, "one of the contexts")
    for name, shift in study.shifts.items():
        expect(len(shift) == 1, f"shifts.{name}", dict(shift), "one of height, radius, yaw, roll, and how far in steps")
        what, amounts = next(iter(shift.items()))
        known(f"shifts.{name}", "shift", what, SHIFTS)
        fine = len(amounts) > 0 and 0 not in amounts and len(set(map(abs, amounts))) == len(amounts)
        expect(fine, f"shifts.{name}.{what}", list(amounts), "numbers other than 0, of different size")
        for amount in amounts:
            try:
                check_shift(study.family.kind, {what: amount})
            except UserError as error:
                raise UserError(f"{where}: 'shifts.{name}': {error}") from None
    for name, arm in study.arms.items():
        try:
            arm.chosen()
        except UserError as error:
            raise UserError(f"{where}: arm '{name}': {error}") from None
    if study.fits is not None:
        _check_fits(study, study.fits, expect, known)
    for number, claim in enumerate(study.claims, start=1):
        _check_claim(study, claim, f"claims, the {number}.", expect, known)


def _check_fits(study: FamilyStudy, fits: Fits, expect: Any, known: Any) -> None:
    known("fits.of", "arm", fits.of, study.arms)
    recipe = study.arms[fits.of].chosen()
    expect(not isinstance(recipe.field, Gqn), "fits.of", fits.of, "an arm with a scene function: this one paints")
    expect(
        1 <= fits.scenes <= study.family.test, "fits.scenes", fits.scenes, f"1 to {study.family.test}, the test scenes"
    )
    fine = len(fits.views) > 0 and len(set(fits.views)) == len(fits.views) and min(fits.views) >= 1
    expect(fine, "fits.views", list(fits.views), "numbers of views, each once")
    expect(len(fits.kinds) > 0, "fits.kinds", [], f"some of {', '.join(FIT_KINDS)}")
    expect(fits.steps >= 1, "fits.steps", fits.steps, "at least 1")
    expect(1 <= fits.every <= fits.steps, "fits.every", fits.every, f"1 to {fits.steps}, the steps")
    expect(1 <= fits.seeds <= len(study.seeds), "fits.seeds", fits.seeds, f"1 to {len(study.seeds)}, the study's seeds")


def _check_claim(study: FamilyStudy, claim: FamilyClaim, key: str, expect: Any, known: Any) -> None:
    """Every arm, fit, shift and number of views that is named is one of the study's."""
    arms = [claim.better] if isinstance(claim, FewViews | SmallerSlope | Lower) else [claim.arm]
    if isinstance(claim, SmallerSlope | Lower):
        arms.append(claim.than)
    for arm in arms:
        known(key, "arm", arm, study.arms)
    if isinstance(claim, FewViews):
        known(key, "fit", claim.than, study.fits.kinds if study.fits else ())
    if isinstance(claim, SmallerSlope):
        for name in claim.shifts:
            known(key, "shift", name, study.shifts)
        expect(len(study.shifts) > 0, key, [], "a table [shifts.NAME] to compare under")
    if isinstance(claim, Worth | Lower):
        there = (*study.contexts, *(study.draws.views if isinstance(claim, Lower) else ()))
        expect(claim.views in there, f"{key} views", claim.views, f"one of {sorted(set(there))}")
    if isinstance(claim, GapClosed):
        inference = study.arms[claim.arm].chosen().inference
        refined = inference is not None and inference.refinements > 0
        expect(refined, f"{key} arm", claim.arm, "an arm that refines its guess, such as nerf-vae-refined")
    if isinstance(claim, Uncertain):
        has = study.arms[claim.arm].chosen().codes.latent > 0
        expect(has and len(study.draws.views) > 1, f"{key} arm", claim.arm, "an arm with a latent, two draws.views")


# -- jobs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArmJob:
    """An arm at a seed: trained, then measured. run: the training's own key, so that what is measured may change
    without training anew."""

    key: str
    run: str
    study: FamilyStudy
    arm: str
    seed: int

    @property
    def scene(self) -> str:
        return self.study.family.kind

    @property
    def threads(self) -> int:
        return self.study.threads


@dataclass(frozen=True)
class FitJob:
    """One test scene, fitted by itself from `views` views. start: the run whose weights it begins with."""

    key: str
    study: FamilyStudy
    arm: FitKind
    number: int
    views: int
    seed: int
    start: str | None = None

    @property
    def scene(self) -> str:
        return f"{self.views} view{'s' * (self.views > 1)}"

    @property
    def threads(self) -> int:
        return self.study.threads


def arm_jobs(study: FamilyStudy, selection: Selection = DECISIVE) -> tuple[ArmJob, ...]:
    """Every selected arm at every seed, seed by seed."""
    return tuple(_arm_job(study, name, seed) for seed in study.seeds for name in selected(study, selection))


def fit_jobs(study: FamilyStudy, selection: Selection = DECISIVE) -> tuple[FitJob, ...]:
    """Every fit of a scene. Those that start from an arm need its run: they come after `arm_jobs`."""
    fits = study.fits
    if fits is None:
        return ()
    wanted: list[FitKind] = [kind for kind in fits.kinds if not selection.only or kind in selection.only]
    recipe = recipe_hash(study.arms[fits.of].chosen())
    scenes = study.family.held_out[: fits.scenes]
    jobs = []
    for seed in study.seeds[: fits.seeds]:
        for views in fits.views:
            for number in scenes:
                for kind in wanted:
                    start = _arm_job(study, fits.of, seed).run if kind == "started" else None
                    how = [recipe, fits.set, fits.steps, fits.every, number, views, start]
                    key = _key(f"scene{number}-{views}views", kind, seed, _data(study), how, study.threads)
                    jobs.append(FitJob(key, study, kind, number, views, seed, start))
    return tuple(jobs)


def selected(study: FamilyStudy, selection: Selection) -> tuple[str, ...]:
    """Names of the arms to run: the typed ones, else the decisive ones, else all. A fit that was typed and starts from
    an arm brings that one."""
    kinds = study.fits.kinds if study.fits else ()
    for name in selection.only:
        if name not in (*study.arms, *kinds):
            hint = did_you_mean(name, (*study.arms, *kinds))
            raise UserError(f"--only {name}: study '{study.name}' has no such arm{hint}")
    if selection.only:
        brought = study.fits.of if study.fits and "started" in selection.only else None
        return tuple(name for name in study.arms if name in selection.only or name == brought)
    decisive = tuple(name for name, arm in study.arms.items() if arm.decisive)
    return tuple(study.arms) if selection.all or not decisive else decisive


def _arm_job(study: FamilyStudy, arm: str, seed: int) -> ArmJob:
    training = [recipe_hash(study.arms[arm].chosen()), study.steps_of(arm)]
    run = _key(study.family.kind, arm, seed, _data(study), training, study.threads)
    measured = [study.contexts, study.shift_amounts(), study.shift_views]
    measured += [study.draws] if study.is_drawn_from(arm) else []
    measured += [study.ascents] if study.is_ascended(arm) else []
    return ArmJob(f"{run}-{_digest(measured)}", run, study, arm, seed)


def _data(study: FamilyStudy) -> Any:
    """What decides the pictures: where a family lies does not."""
    return replace(study.family, path=None)


def _key(what: str, arm: str, seed: int, *decides: Any) -> str:
    return "--".join(map(slug, [what, arm, f"seed{seed}", _digest([seed, *decides])]))


def _digest(values: Any) -> str:
    return sha256(dumps(to_plain(values), sort_keys=True).encode()).hexdigest()[:8]

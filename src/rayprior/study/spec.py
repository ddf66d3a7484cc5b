"""Study: methods x scenes x degradations x seeds, as one TOML file says it, read strictly before any training."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as default
from math import exp, log
from pathlib import Path
from typing import Any, Literal

import torch

from rayprior.errors import UserError, did_you_mean
from rayprior.methods import Quality, recipe_from
from rayprior.plain import Reader
from rayprior.priors.follow import Follow
from rayprior.scenes.degrade import Degradation
from rayprior.scenes.open import EMBEDDED, load_scene
from rayprior.study.rows import DIRECTION
from rayprior.training.budget import Budget
from rayprior.training.recipe import Recipe
from rayprior.training.refining import REFINERS, Refining, with_value

NO_DEGRADATION = "none"
FOLLOW = "follow"  # the term that an arm needs to follow its refiner
PHOTOMETRIC = "photometric"  # the one term that an ablation keeps: without it there is nothing to fit
SCENE_OPTIONS = frozenset(inspect.signature(load_scene).parameters) - {"path", "degrade"}


@dataclass(frozen=True)
class SceneSpec:
    """A capture, and how it is opened: `load_scene(source, **options)`. path: as written; source: where that is."""

    path: str
    source: str
    options: Mapping[str, Any]
    decisive: bool = False


@dataclass(frozen=True)
class Refine:
    """A refiner of an arm's field, as it would be typed after `rayprior refine`. steps of None: the refiner's own."""

    recipe: str = "refiner"
    steps: int | None = None
    set: tuple[str, ...] = ()
    shuffled: bool = False

    def chosen(self) -> Refining:
        """What is trained. UserError for whatever in it does not exist."""
        if self.recipe not in REFINERS:
            raise UserError(f"no refiner named '{self.recipe}'{did_you_mean(self.recipe, REFINERS)}")
        refining = REFINERS[self.recipe]
        for setting in self.set:
            refining = with_value(refining, setting)
        return replace(refining, steps=self.steps or refining.steps, shuffled=self.shuffled)


@dataclass(frozen=True)
class ArmSpec:
    """One method: a recipe as it would be typed.

    without   terms that are dropped
    decisive  needed for what the study is to decide; the others run with --all
    scenes    only on these; empty: on all
    control   what it is compared with, instead of the study's control
    degrade   options of scenes.degrade.Degradation beside those of the study's degradation, for this arm alone: a
              control whose data is wrong, paired with arms whose data is right
    factors   its corner of a factorial, {"guided": true, "soft": false}
    refine    once its field is trained a refiner of it is, and refined pictures are scored
    sharpen   pictures go through an unsharp mask of this amount before they are scored; 0: they do not
    follow    after half of the steps a refiner of its field is trained, which the arm's term `follow` then follows
    """

    recipe: str
    field: Literal["mlp", "grid"] | None = None
    size: Literal["small", "full"] | None = None
    quality: Quality | None = None
    prior: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    decisive: bool = False
    scenes: tuple[str, ...] = ()
    control: str | None = None
    degrade: Mapping[str, Any] = default(default_factory=dict)
    factors: Mapping[str, bool] = default(default_factory=dict)
    refine: Refine | None = None
    sharpen: float = 0.0
    follow: Refine | None = None

    def chosen(self) -> Recipe:
        """The recipe, not yet settled by a scene. UserError for whatever in it does not exist."""
        return recipe_from(self.recipe, self.field, self.size, self.quality, self.prior, self.set, without=self.without)


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, drawn evenly, or with `log` evenly in their logarithm."""

    low: float
    high: float
    log: bool = False

    def at(self, share: float) -> float:
        """The number at a share in [0, 1] of the way, to four digits."""
        if self.log:
            return float(f"{exp(log(self.low) + share * (log(self.high) - log(self.low))):.4g}")
        return float(f"{self.low + share * (self.high - self.low):.4g}")


@dataclass(frozen=True)
class Sweep:
    """Values of an arm's recipe to choose from by validation views; the arm then has the best of them.

    values  for each setting's path the values, or for 'random' also a range to draw from
    how     'grid': every combination; 'random': `draws` combinations, drawn by `seed`
    scenes  the choice is made on these; empty: on all of the arm's
    seeds   and with these; empty: with all of the study's
    metric  by the mean of this; None: the study's headline
    also    arms that have the same settings, and get the same choice
    """

    arm: str
    values: Mapping[str, tuple[Any, ...] | Range]
    how: Literal["grid", "random"] = "grid"
    draws: int = 12
    seed: int = 0
    scenes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    metric: str | None = None
    also: tuple[str, ...] = ()

    def settings(self) -> tuple[tuple[str, ...], ...]:
        """Every combination, each as ("terms.entropy.weight=0.001", ...)."""
        if self.how == "grid":
            combined = itertools.product(*(v for v in self.values.values() if not isinstance(v, Range)))
        else:
            shares = torch.rand(
                self.draws,
                len(self.values),
                generator=torch.Generator().manual_seed(self.seed),
                dtype=torch.float64,
            )
            combined = (
                [
                    values.at(share) if isinstance(values, Range) else values[int(share * len(values))]
                    for values, share in zip(self.values.values(), row)
                ]
                for row in shares.tolist()
            )
        written = (tuple(f"{key}={_written(v)}" for key, v in zip(self.values, drawn)) for drawn in combined)
        return tuple(dict.fromkeys(written))


@dataclass(frozen=True)
class Ablate:
    """Arms of which each term is dropped in turn, the photometric one excepted."""

    arms: tuple[str, ...]


@dataclass(frozen=True)
class Guard:
    """A metric in which `better` may lose `margin` at most, with all of the interval; relative: a share of the mean of
    `than`."""

    metric: str
    margin: float
    relative: bool = False


@dataclass(frozen=True)
class Claim:
    """What a study is to show: `better` exceeds `than` in `metric` by `at_least` on average, beyond chance.

    metrics      instead of `metric`: several, of which `metrics_at_least` have to be shown; None: all of them
    curve        arms that with `than` are a curve of metric over PSNR, in this order; `better` is then compared with
                 what the curve reaches at its own PSNR: see `statistics.matched`
    relative     `at_least` is a share of the mean of `than`: 0.1 = 10 %
    not_worse    metrics in which `better` may not lose
    guards       metrics in which it may lose so much
    scenes       on these; empty: on all
    degradation  under this one; None: the mean over all of them
    """

    text: str
    better: str
    than: str
    metric: str = "psnr"
    metrics: tuple[str, ...] = ()
    metrics_at_least: int | None = None
    curve: tuple[str, ...] = ()
    at_least: float = 0.0
    relative: bool = False
    not_worse: tuple[str, ...] = ()
    guards: tuple[Guard, ...] = ()
    scenes: tuple[str, ...] = ()
    degradation: str | None = None

    @property
    def judged(self) -> tuple[str, ...]:
        """The metrics that decide it."""
        return self.metrics or (self.metric,)

    @property
    def named(self) -> tuple[str, ...]:
        """All metrics that it needs."""
        return (*self.judged, *self.not_worse, *(guard.metric for guard in self.guards))


@dataclass(frozen=True)
class Study:
    """All that a study's file says; `arms` has its ablations too ("fewview - entropy", compared with "fewview").

    steps, seconds  the budget of every run, at most one of them; neither: each recipe's own steps
    control         what the arms are compared with
    metrics         the first is the headline
    threads         of each run
    snapshots       on how many points on the way the runs are scored on a few views: Row.test_curve
    degradations    options of scenes.degrade.Degradation by name; a `seed` that is left out is the run's
    """

    name: str
    scenes: Mapping[str, SceneSpec]
    arms: Mapping[str, ArmSpec]
    about: str = ""
    steps: int | None = None
    seconds: float | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    control: str | None = None
    metrics: tuple[str, ...] = ("psnr", "ssim")
    threads: int = 1
    snapshots: int = 0
    degradations: Mapping[str, Mapping[str, Any]] = default(default_factory=lambda: {NO_DEGRADATION: {}})
    sweep: Sweep | None = None
    ablate: Ablate | None = None
    claims: tuple[Claim, ...] = ()

    def control_of(self, arm: str) -> str | None:
        """What an arm is compared with; None for the control itself."""
        own = self.arms[arm].control if arm in self.arms else None
        return own or (self.control if self.control != arm else None)

    @property
    def candidates(self) -> dict[str, ArmSpec]:
        """The swept arm with each combination of values, by a name that says them; none without a sweep."""
        if self.sweep is None:
            return {}
        arm = self.arms[self.sweep.arm]
        return {
            f"{self.sweep.arm} [{', '.join(chosen)}]": replace(arm, set=(*arm.set, *chosen))
            for chosen in self.sweep.settings()
        }

    @property
    def halves(self) -> bool:
        """Whether views are scored by the half-image protocol, all arms alike: some arm fits codes to photographs."""
        return any(arm.chosen().codes.colours for arm in (*self.arms.values(), *self.candidates.values()))

    def is_swept(self, arm: str) -> bool:
        """Whether the sweep decides settings of this arm: the swept one, one that gets the same, or their ablations."""
        swept = () if self.sweep is None else (self.sweep.arm, *self.sweep.also)
        return any(arm == name or arm.startswith(f"{name} - ") for name in swept)

    def with_choice(self, settings: tuple[str, ...]) -> Study:
        """The study once its sweep is decided: the swept arm and its ablations have these settings."""
        arms = {
            name: replace(arm, set=(*arm.set, *settings)) if self.is_swept(name) else arm
            for name, arm in self.arms.items()
        }
        return replace(self, arms=arms, sweep=None)


def read_study(path: str | Path, data: str | Path | None = None) -> Study:
    """The study of a TOML file, every name in it checked and every arm's recipe made once.

    data  the folder that scenes' paths start from; None: $RAYPRIOR_DATA, else the file's own folder. Recipes and
          priors that are files are found from the file's folder.

    Raises UserError naming file, key, value and what was expected.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a study's TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None
    where = str(path)
    if isinstance(table.get("seeds"), int) and not isinstance(table["seeds"], bool):
        table["seeds"] = list(range(table["seeds"]))
    if isinstance(table.get("scenes"), dict):
        root = Path(data or os.environ.get("RAYPRIOR_DATA") or path.parent)
        table["scenes"] = {name: _scene(where, name, scene, root) for name, scene in table["scenes"].items()}
    if isinstance(table.get("arms"), dict):
        table["arms"] = {name: _from_folder(arm, path.parent) for name, arm in table["arms"].items()}
    study = Reader(where, fill=True).read(table, Study)
    _check_names(study, where)
    _check_numbers(study, where)
    study = _with_ablations(study, where)
    _check_claims(study, where)
    swept = {} if study.sweep is None else study.with_choice(study.sweep.settings()[0]).arms
    for arms in (study.arms, study.candidates, swept):
        for name, arm in arms.items():
            _made(arm, where, name)
    return study


def absent_scenes(study: Study) -> tuple[str, ...]:
    """The scenes whose files are not on this machine."""
    return tuple(name for name, scene in study.scenes.items() if not _is_here(scene.source))


# -- from the file to values -------------------------------------------------------------------------------------------


def _scene(where: str, name: str, table: Any, root: Path) -> Any:
    """A scene's table with its options apart and its path resolved."""
    if not isinstance(table, dict):
        return table  # the reader says what was expected
    for key in table:
        if key not in SCENE_OPTIONS | {"path", "decisive"}:
            hint = did_you_mean(key, SCENE_OPTIONS | {"path", "decisive"})
            raise UserError(f"{where}: unknown key 'scenes.{name}.{key}'{hint}")
    path = table.get("path")
    if not isinstance(path, str):
        stands = "is missing" if path is None else f"is {json.dumps(path)}"
        raise UserError(f"{where}: 'scenes.{name}.path' {stands}; expected synthetic:NAME or a capture's folder")
    kept = {key: table[key] for key in ("path", "decisive") if key in table}
    options = {key: value for key, value in table.items() if key not in kept}
    if isinstance(options.get("depth"), str):
        options["depth"] = str(root / options["depth"])
    return {**kept, "source": path if path.startswith(EMBEDDED) else str(root / path), "options": options}


def _from_folder(arm: Any, folder: Path) -> Any:
    """An arm's table in which files of recipes and of priors are found from the study's folder."""
    if not isinstance(arm, dict):
        return arm
    found = dict(arm)
    if isinstance(arm.get("recipe"), str) and arm["recipe"].endswith(".json"):
        found["recipe"] = os.path.join(folder, arm["recipe"])
    if isinstance(arm.get("prior"), list):
        found["prior"] = [
            os.path.join(folder, spec) if isinstance(spec, str) and re.match(r"[^:]*\.py(:|$)", spec) else spec
            for spec in arm["prior"]
        ]
    return found


def _with_ablations(study: Study, where: str) -> Study:
    arms = dict(study.arms)
    for name in study.ablate.arms if study.ablate else ():
        arm = study.arms[name]
        for term in _made(arm, where, name).terms:
            if term != PHOTOMETRIC:
                less = replace(arm, without=(*arm.without, term), decisive=False, control=name, factors={})
                arms[f"{name} - {term}"] = less
    return replace(study, arms=arms)


def _made(arm: ArmSpec, where: str, name: str) -> Recipe:
    try:
        recipe = arm.chosen()
        for refine in (arm.refine, arm.follow):
            if refine is not None:
                refine.chosen()
    except UserError as error:
        raise UserError(f"{where}: arm '{name}': {error}") from None
    follows = isinstance(recipe.terms.get(FOLLOW), Follow)
    if (arm.follow is not None) != follows:
        wanted = 'prior = ["follow"]' if not follows else "follow = {steps = 400}, the refiner that is trained half-way"
        raise UserError(f"{where}: arm '{name}': to follow a refiner takes two things; add {wanted}")
    return recipe


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_here(source: str) -> bool:
    return source.startswith(EMBEDDED) or Path(source).exists()


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_names(study: Study, where: str) -> None:
    """Every arm, scene, metric and degradation that is named is one of the study's."""
    for key, table in (("arms", study.arms), ("scenes", study.scenes), ("degradations", study.degradations)):
        if not table:
            raise UserError(f"{where}: '{key}' is empty; expected at least one table [{key}.NAME]")
    _known(where, "control", "arm", [study.control], study.arms)
    _known(where, "metrics", "metric", study.metrics, DIRECTION)
    for name, arm in study.arms.items():
        _known(where, f"arms.{name}.scenes", "scene", arm.scenes, study.scenes)
        _known(where, f"arms.{name}.control", "arm", [arm.control], study.arms)
        if arm.control == name:
            raise UserError(
                f"{where}: 'arms.{name}.control': an arm is not compared with itself; name another, or none"
            )
        Reader(where, fill=True).read(dict(arm.degrade), Degradation, f"arms.{name}.degrade")
    if study.ablate is not None:
        _known(where, "ablate.arms", "arm", study.ablate.arms, study.arms)
    if study.sweep is not None:
        _known(where, "sweep.arm", "arm", [study.sweep.arm], study.arms)
        _known(where, "sweep.scenes", "scene", study.sweep.scenes, study.scenes)
        _known(where, "sweep.also", "arm", study.sweep.also, study.arms)
        _known(where, "sweep.metric", "metric", [study.sweep.metric], DIRECTION)
    for name, options in study.degradations.items():
        Reader(where, fill=True).read(dict(options), Degradation, f"degradations.{name}")


def _check_claims(study: Study, where: str) -> None:
    """The same for claims, which may name ablations too."""
    for number, claim in enumerate(study.claims, start=1):
        key = f"claims, the {number}."
        _known(where, key, "arm", [claim.better, claim.than, *claim.curve], study.arms)
        _known(where, key, "metric", claim.named, DIRECTION)
        asked = claim.metrics_at_least
        if asked is not None and not 1 <= asked <= len(claim.judged):
            raise UserError(f"{where}: '{key}': metrics_at_least = {asked}; expected 1 to {len(claim.judged)}")
        for guard in claim.guards:
            if guard.margin < 0:
                raise UserError(
                    f"{where}: '{key}': guard of {guard.metric}: margin = {guard.margin:g}; expected 0 or more"
                )
        _known(where, key, "scene", claim.scenes, study.scenes)
        _known(where, key, "degradation", [claim.degradation], study.degradations)


def _known(where: str, key: str, kind: str, names: Iterable[str | None], choices: Iterable[str]) -> None:
    for name in names:
        if name is not None and name not in choices:
            raise UserError(f"{where}: '{key}': no {kind} named '{name}'{did_you_mean(name, choices)}")


def _check_numbers(study: Study, where: str) -> None:
    def expect(true: bool, key: str, stands: Any, expected: str) -> None:
        if not true:
            raise UserError(f"{where}: '{key}' is {json.dumps(stands)}; expected {expected}")

    if study.steps is not None or study.seconds is not None:
        try:
            Budget(study.steps, study.seconds)
        except UserError:
            said = f"steps = {study.steps}, seconds = {study.seconds}"
            raise UserError(
                f"{where}: the budget is {said}; expected one of them, a positive number, or neither"
            ) from None
    seeds = study.seeds
    fine = len(set(seeds)) == len(seeds) > 0 and min(seeds) >= 0
    expect(fine, "seeds", list(seeds), "a count of at least 1, or a list of different whole numbers from 0")
    expect(study.threads >= 1, "threads", study.threads, "at least 1")
    expect(study.snapshots >= 0, "snapshots", study.snapshots, "0 or more")
    expect(len(study.metrics) > 0, "metrics", [], "at least one; the first is the headline")
    expect(bool(re.search(r"\w", study.name)), "name", study.name, "a name that a folder can have")
    for name, arm in study.arms.items():
        expect(0 <= arm.sharpen < float("inf"), f"arms.{name}.sharpen", arm.sharpen, "0 or more")
        for key, refine in (("refine", arm.refine), ("follow", arm.follow)):
            steps = None if refine is None else refine.steps
            expect(steps is None or steps >= 1, f"arms.{name}.{key}.steps", steps, "at least 1")
        expect(not (arm.refine and arm.sharpen), f"arms.{name}.sharpen", arm.sharpen, "0 where pictures are refined")
        in_steps = arm.follow is None or study.seconds is None
        expect(in_steps, "seconds", study.seconds, f"a budget in steps, of which arm '{name}' follows after half")
    sweep = study.sweep
    if sweep is None:
        return
    fine = set(sweep.seeds) <= set(seeds)
    expect(fine, "sweep.seeds", list(sweep.seeds), f"some of the study's seeds, {', '.join(map(str, seeds))}")
    expect(len(sweep.values) > 0, "sweep.values", {}, "at least one setting with its values")
    expect(sweep.draws >= 1, "sweep.draws", sweep.draws, "at least 1")
    for key, values in sweep.values.items():
        place = f"sweep.values.{key}"
        if not isinstance(values, Range):
            expect(len(values) > 0, place, [], "at least one value")
            continue
        ends = {"low": values.low, "high": values.high, "log": values.log}
        expect(sweep.how == "random", place, ends, 'a list of values, or how = "random" to draw from a range')
        fine = values.low < values.high and (values.low > 0 or not values.log)
        expect(fine, place, ends, "low < high, and with log = true both positive")

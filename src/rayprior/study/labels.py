"""A study of labels: which source of matching pixels is right, and which one teaches descriptors best.

A TOML file with a table [objects] says it. Jobs come in two stages. Stage A, an object at a seed: a field is trained,
and every source of labels is asked for the same pixels, whose matches are known. Stage B, an arm on an object at a
seed: a descriptor network is trained on the pool of pairs that stage A drew from the arm's source, and finds pairs of
held-out photographs. Errors of all pixels are kept beside the rows: claims are judged on them (`study.labels_claims`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import field as default
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any, Literal

from rayprior.descriptors.sources import SOURCES
from rayprior.errors import UserError, did_you_mean
from rayprior.methods import recipe_from
from rayprior.plain import Reader, to_plain
from rayprior.scenes.open import EMBEDDED
from rayprior.scenes.synthetic import synthetic_names
from rayprior.study.jobs import Selection, slug
from rayprior.study.labels_claims import CLAIMS, LABELS, AtChance, GapShrinks, LabelClaim, Lower
from rayprior.study.spec import SCENE_OPTIONS
from rayprior.training.describing import DESCRIBERS, Describing, with_setting
from rayprior.training.recipe import Recipe
from rayprior.training.recipe_json import recipe_hash

DECISIVE = Selection()
CYCLE = "cycle"
Truth = Literal["exact", "depth", "points", "cycle"]


@dataclass(frozen=True)
class Subject:
    """An object that is photographed.

    path         synthetic:NAME, or a capture's folder
    size, views, test_views   of an embedded one: pixels a side, photographs that train, and held-out ones
    options      of a capture, as `load_scene` has them
    truth        who knows its matches: the geometry, depth maps, or tracks of sparse points. 'cycle': nobody does; an
                 error is then how far from a pixel the match of its match lies, and there is no stage B
    twin         the object of the same shape whose surface is matte
    sources      asked on this object instead of the study's
    decisive     else it runs with --all
    """

    path: str
    size: int = 96
    views: int = 52
    test_views: int = 8
    options: Mapping[str, Any] = default(default_factory=dict)
    truth: Truth = "exact"
    twin: str | None = None
    sources: tuple[str, ...] = ()
    decisive: bool = False

    @property
    def embedded(self) -> bool:
        return self.path.startswith(EMBEDDED)


@dataclass(frozen=True)
class Fields:
    """The field of every object and seed: a recipe as it would be typed."""

    recipe: str = "grid"
    set: tuple[str, ...] = ()
    steps: int = 1_500

    def chosen(self) -> Recipe:
        """The recipe, not yet settled. UserError for whatever in it does not exist."""
        return recipe_from(self.recipe, settings=self.set)


@dataclass(frozen=True)
class Labelling:
    """Stage A.

    sources    names of SOURCES; 'draw+cycle' is 'draw', kept where the match of the match is the pixel again
    cycle_px   within so many pixels
    pixels     of the object, in pairs of training views, whose matches every source is asked for
    within_px  how near a match must be to count as right: the metric that decides beside the mean error
    pool       pairs that a descriptor network is trained on, as many from every source
    """

    sources: tuple[str, ...] = ("draw+cycle", "stereo")
    cycle_px: float = 2.0
    pixels: int = 10_000
    within_px: float = 1.0
    pool: int = 20_000


@dataclass(frozen=True)
class Descriptors:
    """Stage B.

    recipe, set, steps   of the network and its training
    width      of the pictures in pixels: they are made smaller to it, and pairs with them
    pairs      true matches in pairs of held-out photographs, to be found
    within_px  how near a match must be found to count as right
    """

    recipe: str = "describer"
    set: tuple[str, ...] = ()
    steps: int = 1_500
    width: int = 64
    pairs: int = 1_000
    within_px: float = 2.0


@dataclass(frozen=True)
class DescriptorArm:
    """What a network learns from.

    labels    the source of its pool
    twins     the pool is that of the object's matte twin, whose shape and cameras are the same: a control
    shuffled  targets are exchanged among the pixels of a view: a control, from which nothing can be learned
    set       settings beside those of the study
    objects   only on these; empty: on all
    decisive  else it runs with --all
    """

    labels: str
    twins: bool = False
    shuffled: bool = False
    set: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    decisive: bool = False


@dataclass(frozen=True)
class LabelStudy:
    """All that a study's file says. root: the folder that captures' paths start from."""

    name: str
    objects: Mapping[str, Subject]
    arms: Mapping[str, DescriptorArm] = default(default_factory=dict)
    about: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int = 1
    fields: Fields = default(default_factory=Fields)
    labels: Labelling = default(default_factory=Labelling)
    descriptors: Descriptors = default(default_factory=Descriptors)
    claims: tuple[LabelClaim, ...] = ()
    root: str = ""

    def source_of(self, name: str) -> str:
        """Where an object's scene is: synthetic:NAME or a path."""
        subject = self.objects[name]
        return subject.path if subject.embedded else os.path.join(self.root, subject.path)

    def asked(self, name: str) -> tuple[str, ...]:
        """The sources whose labels are measured on an object."""
        return self.objects[name].sources or self.labels.sources

    def pooled(self, name: str) -> tuple[str, ...]:
        """The sources that a pool of an object is drawn from: those of its arms, and of the arms of whom it is a twin
        to."""
        own = {arm.labels for arm in self.arms.values() if not arm.twins and self.meets(arm, name)}
        lent = {
            arm.labels
            for arm in self.arms.values()
            for other, subject in self.objects.items()
            if arm.twins and subject.twin == name and self.meets(arm, other)
        }
        return tuple(sorted(own | lent))

    def meets(self, arm: DescriptorArm, name: str) -> bool:
        """Whether an arm is trained on an object."""
        subject = self.objects[name]
        told = subject.truth != "cycle" and (not arm.twins or subject.twin is not None)
        return told and (not arm.objects or name in arm.objects)

    def describing(self, arm: DescriptorArm) -> Describing:
        """How an arm's network is trained. UserError for a setting that does not exist."""
        how = replace(DESCRIBERS[self.descriptors.recipe], steps=self.descriptors.steps)
        for setting in (*self.descriptors.set, *arm.set):
            how = with_setting(how, setting)
        return how


def is_label_study(path: Path) -> bool:
    """Whether a TOML file is a study of labels; False for whatever cannot be read, which others say."""
    try:
        return "objects" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def read_label_study(path: Path, data: Path | None = None) -> LabelStudy:
    """The study of a TOML file, every name in it checked and every recipe made once.

    data  the folder that captures' paths start from; None: $RAYPRIOR_DATA, else the file's own

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
    if "root" in table:
        raise UserError(f"{path}: unknown key 'root'; the folder of captures is given with --data DIR")
    study: LabelStudy = Reader(str(path), CLAIMS, fill=True).read(table, LabelStudy)
    study = replace(study, root=str(data or os.environ.get("RAYPRIOR_DATA") or path.parent))
    _check(study, str(path))
    return study


def absent_objects(study: LabelStudy) -> tuple[str, ...]:
    """The captures that are not on this machine."""
    return tuple(
        name
        for name, subject in study.objects.items()
        if not subject.embedded and not Path(study.source_of(name)).exists()
    )


def _check(study: LabelStudy, where: str) -> None:
    def expect(true: bool, key: str, stands: Any, expected: str) -> None:
        if not true:
            raise UserError(f"{where}: '{key}' is {dumps(stands)}; expected {expected}")

    def known(key: str, what: str, name: str, choices: Any) -> None:
        if name not in choices:
            raise UserError(f"{where}: '{key}': no {what} named '{name}'{did_you_mean(name, choices)}")

    def a_source(key: str, name: str) -> None:
        base, plus, check = name.partition("+")
        known(key, "source of labels", base, SOURCES)
        expect(not plus or check == CYCLE, key, name, f"{base}, or {base}+{CYCLE}")

    seeds = study.seeds
    fine = len(set(seeds)) == len(seeds) > 0 and min(seeds) >= 0
    expect(fine, "seeds", list(seeds), "a count of at least 1, or a list of different whole numbers from 0")
    expect(bool(slug(study.name)), "name", study.name, "a name that a folder can have")
    expect(len(study.objects) > 0, "objects", {}, "at least one table [objects.NAME]")
    for key, number in {
        "threads": study.threads,
        "fields.steps": study.fields.steps,
        "labels.cycle_px": study.labels.cycle_px,
        "labels.pixels": study.labels.pixels,
        "labels.within_px": study.labels.within_px,
        "labels.pool": study.labels.pool,
        "descriptors.steps": study.descriptors.steps,
        "descriptors.width": study.descriptors.width,
        "descriptors.pairs": study.descriptors.pairs,
        "descriptors.within_px": study.descriptors.within_px,
    }.items():
        expect(number > 0, key, number, "a positive number")
    expect(len(study.labels.sources) > 0, "labels.sources", [], f"some of {', '.join(SOURCES)}")
    for source in study.labels.sources:
        a_source("labels.sources", source)
    for name, subject in study.objects.items():
        _check_object(study, name, subject, expect, known, a_source)
    try:
        study.fields.chosen()
    except UserError as error:
        raise UserError(f"{where}: [fields]: {error}") from None
    known("descriptors.recipe", "recipe of descriptors", study.descriptors.recipe, DESCRIBERS)
    for name, arm in study.arms.items():
        expect(name != LABELS, f"arms.{name}", name, f"another name: '{LABELS}' is stage A")
        a_source(f"arms.{name}.labels", arm.labels)
        for other in arm.objects:
            known(f"arms.{name}.objects", "object", other, study.objects)
            expect(study.meets(arm, other), f"arms.{name}.objects", other, "objects with a truth, and a twin for twins")
        try:
            study.describing(arm)
        except UserError as error:
            raise UserError(f"{where}: arm '{name}': {error}") from None
    for number, claim in enumerate(study.claims, start=1):
        _check_claim(study, claim, f"claims, the {number}.", expect, known)


def _check_object(study: LabelStudy, name: str, subject: Subject, expect: Any, known: Any, a_source: Any) -> None:
    key = f"objects.{name}"
    if subject.embedded:
        known(f"{key}.path", "embedded scene", subject.path.removeprefix(EMBEDDED), synthetic_names())
        expect(not subject.options, f"{key}.options", dict(subject.options), "none: they are for captures")
    else:
        expect(
            subject.truth != "exact", f"{key}.truth", "exact", "depth, points or cycle: only embedded scenes are exact"
        )
        for option in subject.options:
            known(f"{key}.options", "option", option, SCENE_OPTIONS)
    for part in ("size", "views", "test_views"):
        least = {"size": 8, "views": 2, "test_views": 2}[part]
        expect(getattr(subject, part) >= least, f"{key}.{part}", getattr(subject, part), f"at least {least}")
    if subject.twin is not None:
        known(f"{key}.twin", "object", subject.twin, study.objects)
        twin = study.objects[subject.twin]
        same = [(s.size, s.views, s.test_views) for s in (subject, twin)]
        expect(subject.twin != name and same[0] == same[1], f"{key}.twin", subject.twin, "another, photographed alike")
    for source in subject.sources:
        a_source(f"{key}.sources", source)
    circular = subject.truth != "exact" and any(s.partition("+")[0] == subject.truth for s in study.asked(name))
    expect(not circular, f"{key}.truth", subject.truth, "a truth that is not itself among the sources")


def _check_claim(study: LabelStudy, claim: LabelClaim, key: str, expect: Any, known: Any) -> None:
    """Every arm, source and object that is named is one of the study's."""
    for name in claim.objects:
        known(key, "object", name, study.objects)
    arms = [claim.arm] if isinstance(claim, AtChance) else [claim.better, claim.than]
    on_labels = not isinstance(claim, AtChance) and claim.on == LABELS
    for arm in arms:
        known(key, "source" if on_labels else "arm", arm, study.labels.sources if on_labels else study.arms)
    judged = claim.objects or shiny(study)
    expect(len(judged) > 0, f"{key} objects", [], "some, since no object has a twin")
    if isinstance(claim, GapShrinks):
        has = all(study.objects[name].twin for name in judged)
        expect(has, f"{key} objects", list(judged), "objects that have a twin")
    if isinstance(claim, Lower):
        expect(0 < claim.at_most <= 1, f"{key} at_most", claim.at_most, "a share of the error of `than`, up to 1")


def shiny(study: LabelStudy) -> tuple[str, ...]:
    """The objects that have a matte twin: what claims are about that name none."""
    return tuple(name for name, subject in study.objects.items() if subject.twin is not None)


# -- jobs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelJob:
    """Stage A of an object at a seed. run: the field's own key, so that what is asked of it may change without training
    anew."""

    key: str
    run: str
    study: LabelStudy
    scene: str
    seed: int
    arm: str = LABELS

    @property
    def threads(self) -> int:
        return self.study.threads


@dataclass(frozen=True)
class DescriptorJob:
    """An arm on an object at a seed. pool: the key of the stage A job whose pool it learns from."""

    key: str
    study: LabelStudy
    arm: str
    scene: str
    seed: int
    pool: str

    @property
    def threads(self) -> int:
        return self.study.threads


def label_jobs(study: LabelStudy, selection: Selection = DECISIVE) -> tuple[LabelJob, ...]:
    """Stage A of the selected objects, all seeds of one together: a worker then opens each object once."""
    return tuple(_label_job(study, name, seed) for name in selected_objects(study, selection) for seed in study.seeds)


def descriptor_jobs(study: LabelStudy, selection: Selection = DECISIVE) -> tuple[DescriptorJob, ...]:
    """Stage B of the selected objects and arms; it needs stage A's pools."""
    found = []
    for name in selected_objects(study, selection):
        for seed in study.seeds:
            for label in selected_arms(study, selection):
                arm = study.arms[label]
                if not study.meets(arm, name):
                    continue
                lender = study.objects[name].twin if arm.twins else name
                assert lender is not None
                pool = _label_job(study, lender, seed).key
                how = [pool, arm.labels, arm.shuffled, study.describing(arm), study.descriptors, study.threads]
                key = _key(name, label, seed, _data(study, name), how)
                found.append(DescriptorJob(key, study, label, name, seed, pool))
    return tuple(found)


def selected_objects(study: LabelStudy, selection: Selection) -> tuple[str, ...]:
    """The decisive ones, or all where none is marked or all are asked for; each with its twin, without absent ones."""
    decisive = [name for name, subject in study.objects.items() if subject.decisive]
    chosen = set(study.objects) if selection.all or not decisive else set(decisive)
    chosen |= {twin for name in chosen if (twin := study.objects[name].twin) is not None}
    return tuple(name for name in study.objects if name in chosen and name not in selection.absent)


def selected_arms(study: LabelStudy, selection: Selection) -> tuple[str, ...]:
    """Arms of stage B to run: the typed ones, else the decisive ones, else all. 'labels' alone is stage A alone."""
    for name in selection.only:
        if name not in (*study.arms, LABELS):
            hint = did_you_mean(name, (*study.arms, LABELS))
            raise UserError(f"--only {name}: study '{study.name}' has no such arm{hint}")
    if selection.only:
        return tuple(name for name in study.arms if name in selection.only)
    decisive = tuple(name for name, arm in study.arms.items() if arm.decisive)
    return tuple(study.arms) if selection.all or not decisive else decisive


def _label_job(study: LabelStudy, name: str, seed: int) -> LabelJob:
    training = [recipe_hash(study.fields.chosen()), study.fields.steps, study.threads]
    run = _key(name, "field", seed, _data(study, name), training)
    asked = _digest([study.labels, study.asked(name), study.pooled(name), study.objects[name].truth])
    return LabelJob(f"{run}-{asked}", run, study, name, seed)


def _data(study: LabelStudy, name: str) -> Any:
    """What decides an object's pictures: where a capture lies does not."""
    subject = study.objects[name]
    return [subject.path, subject.size, subject.views, subject.test_views, subject.options]


def _key(what: str, arm: str, seed: int, *decides: Any) -> str:
    return "--".join(map(slug, [what, arm, f"seed{seed}", _digest([seed, *decides])]))


def _digest(values: Any) -> str:
    return sha256(dumps(to_plain(values), sort_keys=True).encode()).hexdigest()[:8]

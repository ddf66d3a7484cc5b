"""What a study of labels may claim, and how it is judged: on the errors of single pixels, not on means of runs.

Every source and arm was asked for the same pixels of an object, at every seed. So a difference is taken pixel by pixel,
and an object's interval is a bootstrap of two crossed ways (Owen 2007): seeds are drawn anew with replacement, and
pixels, alike for all seeds. Over objects the rule is that of all studies (`statistics.bootstrap`). 'Shown' takes both,
in the mean error and in the share of pixels that are right: errors have heavy tails, and one of the two misleads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, nan
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from rayprior.study.findings import Finding
from rayprior.study.statistics import CONFIDENCE, LEAST_PAIRS, Interval, bootstrap

LABELS, DESCRIPTORS = "labels", "descriptors"
DRAWS = 2_000  # of an object's interval
ERROR, RIGHT = "mean error, px", "share right"
METRICS = (ERROR, RIGHT)


@dataclass(frozen=True)
class Lower:
    """The errors of `better` are below those of `than`.

    on       labels: end-point errors of two sources, at equal coverage; descriptors: of matches that two arms find
    objects  of these; empty: of those that have a twin
    at_most  the mean error of `better` is besides at most this share of that of `than`
    """

    text: str
    better: str
    than: str
    on: Literal["labels", "descriptors"] = DESCRIPTORS
    objects: tuple[str, ...] = ()
    at_most: float = 1.0


@dataclass(frozen=True)
class GapShrinks:
    """What `better` gains over `than` is less on the matte twins: a difference of differences."""

    text: str
    better: str
    than: str
    on: Literal["labels", "descriptors"] = DESCRIPTORS
    objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class AtChance:
    """`arm` is right no more often than a pixel drawn from the object's mask, by less than `margin`: a control."""

    text: str
    arm: str
    objects: tuple[str, ...] = ()
    margin: float = 0.05


LabelClaim = Lower | GapShrinks | AtChance
CLAIMS: dict[type, str] = {Lower: "lower", GapShrinks: "gap_shrinks", AtChance: "at_chance"}


@dataclass(frozen=True, eq=False)
class Errors:
    """Of one source or arm, on one object at one seed, of every pixel that was asked for.

    error   distance in pixels to the true match; nan: none was given
    weight  how sure the source was; what covers less is compared with the surest of what covers more
    chance  the error of a pixel that was drawn from the mask instead; empty where none was
    """

    error: Float[np.ndarray, "p"]
    weight: Float[np.ndarray, "p"]
    chance: Float[np.ndarray, "p"]

    @property
    def coverage(self) -> float:
        return float(np.isfinite(self.error).mean()) if len(self.error) else nan

    def surest(self, share: float) -> Bool[np.ndarray, "p"]:
        """Which pixels are kept where only this share of all may be: the surest that have a match; ties by lot."""
        count = min(round(share * len(self.error)), int(np.isfinite(self.error).sum()))
        lots = np.random.default_rng(0).random(len(self.error))
        order = np.lexsort((lots, np.where(np.isfinite(self.error), -self.weight, np.inf)))
        kept = np.zeros(len(self.error), dtype=bool)
        kept[order[:count]] = True
        return kept


Measured = Mapping[str, Mapping[str, Mapping[int, Errors]]]  # source or arm -> object -> seed -> errors


@dataclass(frozen=True)
class Evidence:
    """All that claims are judged on. shiny: objects that have a twin; within_px: a match that is right, by stage."""

    labels: Measured
    descriptors: Measured
    twins: Mapping[str, str]
    within_px: Mapping[str, float]

    def of(self, on: str) -> Measured:
        return self.labels if on == LABELS else self.descriptors


def numbers(errors: Errors, width: int, kept: Bool[np.ndarray, "p"] | None = None) -> dict[str, float | None]:
    """Mean and median error in pixels, shares below 1 px, 2 px and 1 % of the width (below: less than), coverage.

    kept  of these pixels alone; None: of all that have a match
    """
    chosen = np.isfinite(errors.error) if kept is None else kept
    found = errors.error[chosen]
    if not len(found):
        return {"coverage": errors.coverage, "pixels": 0}
    return {
        "error_px": float(found.mean()),
        "median_px": float(np.median(found)),
        "pck_1px": float((found < 1).mean()),
        "pck_2px": float((found < 2).mean()),
        "pck_1%": float((found < width / 100).mean()),
        "coverage": errors.coverage,
        "pixels": len(found),
    }


def judge(claim: LabelClaim, evidence: Evidence) -> Finding:
    """What the errors show of a claim."""
    return _JUDGES[type(claim)](claim, evidence)


# -- intervals ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Part:
    """A mean over kept pixels, which counts `times`: +1 and -1 make a difference."""

    times: float
    value: Float[np.ndarray, "p"]
    kept: Bool[np.ndarray, "p"]

    @property
    def mean(self) -> float:
        return float(self.value[self.kept].mean()) if self.kept.any() else nan


def contrast(parts: Sequence[Part]) -> float:
    """The sum of the means, each as often as it counts."""
    return sum(part.times * part.mean for part in parts)


def crossed(parts: Mapping[int, Sequence[Part]], draws: int = DRAWS) -> Interval:
    """A contrast's mean over seeds, with its interval when seeds and pixels are both drawn anew: every pixel as often
    as a Poisson number of mean 1 says (Hanley & MacGibbon 2006), and as often in all seeds.

    parts  by seed. Every part has as many pixels; where one keeps none, there is no interval
    """
    means = [contrast(found) for found in parts.values()]
    if not means or not all(map(isfinite, means)):
        return Interval(nan, nan, nan, 0)
    count = len(next(iter(parts.values()))[0].value)
    drawn = np.empty((draws, len(parts)))
    columns = [_columns(found) for found in parts.values()]
    times = [[part.times for part in found] for found in parts.values()]
    random = np.random.default_rng(1)
    start = 0
    for block in _weights(count, draws):
        for seed, (sums, kept) in enumerate(columns):
            with np.errstate(invalid="ignore", divide="ignore"):
                of_parts = (block @ sums) / (block @ kept)  # (draws, parts)
            drawn[start : start + len(block), seed] = of_parts @ np.asarray(times[seed])
        start += len(block)
    seeds = random.integers(len(parts), size=(draws, len(parts)))
    tail = 100 * (1 - CONFIDENCE) / 2
    found = np.take_along_axis(drawn, seeds, axis=1).mean(axis=1)
    low, high = np.nanpercentile(found, (tail, 100 - tail)).tolist()
    return Interval(float(np.mean(means)), low, high, len(means))


def _columns(parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """Values where kept, else 0; and 1 where kept: (pixels, parts) each."""
    kept = np.stack([part.kept for part in parts], axis=1)
    values = np.stack([np.where(part.kept, part.value, 0.0) for part in parts], axis=1)
    return values.astype(np.float32), kept.astype(np.float32)


@lru_cache(maxsize=2)
def _weights(pixels: int, draws: int, at_once: int = 250) -> tuple[Float[np.ndarray, "d p"], ...]:
    """How often each pixel is drawn: the same in all comparisons of as many pixels."""
    random = np.random.default_rng(0)
    table = random.poisson(1.0, size=(draws, pixels)).astype(np.float32)
    return tuple(table[start : start + at_once] for start in range(0, draws, at_once))


# -- judgements --------------------------------------------------------------------------------------------------------


Gains = dict[str, dict[int, Sequence[Part]]]  # by object and seed; positive sums are gains


def gains(evidence: Evidence, on: str, better: str, than: str, objects: Sequence[str], metric: str) -> Gains:
    """By how much `better` is better than `than`, for each object and seed that both have."""
    ours, theirs = (evidence.of(on).get(name, {}) for name in (better, than))
    found: Gains = {}
    for name in objects:
        for seed in ours.get(name, {}).keys() & theirs.get(name, {}).keys():
            parts = _difference(ours[name][seed], theirs[name][seed], metric, evidence.within_px[on])
            found.setdefault(name, {})[seed] = parts
    return {name: dict(sorted(seeds.items())) for name, seeds in found.items()}


def _difference(ours: Errors, theirs: Errors, metric: str, within_px: float) -> tuple[Part, Part]:
    """At equal coverage: each keeps as many pixels as the one that covers less."""
    share = min(ours.coverage, theirs.coverage)
    better, than = (Part(1.0, _value(e, metric, within_px), e.surest(share)) for e in (ours, theirs))
    sign = -1.0 if metric == ERROR else 1.0
    return Part(sign, better.value, better.kept), Part(-sign, than.value, than.kept)


def _value(errors: Errors, metric: str, within_px: float) -> Float[np.ndarray, "p"]:
    return errors.error if metric == ERROR else (errors.error < within_px).astype(float)


def _lower(claim: Lower, evidence: Evidence) -> Finding:
    objects = claim.objects or tuple(evidence.twins)
    found = {metric: gains(evidence, claim.on, claim.better, claim.than, objects, metric) for metric in METRICS}
    if not found[ERROR]:
        return _missing(claim.text, evidence, claim.on, (claim.better, claim.than))
    ours, theirs = (
        float(np.mean([np.mean([parts[i].mean for parts in seeds.values()]) for seeds in found[ERROR].values()]))
        for i in (0, 1)
    )
    share = ours / theirs if theirs else nan
    said = (
        f"{claim.on}{_coverage(claim.on)}: mean error {claim.better} {ours:.3g} px, {claim.than} {theirs:.3g} px "
        f"({share:.2f} of it)"
    )
    missed = claim.at_most < 1 and not share <= claim.at_most
    above = (f"the error is {share:.2f} of the other's, above {claim.at_most:g}",) if missed else ()
    return _finding(claim.text, said, found, objects, above)


def _gap_shrinks(claim: GapShrinks, evidence: Evidence) -> Finding:
    objects = claim.objects or tuple(evidence.twins)
    twins = [evidence.twins[name] for name in objects]
    found: dict[str, Gains] = {}
    for metric in METRICS:
        here = gains(evidence, claim.on, claim.better, claim.than, objects, metric)
        there = gains(evidence, claim.on, claim.better, claim.than, twins, metric)
        found[metric] = {}
        for name, twin in zip(objects, twins, strict=True):
            for seed in here.get(name, {}).keys() & there.get(twin, {}).keys():
                minus = tuple(Part(-part.times, part.value, part.kept) for part in there[twin][seed])
                found[metric].setdefault(name, {})[seed] = (*here[name][seed], *minus)
    if not found[ERROR]:
        return _missing(claim.text, evidence, claim.on, (claim.better, claim.than))
    said = f"{claim.on}{_coverage(claim.on)}: what {claim.better} gains over {claim.than}, shiny minus matte"
    return _finding(claim.text, said, found, objects)


def _at_chance(claim: AtChance, evidence: Evidence) -> Finding:
    objects = claim.objects or tuple(evidence.twins)
    within, arm = evidence.within_px[DESCRIPTORS], evidence.descriptors.get(claim.arm, {})
    left: Gains = {}
    for name in objects:
        for seed, errors in arm.get(name, {}).items():
            if len(errors.chance):
                every = np.ones(len(errors.error), dtype=bool)
                room = Part(1.0, np.full(len(errors.error), claim.margin), every)
                right = (errors.error < within).astype(float)
                lucky = (errors.chance < within).astype(float)
                left.setdefault(name, {})[seed] = (room, Part(-1.0, right, every), Part(1.0, lucky, every))
    if not left:
        return _missing(claim.text, evidence, DESCRIPTORS, (claim.arm,))
    right, lucky = (
        float(np.mean([np.mean([parts[i].mean for parts in seeds.values()]) for seeds in left.values()]))
        for i in (1, 2)
    )
    said = f"{claim.arm} is right for {right:.1%}, a pixel drawn from the mask for {lucky:.1%}"
    return _finding(claim.text, said, {f"left of a margin of {claim.margin:g}": left}, objects)


_JUDGES: dict[type, Callable[[Any, Evidence], Finding]] = {
    Lower: _lower,
    GapShrinks: _gap_shrinks,
    AtChance: _at_chance,
}


def _finding(
    text: str, said: str, found: Mapping[str, Gains], objects: Sequence[str], reasons: Sequence[str] = ()
) -> Finding:
    """Shown where every metric's gain is, over objects and on each, and nothing else speaks against it."""
    pooled, why, each = {}, list(reasons), []
    for metric, of_objects in found.items():
        values = {n: {k: contrast(parts) for k, parts in seeds.items()} for n, seeds in of_objects.items()}
        known = {n: {k: v for k, v in seeds.items() if isfinite(v)} for n, seeds in values.items()}
        gain = pooled[metric] = bootstrap(known)
        if gain.pairs < LEAST_PAIRS:
            why.append(f"{metric}: {gain.pairs} pair{'s' * (gain.pairs != 1)}, {LEAST_PAIRS} at least are needed")
        elif not gain.above:
            why.append(f"{metric}: the interval {'is on the worse side of' if gain.below else 'holds'} 0")
        single = {name: crossed(seeds) for name, seeds in of_objects.items()}
        each.append(f"{metric} {signed(gain)}, by object " + ", ".join(f"{n} {signed(i)}" for n, i in single.items()))
        failing = [name for name in objects if name not in single or not single[name].above]
        if failing:
            why.append(f"{metric}: not on {', '.join(failing)} alone")
    return Finding(text, not why, f"{said}. {'; '.join(each)}.", pooled, tuple(why))


def _coverage(on: str) -> str:
    return " at equal coverage" if on == LABELS else ""


def _missing(text: str, evidence: Evidence, on: str, names: Sequence[str]) -> Finding:
    absent = [name for name in names if not evidence.of(on).get(name)] or list(names)
    said = f"{', '.join(absent)}: no numbers for it."
    return Finding(text, False, said, {}, (f"{', '.join(absent)} was not run, or not on the same objects and seeds",))


def signed(gain: Interval) -> str:
    """+0.12 [+0.08, +0.16]."""
    if gain.pairs == 0:
        return "none"
    ends = f" [{gain.low:+.3g}, {gain.high:+.3g}]" if isfinite(gain.low) else ""
    return f"{gain.mean:+.3g}{ends}"

"""Statistics: what rows show. Paired differences, their bootstrap intervals, verdicts, effects of factors, collapse.

Two runs are a pair if they share scene, degradation and seed: then they saw the same photographed rays and the same
test views, and differ in their arm alone. A claim is judged on differences within pairs, never on the means of arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise, product
from math import isfinite, nan, prod

import numpy as np
from jaxtyping import Float

from rayprior.errors import UserError, did_you_mean
from rayprior.study.rows import DIRECTION, Row
from rayprior.study.spec import Claim

DRAWS = 10_000
CONFIDENCE = 0.95
# Fewer pairs all fall on one side of 0 by chance too often (4 of them one time in 8, 5 one time in 16), and a bootstrap
# interval, which never reaches beyond its pairs, then excludes 0.
LEAST_PAIRS = 5
SAME_DB = 0.05  # PSNR that counts as the same
COLLAPSED_DB = 10.0  # a test PSNR below this is no picture of the scene
OF_THE_RUN = ("seconds", "steps", "peak_mb")  # numbers of a row beside its metrics

Values = Mapping[str, Mapping[int, float]]  # scene -> seed -> value
Cell = tuple[str, str, int]  # scene, degradation, seed


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval. Fewer than two pairs have no interval: low and high are nan."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def above(self) -> bool:
        """Wholly above 0."""
        return self.low > 0

    @property
    def below(self) -> bool:
        """Wholly below 0."""
        return self.high < 0

    def times(self, sign: int) -> Interval:
        """The same with the sign of the difference turned, for sign -1."""
        return self if sign > 0 else Interval(-self.mean, -self.high, -self.low, self.pairs)


@dataclass(frozen=True)
class Pairs:
    """Differences a - b within pairs. reference: b's values, alike. unpaired: a sentence for each run without partner;
    lacking: the scenes on which neither arm has the metric."""

    values: Values
    reference: Values
    unpaired: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it. gain: the paired difference, positive where the claim's arm is the better one;
    minimum: what its mean had to pass; guards: gains of the metrics that were not to become worse; reasons: why not.
    Where several metrics decide, `metric`, `gain` and `minimum` are of the first, and `others` has the gains in the
    rest."""

    text: str
    metric: str
    shown: bool
    gain: Interval
    minimum: float
    guards: Mapping[str, Interval]
    reasons: tuple[str, ...]
    unpaired: tuple[str, ...] = ()
    others: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def word(self) -> str:
        return "shown" if self.shown else "not shown"

    @property
    def worse(self) -> bool:
        """Shown to be the other way round."""
        return self.gain.below and self.gain.pairs >= LEAST_PAIRS


@dataclass(frozen=True)
class Effect:
    """What a factor (one name) or an interaction (several) changes in a metric."""

    factors: tuple[str, ...]
    interval: Interval


# -- values and pairs --------------------------------------------------------------------------------------------------


def direction(metric: str) -> int:
    """1 where larger is better, -1 where smaller is. UserError for a metric that does not exist."""
    if metric not in DIRECTION:
        raise UserError(f"no metric named '{metric}'{did_you_mean(metric, DIRECTION)}")
    return DIRECTION[metric]


def value(row: Row, metric: str, control: Row | None = None) -> float | None:
    """A row's number; None where it has none, or one that is not finite. 'steps_to_reach' needs the control's row."""
    if metric == "steps_to_reach":
        return None if control is None else steps_to_reach(row, control)
    number = getattr(row, metric) if metric in OF_THE_RUN else row.metrics.get(metric)
    if metric in OF_THE_RUN and not number:  # 0: not measured
        return None
    if metric == "seconds":
        number = row.seconds + row.refining
    return float(number) if number is not None and isfinite(number) else None


def cells(rows: Iterable[Row], arm: str) -> dict[Cell, Row]:
    """The rows of an arm, by what they are paired on; where a job was run again, its last row counts."""
    return {(row.scene, row.degradation, row.seed): row for row in rows if row.arm == arm}


def paired(
    rows: Sequence[Row], arm: str, control: str, metric: str, scenes: Sequence[str] = (), degradation: str | None = None
) -> Pairs:
    """Differences arm - control of a metric, for each scene and seed; over several degradations their mean.

    scenes: only these, all where there are none. degradation: only this one.

    Raises:
        UserError: no such metric.
    """
    direction(metric)
    wanted = [r for r in rows if (not scenes or r.scene in scenes) and degradation in (None, r.degradation)]
    ours, theirs = cells(wanted, arm), cells(wanted, control)
    absent = [name for name, there in ((arm, ours), (control, theirs)) if not there]
    if absent:
        return Pairs({}, {}, tuple(f"{name}: no run" for name in absent))
    differences: dict[str, dict[int, list[tuple[float, float]]]] = {}
    unpaired, lacking = [], []
    for cell in dict.fromkeys([*theirs, *ours]):
        a, b = ours.get(cell), theirs.get(cell)
        x, y = (None if row is None or not row.done else value(row, metric, b) for row in (a, b))
        if x is not None and y is not None:
            differences.setdefault(cell[0], {}).setdefault(cell[2], []).append((x - y, y))
        elif a is not None and b is not None and a.done and b.done and x is None and y is None:
            lacking.append(cell[0])
        else:
            unpaired += [_why(name, row, cell, metric) for name, row, z in ((arm, a, x), (control, b, y)) if z is None]
    means = {s: {k: np.mean(v, axis=0) for k, v in seeds.items()} for s, seeds in differences.items()}
    return Pairs(
        {s: {k: float(v[0]) for k, v in seeds.items()} for s, seeds in means.items()},
        {s: {k: float(v[1]) for k, v in seeds.items()} for s, seeds in means.items()},
        tuple(unpaired),
        tuple(dict.fromkeys(lacking)),
    )


def _why(arm: str, row: Row | None, cell: Cell, metric: str) -> str:
    """Why a run is no half of a pair."""
    scene, degradation, seed = cell
    where = f"{arm} on {scene}{f', {degradation}' if degradation != 'none' else ''}, seed {seed}"
    if row is None:
        return f"{where}: no row"
    return f"{where}: failed ({row.error})" if not row.done else f"{where}: no {metric}"


# -- intervals ---------------------------------------------------------------------------------------------------------


def bootstrap(values: Values, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean over scenes of the means over seeds, and its 95 % percentile interval (Efron 1979) when scenes, and
    then the seeds of each, are drawn anew with replacement. `seed` makes it the same every time."""
    table = [list(seeds.values()) for seeds in values.values() if seeds]
    pairs = sum(map(len, table))
    if not table:
        return Interval(nan, nan, nan, 0)
    mean = float(np.mean([np.mean(seeds) for seeds in table]))
    if pairs < 2:
        return Interval(mean, nan, nan, pairs)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(_drawn_means(table, draws, np.random.default_rng(seed)), (tail, 100 - tail)).tolist()
    return Interval(mean, low, high, pairs)


def _drawn_means(table: list[list[float]], draws: int, random: np.random.Generator) -> Float[np.ndarray, "draws"]:
    """The mean of each draw: scenes, then seeds within each."""
    counts = np.array([len(seeds) for seeds in table])
    padded = np.zeros((len(table), counts.max()))
    for row, seeds in zip(padded, table):
        row[: len(seeds)] = seeds
    scene = random.integers(len(table), size=(draws, len(table), 1))
    count = counts[scene]  # (draws, scenes, 1)
    seed = (random.random((draws, len(table), counts.max())) * count).astype(int)
    within = np.arange(counts.max()) < count  # a scene of fewer seeds draws fewer
    return (np.where(within, padded[scene, seed], 0.0).sum(axis=2, keepdims=True) / count).mean(axis=(1, 2))


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def mean_and_spread(values: Values) -> tuple[float | None, float | None]:
    """The mean over scenes of the means over seeds, and the sample standard deviation over seeds of the mean over
    scenes; only seeds that every scene has can say the latter."""
    table = {scene: seeds for scene, seeds in values.items() if seeds}
    if not table:
        return None, None
    shared = set.intersection(*(set(seeds) for seeds in table.values()))
    over_scenes = [float(np.mean([seeds[k] for seeds in table.values()])) for k in sorted(shared)]
    return float(np.mean([np.mean(list(seeds.values())) for seeds in table.values()])), spread(over_scenes)


def collapse_rate(rows: Sequence[Row]) -> float | None:
    """The share of finished runs whose test PSNR is below 10 dB; None where none has a PSNR."""
    found = [psnr for row in rows if row.done and (psnr := value(row, "psnr")) is not None]
    return sum(psnr < COLLAPSED_DB for psnr in found) / len(found) if found else None


# -- claims ------------------------------------------------------------------------------------------------------------


def verdict(claim: Claim, rows: Sequence[Row]) -> Verdict:
    """Judge a claim: 'shown', else 'not shown'.

    Shown is a paired difference of at least five pairs whose interval lies wholly on the better side of 0 and whose
    mean passes the stated minimum, in as many of the claim's metrics as it asks for; if no metric of `not_worse` has
    its interval wholly on the worse side, and that of no guard reaches beyond its margin.

    Raises:
        UserError: no such metric.
    """
    found = {metric: _gain(claim, metric, rows) for metric in claim.judged}
    minima = {metric: _share(claim.at_least, claim.relative, pairs) for metric, (_, pairs) in found.items()}
    failing = {metric: _failings(gain, minima[metric]) for metric, (gain, _) in found.items()}
    failing = {metric: why for metric, why in failing.items() if why}
    passed, needed = len(found) - len(failing), claim.metrics_at_least or len(found)
    reasons = []
    if passed < needed and len(found) == 1:
        reasons = next(iter(failing.values()))
    elif passed < needed:
        said = (f"{metric}: {', '.join(why)}" for metric, why in failing.items())
        reasons = [f"{passed} of {len(found)} metrics, and {needed} were asked for ({'; '.join(said)})"]
    plain = replace(claim, curve=())  # what may not become worse is compared with the arm itself
    guards = {metric: _gain(plain, metric, rows)[0] for metric in claim.not_worse}
    for metric, guard in guards.items():
        if guard.pairs < 2:
            reasons.append(f"{metric}: fewer than two pairs, so that it is not worse cannot be said")
        elif guard.below:
            reasons.append(f"{metric} is worse")
    for limit in claim.guards:
        guard, pairs = _gain(plain, limit.metric, rows)
        margin = _share(limit.margin, limit.relative, pairs)
        guards[limit.metric] = guard
        if guard.pairs < 2:
            reasons.append(f"{limit.metric}: fewer than two pairs, so how much worse it may be cannot be said")
        elif not guard.low >= -margin:
            reasons.append(f"{limit.metric} may be worse by {-guard.low:.3g}, and {margin:.3g} is allowed")
    metric, *others = claim.judged
    gain, pairs = found[metric]
    return Verdict(
        claim.text, metric, not reasons, gain, minima[metric], guards, tuple(reasons), pairs.unpaired,
        {name: found[name][0] for name in others},
    )  # fmt: skip


def _failings(gain: Interval, minimum: float) -> list[str]:
    """Why a gain is not shown; empty where it is."""
    reasons = []
    if gain.pairs < LEAST_PAIRS:
        reasons.append(f"{gain.pairs} pair{'s' * (gain.pairs != 1)} of runs: {LEAST_PAIRS} at least are needed")
    if gain.pairs > 1:
        if not gain.above:
            reasons.append("the interval is on the worse side of 0" if gain.below else "the interval holds 0")
        if not gain.mean >= minimum:
            reasons.append(f"the mean gain {gain.mean:.3g} is below {minimum:.3g}")
    return reasons


def _share(amount: float, relative: bool, pairs: Pairs) -> float:
    """An amount, or that share of the reference's mean."""
    if not relative:
        return amount
    level, _ = mean_and_spread(pairs.reference)
    return amount * abs(level) if level is not None else nan


def _gain(claim: Claim, metric: str, rows: Sequence[Row]) -> tuple[Interval, Pairs]:
    where = (claim.scenes, claim.degradation)
    if claim.curve:
        pairs = matched(rows, claim.better, (claim.than, *claim.curve), metric, *where)
    else:
        pairs = paired(rows, claim.better, claim.than, metric, *where)
    return bootstrap(pairs.values).times(direction(metric)), pairs


# -- at the same PSNR --------------------------------------------------------------------------------------------------


def matched(
    rows: Sequence[Row],
    arm: str,
    curve: Sequence[str],
    metric: str,
    scenes: Sequence[str] = (),
    degradation: str | None = None,
) -> Pairs:
    """Differences of a metric between an arm and what a curve of other arms reaches at the arm's own PSNR, for each
    scene and seed. A control that trades PSNR for the metric, as sharpening does, is such a curve.

    PSNR within 0.05 dB is the same. The curve is straight between its arms, in their order, and reaches its best value
    at the arm's PSNR or above; where all of it lies below, its value of the highest PSNR. Where all of it lies above
    there is no pair: how much the curve could still trade is not known.

    Raises:
        UserError: no such metric.
    """
    sign = direction(metric)
    wanted = [r for r in rows if (not scenes or r.scene in scenes) and degradation in (None, r.degradation)]
    ours, theirs = cells(wanted, arm), [cells(wanted, name) for name in curve]
    if not ours:
        return Pairs({}, {}, (f"{arm}: no run",))
    differences: dict[str, dict[int, list[tuple[float, float]]]] = {}
    unpaired: list[str] = []
    for cell, row in ours.items():
        there = [(arm, row), *((name, found.get(cell)) for name, found in zip(curve, theirs))]
        points = [_point(one, metric) for _, one in there]
        if any(point is None for point in points):
            unpaired += [_why(name, one, cell, metric) for (name, one), point in zip(there, points) if point is None]
            continue
        (psnr, number), *others = [point for point in points if point is not None]
        lowest = min(level for level, _ in others)
        if psnr < lowest - SAME_DB:
            unpaired.append(f"{arm} on {cell[0]}, seed {cell[2]}: {psnr:.2f} dB, and the curve ends at {lowest:.2f}")
            continue
        reached = _reached(others, psnr - SAME_DB, sign)
        differences.setdefault(cell[0], {}).setdefault(cell[2], []).append((number - reached, reached))
    means = {s: {k: np.mean(v, axis=0) for k, v in seeds.items()} for s, seeds in differences.items()}
    return Pairs(
        {s: {k: float(v[0]) for k, v in seeds.items()} for s, seeds in means.items()},
        {s: {k: float(v[1]) for k, v in seeds.items()} for s, seeds in means.items()},
        tuple(unpaired),
    )


def _point(row: Row | None, metric: str) -> tuple[float, float] | None:
    """(PSNR, metric) of a run that has both."""
    if row is None or not row.done:
        return None
    psnr, number = value(row, "psnr"), value(row, metric)
    return None if psnr is None or number is None else (psnr, number)


def _reached(curve: Sequence[tuple[float, float]], level: float, sign: int) -> float:
    """The best value on a curve of (PSNR, value), straight between its points, where PSNR is at least `level`; that of
    the highest PSNR where none is. sign: 1 where larger is better, else -1."""
    best = [number for psnr, number in curve if psnr >= level]
    for (p, a), (q, b) in pairwise(curve):
        if (p - level) * (q - level) < 0:
            best.append(a + (b - a) * (level - p) / (q - p))
    return max(best, key=lambda number: sign * number) if best else max(curve)[1]


# -- factorials --------------------------------------------------------------------------------------------------------


def effects(
    arms: Mapping[str, Mapping[str, bool]], rows: Sequence[Row], metric: str, degradation: str | None = None
) -> tuple[tuple[Effect, ...], tuple[str, ...]]:
    """Main effects and interactions of a two-level factorial, each with its interval, and what was left out.

    The contrast of a set of factors is the mean of the corners at which the product of their signs is + minus the mean
    of those at which it is - (Box, Hunter & Hunter 1978, chapter 10): of one factor, how much it changes the metric on
    average over the others; of two, half of how much the one changes the effect of the other. It is taken within each
    scene and seed that has all corners; scenes and seeds are then bootstrapped.

    arms: each arm's factors. All name the same ones, and each corner is one arm.

    Raises:
        UserError: factors that differ between arms, a corner without an arm or with two.
    """
    names = tuple(next(iter(arms.values()), {}))
    corners: dict[tuple[bool, ...], str] = {}
    for arm, factors in arms.items():
        if set(factors) != set(names):
            raise UserError(f"arm '{arm}' has the factors {', '.join(factors)}; expected {', '.join(names)}")
        other = corners.setdefault(tuple(factors[name] for name in names), arm)
        if other != arm:
            raise UserError(f"arms '{other}' and '{arm}' are one corner of the factorial; give them other factors")
    missing = [corner for corner in product((False, True), repeat=len(names)) if corner not in corners]
    if missing:
        said = ", ".join(f"{name} = {str(level).lower()}" for name, level in zip(names, missing[0]))
        raise UserError(f"the factorial has no arm with {said}; add one, or take `factors` from its arms")
    found, left_out = _complete(corners, rows, metric, degradation)
    sets = [chosen for size in range(1, len(names) + 1) for chosen in combinations(range(len(names)), size)]
    return tuple(
        Effect(tuple(names[i] for i in chosen), bootstrap(_contrast(found, chosen, len(corners)))) for chosen in sets
    ), left_out


Corners = Mapping[tuple[bool, ...], float]


def _complete(
    corners: Mapping[tuple[bool, ...], str], rows: Sequence[Row], metric: str, degradation: str | None
) -> tuple[dict[Cell, Corners], tuple[str, ...]]:
    """The metric at every corner, for each cell that has all of them; and why others were left out."""
    direction(metric)
    wanted = [row for row in rows if degradation in (None, row.degradation)]
    of_arm = {corner: cells(wanted, arm) for corner, arm in corners.items()}
    complete, left_out = {}, []
    for cell in dict.fromkeys(cell for there in of_arm.values() for cell in there):
        here = {corner: there.get(cell) for corner, there in of_arm.items()}
        numbers = {c: value(row, metric) if row and row.done else None for c, row in here.items()}
        if all(number is not None for number in numbers.values()):
            complete[cell] = numbers
        elif any(number is not None for number in numbers.values()):
            left_out += [_why(corners[c], here[c], cell, metric) for c, number in numbers.items() if number is None]
    return complete, tuple(left_out)


def _contrast(found: Mapping[Cell, Corners], chosen: Sequence[int], corners: int) -> Values:
    """The contrast of the chosen factors by scene and seed; over several degradations their mean."""
    parts: dict[str, dict[int, list[float]]] = {}
    for (scene, _, seed), numbers in found.items():
        signed = sum(prod(1 if corner[i] else -1 for i in chosen) * number for corner, number in numbers.items())
        parts.setdefault(scene, {}).setdefault(seed, []).append(signed / (corners / 2))
    return {scene: {seed: float(np.mean(v)) for seed, v in seeds.items()} for scene, seeds in parts.items()}


# -- how soon ----------------------------------------------------------------------------------------------------------


def reached_at(at: Sequence[float], psnr: Sequence[float | None], level: float) -> float | None:
    """Where on `at` (steps, seconds, ...) a curve first reaches a level, linear between its points; None: never."""
    known = [(x, y) for x, y in zip(at, psnr) if y is not None]
    for number, (x, y) in enumerate(known):
        if y >= level:
            if number == 0:
                return x
            before, lower = known[number - 1]
            return before + (x - before) * (level - lower) / (y - lower)
    return None


def steps_to_reach(row: Row, control: Row) -> float | None:
    """After which share of the control's steps a run reaches the control's final PSNR: 0.5 is half of them.

    On test views where both have a curve of them, else on the training rays. A run that never does counts with all its
    steps, at least 1: too good for it, so that no claim is won by it. The control's own is 1. None without curves.
    """
    if row is control:
        return 1.0
    if row.test_curve and control.test_curve:
        at, psnr = [share * row.steps for share, _ in row.test_curve], [y for _, y in row.test_curve]
        level = control.test_curve[-1][1]
    elif row.curve and control.curve:
        at, psnr = [step for _, step, _ in row.curve], [y for _, _, y in row.curve]
        level = control.curve[-1][2]
    else:
        return None
    if level is None or not control.steps:
        return None
    steps = reached_at(at, psnr, level)
    return steps / control.steps if steps is not None else max(1.0, row.steps / control.steps)

"""What a study of families may claim, each kind with its own judgement and its own sentence.

An entry of a row's `per_view` is a scene under a condition: {"scene", "views", "shift", "amount", "mse", ...}. Two
entries of one scene and seed are a pair: the same pictures were shown, the same targets asked for. Intervals are those
of `statistics.bootstrap`; 'shown' takes five pairs at least and an interval on the right side of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np

from rayprior.evaluation.uncertainty import INTERVALS
from rayprior.study.findings import Finding
from rayprior.study.rows import Row
from rayprior.study.statistics import LEAST_PAIRS, Interval, Values, bootstrap, mean_and_spread

FIT_KINDS = ("scratch", "entropy", "started")
SANITY = {
    "nearest_view_mse": "nearest view",
    "prior_mean_mse": "middle of the prior",
    "mean_picture_mse": "mean picture",
}
EQUAL = 0.05  # in-distribution errors that differ by less are called equal
COVERS = 0.1  # how far coverage may be from its level

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class FewViews:
    """`better` has a lower error than the per-scene fit `than`, for every number of views up to `at_most`."""

    text: str
    better: str
    than: str = "scratch"
    at_most: int = 3


@dataclass(frozen=True)
class SmallerSlope:
    """The error of `better` rises less with the shift of the cameras than that of `than`.

    shifts: of these; empty: all."""

    text: str
    better: str
    than: str
    shifts: tuple[str, ...] = ()


@dataclass(frozen=True)
class GapClosed:
    """The refinements of `arm` close at least `share` of the gap to the best posterior, which long ascent finds, and
    more than plain ascent with as many renderings does."""

    text: str
    arm: str
    share: float = 0.0


@dataclass(frozen=True)
class Uncertain:
    """The predictive deviation of `arm` knows what was not seen, shrinks with the views shown, and covers the truth."""

    text: str
    arm: str


@dataclass(frozen=True)
class Worth:
    """The error of `arm` with `views` views is below the best of three answers that need no model; `aim`: by this
    share, which is said and decides nothing."""

    text: str
    arm: str
    views: int = 1
    aim: float = 0.25


@dataclass(frozen=True)
class Lower:
    """`better` is lower than `than` in `metric` with `views` views shown: mse, distance_abs_rel, ..."""

    text: str
    better: str
    than: str
    views: int
    metric: str = "mse"


FamilyClaim = FewViews | SmallerSlope | GapClosed | Uncertain | Worth | Lower
CLAIMS: dict[type, str] = {
    FewViews: "few_views",
    SmallerSlope: "shift",
    GapClosed: "refinement",
    Uncertain: "uncertainty",
    Worth: "worth",
    Lower: "lower",
}


def judge(claim: FamilyClaim, rows: Sequence[Row]) -> Finding:
    """What the rows show of a claim."""
    done = [row for row in rows if row.done]
    return _JUDGES[type(claim)](claim, done)


# -- values ------------------------------------------------------------------------------------------------------------


def values(rows: Iterable[Row], arm: str, metric: str, **condition: Any) -> Values:
    """A number of every scene and seed of an arm, where an entry of this condition has it; else nothing.

    condition: `views`, and `shift`, `amount`; without a shift, the training cameras' views."""
    wanted = {"shift": "", **condition}
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        for entry in row.per_view if row.arm == arm else ():
            if entry.get(metric) is not None and all(entry.get(key, "") == value for key, value in wanted.items()):
                found.setdefault(str(entry["scene"]), {})[row.seed] = float(entry[metric])
    return found


def over(rows: Iterable[Row], arm: str, key: str, metric: str, **condition: Any) -> list[Any]:
    """The values of `key` at which an arm has a metric, ascending."""
    wanted = {"shift": "", **condition}
    entries = [entry for row in rows if row.arm == arm for entry in row.per_view]
    return sorted(
        {e[key] for e in entries if e.get(metric) is not None and all(e.get(k, "") == v for k, v in wanted.items())}
    )


def combined(change: Callable[..., float], *several: Values) -> Values:
    """A number made of those of each scene and seed that all have."""
    first = several[0]
    found: dict[str, dict[int, float]] = {}
    for scene, seeds in first.items():
        for seed in seeds:
            if all(seed in other.get(scene, {}) for other in several):
                found.setdefault(scene, {})[seed] = change(*(other[scene][seed] for other in several))
    return found


def minus(a: Values, b: Values) -> Values:
    """Differences within pairs of one scene and seed."""
    return combined(lambda x, y: x - y, a, b)


def level(found: Values) -> float:
    """The mean over scenes of the means over seeds; nan of none."""
    mean = mean_and_spread(found)[0]
    return nan if mean is None else mean


def slopes(rows: Sequence[Row], arm: str, shift: str) -> Values:
    """For each scene and seed how the root mean squared error grows with a shift, as a share of its strongest: the
    slope of a line through the error at 0 and at every strength, by least squares."""
    at = over(rows, arm, "amount", "mse", shift=shift)
    if not at:
        return {}
    shown = over(rows, arm, "views", "mse", shift=shift)[0]
    largest = max(map(abs, at))
    x = np.array([0.0, *(abs(amount) / largest for amount in at)])
    errors = [values(rows, arm, "mse", views=shown)]
    errors += [values(rows, arm, "mse", views=shown, shift=shift, amount=amount) for amount in at]
    return combined(lambda *mse: float(np.polyfit(x, np.sqrt(mse), 1)[0]), *errors)


# -- judgements --------------------------------------------------------------------------------------------------------


def _few_views(claim: FewViews, rows: Sequence[Row]) -> Finding:
    counts = over(rows, claim.than, "views", "mse")
    known = over(rows, claim.better, "views", "mse")
    if not counts or not known:
        return _missing(claim.text, claim.than if known else claim.better)
    gains = {}
    for n in counts:  # beyond what it was shown, an arm has the error of its largest number of views
        ours = values(rows, claim.better, "mse", views=max((k for k in known if k <= n), default=known[0]))
        gains[n] = bootstrap(minus(values(rows, claim.than, "mse", views=n), ours))
    few = {f"n = {n}": gain for n, gain in gains.items() if n <= claim.at_most}
    crossed = next((n for n in counts if all(gains[m].mean < 0 for m in counts if m >= n)), None)
    sure = "" if crossed is None or gains[crossed].below else ", by its mean alone"
    crossover = f"n = {crossed}{sure}" if crossed is not None else f"none up to n = {counts[-1]}"
    said = f"{claim.better} against a fit of each scene ({claim.than}), mean squared error: " + "; ".join(
        f"n = {n} {_signed(gain)}" for n, gain in gains.items()
    )
    return _finding(claim.text, f"{said}. The crossover, from which on the fit is better: {crossover}.", few)


def _shift(claim: SmallerSlope, rows: Sequence[Row]) -> Finding:
    names = claim.shifts or tuple(n for n in over_shifts(rows, claim.better) if n in over_shifts(rows, claim.than))
    if not names:
        return _missing(claim.text, claim.better)
    of = {name: (slopes(rows, claim.better, name), slopes(rows, claim.than, name)) for name in names}
    mean = [combined(lambda *s: sum(s) / len(s), *(pair[i] for pair in of.values())) for i in (0, 1)]
    gain = bootstrap(minus(mean[1], mean[0]))
    each = "; ".join(f"{name} {_signed(bootstrap(minus(theirs, ours)))}" for name, (ours, theirs) in of.items())
    shown = over(rows, claim.better, "views", "mse", shift=names[0])[:1]
    here = [values(rows, arm, "mse", views=shown[0]) if shown else {} for arm in (claim.better, claim.than)]
    ours, theirs = (level(combined(sqrt, found)) for found in here)
    more = ours / theirs - 1 if theirs else nan
    equal = abs(more) <= EQUAL
    said = (
        f"error gained from no shift to the strongest, {claim.than} minus {claim.better}: {_signed(gain)} ({each}). "
        f"Where cameras stand as in training, errors are {ours:.4f} and {theirs:.4f}: "
        + (f"equal within {EQUAL:.0%}." if equal else f"not equal, {claim.better} has {more:+.0%}.")
    )
    worse = () if more <= EQUAL else (f"{claim.better} is worse where it was trained, and flat errors are easy there",)
    return _finding(claim.text, said, {"slope": gain}, worse)


def over_shifts(rows: Sequence[Row], arm: str) -> list[str]:
    """The shifts that an arm was scored under, in the order of the rows."""
    return list(dict.fromkeys(e["shift"] for r in rows if r.arm == arm for e in r.per_view if e.get("shift")))


def _refinement(claim: GapClosed, rows: Sequence[Row]) -> Finding:
    shown = over(rows, claim.arm, "views", "elbo_best")
    if not shown:
        return _missing(claim.text, claim.arm)
    first, refined, plain, best = (
        values(rows, claim.arm, f"elbo_{name}", views=shown[0]) for name in ("first", "refined", "plain", "best")
    )
    gap, closed, by_plain = minus(best, first), minus(refined, first), minus(plain, first)
    share, other = (level(part) / level(gap) if level(gap) > 0 else nan for part in (closed, by_plain))
    gains = {
        "the ELBO after refinement, nats a scene": bootstrap(closed),
        f"more than {claim.share:.0%} of the gap": bootstrap(combined(lambda c, g: c - claim.share * g, closed, gap)),
        "more than plain ascent": bootstrap(minus(refined, plain)),
    }
    said = (
        f"with {_views(shown[0])}, {claim.arm} closes {share:.0%} of a gap of {level(gap):.3g} nats a scene; plain "
        f"ascent with as many renderings {other:.0%}."
    )
    reasons = () if level(gap) > 0 else ("long ascent found nothing better: there is no gap",)
    return _finding(claim.text, said, gains, reasons)


def _uncertainty(claim: Uncertain, rows: Sequence[Row]) -> Finding:
    counts = over(rows, claim.arm, "views", "deviation")
    if len(counts) < 2:
        return _missing(claim.text, claim.arm)
    few, many = counts[0], counts[-1]
    knows = combined(lambda auc: auc - 0.5, values(rows, claim.arm, "auc_unseen", views=few))
    shrinks = minus(*(values(rows, claim.arm, "deviation", views=n) for n in (few, many)))
    gains = {"area under ROC above 0.5": bootstrap(knows), f"deviation, {few} to {many} views": bootstrap(shrinks)}
    covered = {n: {q: level(values(rows, claim.arm, f"coverage_{q}", views=n)) for q in INTERVALS} for n in (few, many)}
    far = tuple(
        f"with {_views(n)} the {q} % interval covers {share:.0%}"
        for n, shares in covered.items()
        for q, share in shares.items()
        if not abs(share - q / 100) <= COVERS
    )
    said = (
        f"area under ROC of unseen surfaces {level(knows) + 0.5:.2f} with {_views(few)}; deviation "
        + ", ".join(f"{level(values(rows, claim.arm, 'deviation', views=n)):.4f} at {n}" for n in counts)
        + f"; intervals of {', '.join(map(str, INTERVALS))} % cover "
        + "; ".join(f"{', '.join(f'{c:.0%}' for c in shares.values())} with {n}" for n, shares in covered.items())
        + "."
    )
    return _finding(claim.text, said, gains, far)


def _worth(claim: Worth, rows: Sequence[Row]) -> Finding:
    ours = values(rows, claim.arm, "mse", views=claim.views)
    rivals = {name: values(rows, claim.arm, name, views=claim.views) for name in SANITY}
    rivals = {name: found for name, found in rivals.items() if found}
    if not ours or not rivals:
        return _missing(claim.text, claim.arm)
    best = min(rivals, key=lambda name: level(rivals[name]))
    below = 1 - level(ours) / level(rivals[best])
    gain = bootstrap(minus(rivals[best], ours))
    others = ", ".join(f"{SANITY[name]} {level(found):.5f}" for name, found in rivals.items())
    aimed = "reached" if below >= claim.aim else "missed"
    said = (
        f"mean squared error with {_views(claim.views)} {level(ours):.5f}, against {others}: "
        f"{abs(below):.0%} {'below' if below >= 0 else 'above'} the best; the aim of {claim.aim:.0%} is {aimed}."
    )
    return _finding(claim.text, said, {SANITY[best]: gain})


def _lower(claim: Lower, rows: Sequence[Row]) -> Finding:
    ours, theirs = (values(rows, arm, claim.metric, views=claim.views) for arm in (claim.better, claim.than))
    if not ours or not theirs:
        return _missing(claim.text, claim.better if not ours else claim.than)
    gain = bootstrap(minus(theirs, ours))
    said = (
        f"{claim.metric} with {_views(claim.views)}: {claim.better} {level(ours):.4g}, "
        f"{claim.than} {level(theirs):.4g}, difference {_signed(gain)}."
    )
    return _finding(claim.text, said, {claim.metric: gain})


_JUDGES: dict[type, Callable[[Any, Sequence[Row]], Finding]] = {
    FewViews: _few_views,
    SmallerSlope: _shift,
    GapClosed: _refinement,
    Uncertain: _uncertainty,
    Worth: _worth,
    Lower: _lower,
}


def _finding(text: str, said: str, gains: Mapping[str, Interval], reasons: Sequence[str] = ()) -> Finding:
    """Shown where every gain is, and nothing else speaks against it."""
    why = list(reasons)
    for name, gain in gains.items():
        if gain.pairs < LEAST_PAIRS:
            why.append(f"{name}: {gain.pairs} pair{'s' * (gain.pairs != 1)}, {LEAST_PAIRS} at least are needed")
        elif not gain.above:
            why.append(f"{name}: the interval {'is on the worse side of' if gain.below else 'holds'} 0")
    if not gains:
        why.append("nothing was measured that could decide")
    return Finding(text, not why, said, gains, tuple(why))


def _missing(text: str, arm: str) -> Finding:
    return Finding(text, False, f"{arm} has no numbers for it.", {}, (f"{arm} was not run, or not measured so",))


def _views(count: int) -> str:
    return f"{count} view{'s' * (count != 1)}"


def _signed(gain: Interval) -> str:
    """+0.0012 [+0.0008, +0.0016]."""
    if gain.pairs == 0:
        return "none"
    ends = f" [{gain.low:+.3g}, {gain.high:+.3g}]" if gain.pairs > 1 else ""
    return f"{gain.mean:+.3g}{ends}"

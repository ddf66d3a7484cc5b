"""Tables: a study's rows as lines of means, differences and verdicts; as text, Markdown, CSV, HTML and plain values."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from io import StringIO
from math import isfinite
from typing import Any

import numpy as np

from rayprior.errors import UserError
from rayprior.evaluation.evaluate import strict
from rayprior.evaluation.report import NUMBERS
from rayprior.study.rows import Row
from rayprior.study.spec import Claim, Study
from rayprior.study.statistics import (
    Effect,
    Interval,
    Verdict,
    bootstrap,
    collapse_rate,
    direction,
    effects,
    mean_and_spread,
    paired,
    value,
    verdict,
)
from rayprior.training.budget import Budget

ALL = "all"  # stands for all scenes in a line
SENTENCES_SHOWN = 40  # in a terminal
RULE = (
    "Differences are arm minus control within pairs of one scene and seed: mean [low, high], the 95 % interval of "
    "10,000 bootstrap draws over scenes, then seeds. 'shown': at least five pairs, the interval wholly on the better "
    "side of 0, and a mean that passes the claim's minimum where there is a claim; 'shown worse': wholly on the worse "
    "side; else 'not shown'. A claim with a curve compares with the best that its arm and the curve's reach at the "
    "same PSNR (0.05 dB) or above. ± is the sample standard deviation over seeds."
)


@dataclass(frozen=True)
class Line:
    """One arm on one scene, or on all (`ALL`). metrics: (mean, spread); differences: to the control, arm - control.

    verdict: of the study's first metric; of the control itself, and of single scenes, empty.
    """

    views: str
    degradation: str
    scene: str
    arm: str
    control: str
    runs: int
    failed: int
    collapse_rate: float | None
    metrics: Mapping[str, tuple[float | None, float | None]]
    differences: Mapping[str, Interval]
    verdict: str
    seconds: float | None
    rays: float | None
    peak_mb: float | None


@dataclass(frozen=True)
class Summary:
    """What a study says. effects: of factors, under the first degradation, by metric; notes: what failed, is missing or
    was left out; protocol: of all numbers."""

    name: str
    about: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]
    verdicts: tuple[Verdict, ...]
    effects: Mapping[str, tuple[Effect, ...]]
    notes: tuple[str, ...]
    protocol: Mapping[str, Any]

    def plain(self) -> Any:
        """As strict JSON knows it."""
        words = [{**asdict(v), "verdict": v.word} for v in self.verdicts]
        return strict({**asdict(self), "verdicts": words, "rule": RULE})


def summarise(study: Study, rows: Sequence[Row]) -> Summary:
    """Every line, verdict and effect that the rows allow. Rows scored on validation views stay apart from the others.

    Raises:
        UserError: a metric that does not exist, or no row at all.
    """
    if not rows:
        raise UserError(f"study '{study.name}' has no row: nothing was run")
    for metric in study.metrics:
        direction(metric)
    scored = [row for row in rows if row.views == "test"]
    first = next(iter(study.degradations))
    lines = [line for views in ("test", "val") for line in _lines(study, [r for r in rows if r.views == views])]
    verdicts = tuple(verdict(claim, _under(scored, claim.degradation or first)) for claim in study.claims)
    found, left_out = _effects(study, _under(scored, first))
    notes = [
        *(f"failed: {row.key}: {row.error}" for row in rows if not row.done),
        *_unpaired(study, scored),
        *left_out,
        *(f"arm '{arm}' was not run" for arm in study.arms if not any(row.arm == arm for row in rows)),
    ]
    said = tuple(dict.fromkeys(notes))
    return Summary(
        study.name, study.about, tuple(study.metrics), tuple(lines), verdicts, found, said, _protocol(study, rows)
    )


def _under(rows: Sequence[Row], degradation: str) -> list[Row]:
    return [row for row in rows if row.degradation == degradation]


# -- lines -------------------------------------------------------------------------------------------------------------


def _lines(study: Study, rows: Sequence[Row]) -> list[Line]:
    """By degradation: all scenes together, then each."""
    lines = []
    for degradation in dict.fromkeys(row.degradation for row in rows):
        here = _under(rows, degradation)
        scenes = list(dict.fromkeys(row.scene for row in here))
        groups = [(ALL, here), *((s, [row for row in here if row.scene == s]) for s in scenes)]
        if len(scenes) == 1:
            groups = [(scenes[0], here)]
        for number, (scene, group) in enumerate(groups):
            there = {row.arm for row in group}
            arms = [arm for arm in dict.fromkeys([*study.arms, *(row.arm for row in group)]) if arm in there]
            lines += [_line(study, group, arm, scene, judged=number == 0) for arm in arms]
    return lines


def _line(study: Study, rows: Sequence[Row], arm: str, scene: str, *, judged: bool) -> Line:
    own = [row for row in rows if row.arm == arm]
    done = [row for row in own if row.done]
    control = study.control_of(arm) or ""
    views, degradation = own[0].views, own[0].degradation
    differences = {}
    if control:
        pairs = {metric: paired(rows, arm, control, metric, _shared(study, arm, control)) for metric in study.metrics}
        differences = {metric: bootstrap(found.values) for metric, found in pairs.items()}
    return Line(
        views=views,
        degradation=degradation,
        scene=scene,
        arm=arm,
        control=control,
        runs=len(done),
        failed=len(own) - len(done),
        collapse_rate=collapse_rate(own),
        metrics={metric: mean_and_spread(_values(done, metric)) for metric in study.metrics},
        differences=differences,
        verdict=_word(study, rows, arm, control, degradation) if control and judged and views == "test" else "",
        seconds=_mean([row.seconds + row.refining for row in done]),
        rays=_mean([row.rays for row in done]),
        peak_mb=_mean([row.peak_mb for row in done]),
    )


def _word(study: Study, rows: Sequence[Row], arm: str, control: str, degradation: str) -> str:
    """The verdict on the first metric: by the study's own claim where it makes one of these two arms, else without a
    minimum."""
    headline = study.metrics[0]
    stated = [
        claim
        for claim in study.claims
        if (claim.better, claim.than, claim.judged) == (arm, control, (headline,))
        and not claim.scenes
        and not claim.curve
        and (claim.degradation or next(iter(study.degradations))) == degradation
    ]
    claim = stated[0] if stated else Claim(text="", better=arm, than=control, metric=headline)
    judged = verdict(claim, rows)
    return "shown worse" if judged.worse else judged.word


def _shared(study: Study, arm: str, control: str) -> tuple[str, ...]:
    """Scenes that both arms are meant for; an arm may be of some scenes only."""
    meant = [set(study.arms[name].scenes or study.scenes) for name in (arm, control) if name in study.arms]
    return tuple(sorted(set(study.scenes).intersection(*meant))) or ("",)


def _unpaired(study: Study, rows: Sequence[Row]) -> list[str]:
    """A sentence for each run that has no partner in its control."""
    said = []
    for arm in study.arms:
        control = study.control_of(arm) or ""
        for metric in study.metrics if control else ():
            left = paired(rows, arm, control, metric, _shared(study, arm, control)).unpaired
            said += [f"unpaired: {why}" for why in left if ": failed (" not in why]
    return said


def _values(rows: Sequence[Row], metric: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        number = value(row, metric)
        if number is not None:
            found.setdefault(row.scene, {})[row.seed] = number
    return found


def _mean(values: Sequence[float]) -> float | None:
    measured = [number for number in values if number]
    return float(np.mean(measured)) if measured else None


def _effects(study: Study, rows: Sequence[Row]) -> tuple[dict[str, tuple[Effect, ...]], list[str]]:
    """Effects of each factorial of the study, by metric."""
    groups: dict[frozenset[str], dict[str, Mapping[str, bool]]] = {}
    for name, arm in study.arms.items():
        if arm.factors:
            groups.setdefault(frozenset(arm.factors), {})[name] = arm.factors
    found: dict[str, tuple[Effect, ...]] = {}
    notes: list[str] = []
    for arms in groups.values():
        for metric in study.metrics:
            try:
                of_metric, left_out = effects(arms, rows, metric)
            except UserError as error:
                notes.append(f"no effects: {error}")
                break
            known = tuple(effect for effect in of_metric if effect.interval.pairs)
            found[metric] = (*found.get(metric, ()), *known)
            notes += [f"left out of the effects: {why}" for why in left_out if ": failed (" not in why]
    return {metric: known for metric, known in found.items() if known}, notes


def _protocol(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    """How the numbers were made: what is one for all rows once, what differs by scene."""
    done = [row for row in rows if row.done]
    machines = dict.fromkeys(_in_a_line(row.machine) for row in done if row.machine)
    days = sorted(row.started[:10] for row in done if row.started)
    budget = "each run's own"
    if study.seconds is not None or study.steps is not None:
        budget = str(Budget(study.steps, study.seconds))
    keys = list(dict.fromkeys(key for row in done for key in row.protocol if key != "overridden"))
    common, differing = {}, {}
    for key in keys:
        by_scene = {}
        for row in done:
            if key in row.protocol:
                by_scene.setdefault(row.scene, row.protocol[key])
        one = next(iter(by_scene.values()))
        if all(other == one for other in by_scene.values()):
            common[key] = one
        else:
            differing |= {f"{key}, {scene}": found for scene, found in by_scene.items()}
    return {
        "views": "test views, scored once; rows of validation views are marked" if done else "none",
        "seeds": sorted({row.seed for row in rows}),
        "budget": budget,
        "steps taken": _range([row.steps for row in done]),
        "machine": "; ".join(machines) or "not recorded",
        "date": " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "not recorded",
        **common,
        **differing,
    }


def _range(values: Sequence[int]) -> str:
    if not values:
        return "none"
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


# -- numbers in words --------------------------------------------------------------------------------------------------


def number(metric: str, found: float | None, sign: str = "") -> str:
    """A metric's value as tables say it; sign '+' for differences."""
    if found is None or not isfinite(found):
        return "–"
    form = NUMBERS[metric][2] if metric in NUMBERS else "{:.3f}" if metric == "steps_to_reach" else "{:.4g}"
    return form.replace("{:", "{:" + sign).format(found + 0.0)  # -0.0 is 0


def with_spread(metric: str, mean: float | None, spread: float | None) -> str:
    """'23.41 ± 0.12'; the mean alone where there is one seed."""
    return number(metric, mean) if spread is None else f"{number(metric, mean)} ± {number(metric, spread)}"


def with_interval(metric: str, interval: Interval) -> str:
    """'+0.52 [+0.31, +0.74]'."""
    if not interval.pairs:
        return "–"
    mean, low, high = (number(metric, x, "+") for x in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def large(found: float | None) -> str:
    """12.3M, 45k, 678."""
    if found is None:
        return "–"
    if found >= 1e6:
        return f"{found / 1e6:.1f}M"
    return f"{found / 1e3:.0f}k" if found >= 1e4 else f"{found:.0f}"


Column = tuple[str, Callable[[Line], str]]


def columns(summary: Summary, *, differences: bool = True) -> list[Column]:
    """Heads and cells. Without `differences` the first metric's alone are there."""
    lines = summary.lines
    found: list[Column] = [("arm", lambda line: line.arm)]
    if len({line.scene for line in lines}) > 1:
        found.insert(0, ("scene", lambda line: line.scene))
    if len({line.degradation for line in lines}) > 1:
        found.insert(0, ("degradation", lambda line: line.degradation))
    if len({line.views for line in lines}) > 1:
        found.insert(0, ("views", lambda line: line.views))
    found.append(("runs", lambda line: f"{line.runs}" + (f" ({line.failed} failed)" if line.failed else "")))
    for place, metric in enumerate(summary.metrics):
        found.append((metric, lambda line, m=metric: with_spread(m, *line.metrics[m])))
        if differences or place == 0:
            found.append((f"{metric} - control", lambda line, m=metric: _difference(line, m)))
        if place == 0:
            found.append(("verdict", lambda line: line.verdict))
    if any(line.collapse_rate for line in lines):
        found.append(("collapsed", lambda line: "–" if line.collapse_rate is None else f"{line.collapse_rate:.0%}"))
    found.append(("seconds", lambda line: large(line.seconds)))
    found.append(("rays", lambda line: large(line.rays)))
    found.append(("peak MB", lambda line: large(line.peak_mb)))
    return found


def _difference(line: Line, metric: str) -> str:
    return with_interval(metric, line.differences[metric]) if metric in line.differences else ""


def overall(summary: Summary) -> list[Line]:
    """Of each degradation, the lines of all its scenes together."""
    mixed = {(line.views, line.degradation) for line in summary.lines if line.scene == ALL}
    return [line for line in summary.lines if line.scene == ALL or (line.views, line.degradation) not in mixed]


# -- as text -----------------------------------------------------------------------------------------------------------


def as_text(summary: Summary) -> str:
    """For a terminal: all scenes together, the claims, effects, and what is missing."""
    shown, lines = columns(summary, differences=False), overall(summary)
    cells = [[head for head, _ in shown], *([cell(line) for _, cell in shown] for line in lines)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(shown))]
    rows = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in cells]
    rows.insert(1, "  ".join("-" * width for width in widths))
    said = sentences(summary)
    if len(said) > SENTENCES_SHOWN:
        said = [*said[:SENTENCES_SHOWN], f"and {len(said) - SENTENCES_SHOWN} more lines, in table.md and report.html"]
    return "\n".join([*rows, *(["", *said] if said else [])])


def sentences(summary: Summary) -> list[str]:
    """Claims with their verdicts, effects of factors, notes: a line each."""
    said = []
    for judged in summary.verdicts:
        reasons = f" ({'; '.join(judged.reasons)})" if judged.reasons else ""
        others = "".join(f"; {metric} {with_interval(metric, gain)}" for metric, gain in judged.others.items())
        said.append(
            f"{judged.word}: {judged.text}: {judged.metric}, gain {with_interval(judged.metric, judged.gain)} over "
            f"{judged.gain.pairs} pairs{others}{reasons}"
        )
    for metric, found in summary.effects.items():
        said += [f"effect of {' x '.join(e.factors)}: {metric} {with_interval(metric, e.interval)}" for e in found]
    return [*said, *summary.notes]


def as_markdown(summary: Summary) -> str:
    """For documents: every line, and under them the rule, the claims and the protocol."""
    shown = columns(summary)
    rows = [[head for head, _ in shown], ["---" if i < 1 else "---:" for i in range(len(shown))]]
    rows += [[cell(line).replace("|", "\\|") for _, cell in shown] for line in summary.lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    about = [summary.about, ""] if summary.about else []
    said = [f"- {sentence}" for sentence in sentences(summary)]
    protocol = [f"- {key.replace('_', ' ')}: {_in_a_line(found)}" for key, found in summary.protocol.items()]
    parts = [f"# {summary.name}", "", *about, table, "", RULE, "", *said, "", "Protocol:", "", *protocol]
    return "\n".join(parts) + "\n"


def _in_a_line(found: Any) -> str:
    if isinstance(found, list | tuple):
        return ", ".join(map(str, found)) or "none"
    if isinstance(found, Mapping):
        parts = (_in_a_line(v) if isinstance(v, Mapping) else f"{key} {_in_a_line(v)}" for key, v in found.items())
        return ", ".join(parts) or "none"
    return f"{found:.4g}" if isinstance(found, float) else str(found)


def as_html(summary: Summary, lines: Sequence[Line]) -> str:
    """A table of these lines."""
    shown = columns(summary)
    head = "".join(f"<th>{escape(text)}</th>" for text, _ in shown)
    body = "".join(
        ('<tr class="mean">' if line.scene == ALL else "<tr>")
        + "".join(f"<td>{escape(cell(line))}</td>" for _, cell in shown)
        + "</tr>"
        for line in lines
    )
    return f'<div class="table"><table><tr>{head}</tr>{body}</table></div>'


def as_csv(summary: Summary) -> str:
    """For spreadsheets: whole numbers, a row for each line; empty where there is none."""
    parts = ("mean", "spread", "difference", "low", "high", "pairs")
    heads = ["views", "degradation", "scene", "arm", "control", "runs", "failed", "collapse_rate"]
    heads += [f"{metric}_{part}" for metric in summary.metrics for part in parts]
    rows: list[list[Any]] = [[*heads, "verdict", "seconds", "rays", "peak_mb"]]
    for line in summary.lines:
        numbers: list[float | None] = []
        for metric in summary.metrics:
            numbers += line.metrics[metric]
            gap = line.differences.get(metric)
            numbers += [gap.mean, gap.low, gap.high, gap.pairs] if gap else [None] * 4
        about = [line.views, line.degradation, line.scene, line.arm, line.control, line.runs, line.failed]
        rows.append([*about, line.collapse_rate, *numbers, line.verdict, line.seconds, line.rays, line.peak_mb])
    return csv_text(rows)


def history_csv(rows: Sequence[Row]) -> str:
    """The curves of all runs: step, seconds, PSNR of the training rays."""
    heads = ["key", "arm", "scene", "degradation", "seed", "views", "step", "seconds", "train_psnr"]
    about = [(row, [row.key, row.arm, row.scene, row.degradation, row.seed, row.views]) for row in rows]
    return csv_text([heads, *([*words, step, s, psnr] for row, words in about for s, step, psnr in row.curve)])


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV; None and nan are empty."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([["" if isinstance(v, float) and not isfinite(v) else v for v in row] for row in rows])
    return file.getvalue()

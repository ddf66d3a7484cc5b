"""What a study of families leaves behind: table.md, summary.json, and report.html with curves and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import isfinite, sqrt
from pathlib import Path

import numpy as np

from rayprior.evaluation.chart import Series, line_chart
from rayprior.evaluation.evaluate import strict
from rayprior.evaluation.export import Frame
from rayprior.evaluation.page import header, img, pairs, write_page
from rayprior.files import write_json, write_text
from rayprior.maths.psnr import psnr
from rayprior.study.family import FamilyStudy
from rayprior.study.family_claims import (
    FIT_KINDS,
    SANITY,
    combined,
    judge,
    level,
    over,
    over_shifts,
    values,
)
from rayprior.study.family_work import read_pictures
from rayprior.study.findings import (
    Table,
    as_markdown,
    as_text,
    as_values,
    claims_section,
    failed_section,
    table_section,
)
from rayprior.study.jobs import PREVIEWS
from rayprior.study.rows import Row
from rayprior.study.statistics import Values, bootstrap

RULE = (
    "Errors are mean squared errors of a scene's targets, colours in [0, 1]; PSNR is of their mean over scenes. Pairs "
    "are of one scene and one seed: the same pictures shown, the same targets. Intervals are 95 % of 10,000 bootstrap "
    "draws over scenes, then seeds. 'Shown': at least five pairs, every interval that decides wholly above 0, and "
    "nothing else against it."
)
FIT_NAMES = {"scratch": "fit of each scene", "entropy": "fit, with entropy", "started": "fit, started from latent 0"}
MAGNIFIED = 4  # pictures are small
GRID_WIDTH = 128


def write_family_study(
    folder: Path, study: FamilyStudy, rows: Sequence[Row], say: Callable[[str], None] = print
) -> Path:
    """Write everything that the rows show, hand findings and a table as text to `say`, return report.html's path."""
    order = {name: place for place, name in enumerate((*study.arms, *FIT_KINDS))}
    rows = sorted(rows, key=lambda row: order.get(row.arm, len(order)))
    findings = [judge(claim, rows) for claim in study.claims]
    tables = [table for table in (_by_views(rows), _by_shift(rows), _gap(rows)) if table[2]]
    failed = [f"failed: {row.key}: {row.error}" for row in rows if not row.done]
    write_text(folder / "table.md", as_markdown(study.name, study.about, findings, tables, failed, RULE))
    write_json(folder / "summary.json", strict(as_values(study.name, findings, tables, failed, RULE)))
    path = folder / "report.html"
    sections = [
        _head(study, rows),
        claims_section(findings),
        *(table_section(table) for table in tables),
        _charts(study, rows),
        _pictures(folder, study, rows),
        failed_section(failed),
        f'<section><h2>Protocol</h2><p class="soft">{escape(RULE)}</p>{pairs(_protocol(rows))}</section>',
    ]
    write_page(path, study.name, [section for section in sections if section])
    say(as_text(findings, tables[:1]))
    return path


# -- tables ------------------------------------------------------------------------------------------------------------


def _by_views(rows: Sequence[Row]) -> Table:
    """Every arm and kind of fit at every number of views, and what needs no model."""
    done = [row for row in rows if row.done]
    lines = []
    for arm in dict.fromkeys(row.arm for row in done):
        for n in over(done, arm, "views", "mse"):
            mse = values(done, arm, "mse", views=n)
            rmse, relative = (values(done, arm, f"distance_{of}", views=n) for of in ("rmse", "abs_rel"))
            gap = bootstrap(mse)
            ends = f" [{gap.low:.5f}, {gap.high:.5f}]" if gap.pairs > 1 else ""
            lines.append(
                [
                    *(FIT_NAMES.get(arm, arm), str(n), f"{gap.mean:.5f}{ends}", f"{psnr(gap.mean):.2f}"),
                    *(_number(rmse), _number(relative), str(gap.pairs)),
                ]
            )
    first = next((row.arm for row in done if any(name in e for e in row.per_view for name in SANITY)), None)
    for name, said in SANITY.items() if first else ():
        for n in over(done, first or "", "views", name):
            mse = values(done, first or "", name, views=n)
            if name == "nearest_view_mse" or n == over(done, first or "", "views", name)[0]:
                shown = str(n) if name == "nearest_view_mse" else "any"
                owner = f"{said} of {first}" if name == "prior_mean_mse" else said
                lines.append([owner, shown, f"{level(mse):.5f}", f"{psnr(level(mse)):.2f}", "", "", ""])
    heads = ["", "views", "mean squared error", "PSNR, dB", "distance RMSE", "relative", "pairs"]
    return "From n views", heads, lines


def _by_shift(rows: Sequence[Row]) -> Table:
    """Every arm under every shift."""
    done, lines = [row for row in rows if row.done], []
    for arm in dict.fromkeys(row.arm for row in done):
        for shift in over_shifts(done, arm):
            n = over(done, arm, "views", "mse", shift=shift)[0]
            here = level(values(done, arm, "mse", views=n))
            for amount in over(done, arm, "amount", "mse", shift=shift):
                mse = level(values(done, arm, "mse", views=n, shift=shift, amount=amount))
                distance = values(done, arm, "distance_rmse", views=n, shift=shift, amount=amount)
                row = [arm, shift, f"{amount:+g}", str(n), f"{mse:.5f}", f"{sqrt(mse / here):.2f}", _number(distance)]
                lines.append(row)
    return "From elsewhere", ["", "shift", "by", "views", "mean squared error", "times", "distance RMSE"], lines


def _gap(rows: Sequence[Row]) -> Table:
    """What inference leaves to ascent."""
    done, lines = [row for row in rows if row.done], []
    for arm in dict.fromkeys(row.arm for row in done):
        for n in over(done, arm, "views", "elbo_best"):
            found = [level(values(done, arm, f"elbo_{of}", views=n)) for of in ("first", "refined", "plain", "best")]
            lines.append([arm, str(n), *(f"{elbo:.4g}" for elbo in found)])
    return "ELBO of what was shown, nats a scene", ["", "views", "guess", "refined", "plain ascent", "best"], lines


def _number(found: Values) -> str:
    mean = level(found)
    return f"{mean:.4f}" if isfinite(mean) else ""


# -- the page ----------------------------------------------------------------------------------------------------------


def _head(study: FamilyStudy, rows: Sequence[Row]) -> str:
    done = [row for row in rows if row.done]
    scenes = study.family
    facts = {
        "family": f"{scenes.kind}, {scenes.scenes - scenes.test} scenes to train, {scenes.test} to test, "
        f"{scenes.views} views of {scenes.size}x{scenes.size}",
        "arms": str(len({row.arm for row in rows if row.arm in study.arms})),
        "seeds": ", ".join(map(str, sorted({row.seed for row in rows}))),
        "runs": f"{len(done)}" + (f" ({len(rows) - len(done)} failed)" if len(done) < len(rows) else ""),
        "steps": f"{study.steps:,}",
        "date": max((row.started[:10] for row in done), default=""),
        "machine": next((str(row.machine.get("processor", "")) for row in done if row.machine), ""),
    }
    return header(study.name, study.about, "", {key: fact for key, fact in facts.items() if fact})


def _charts(study: FamilyStudy, rows: Sequence[Row]) -> str:
    done = [row for row in rows if row.done]
    arms = list(dict.fromkeys(row.arm for row in done))
    charts = []
    for metric, title in (("mse", "mean squared error over views shown"), ("distance_rmse", "distance RMSE, the same")):
        series = []
        for arm in arms:
            at = over(done, arm, "views", metric)
            means = [bootstrap(values(done, arm, metric, views=n)) for n in at]
            ends = ([m.low for m in means], [m.high for m in means]) if all(m.pairs > 1 for m in means) else ((), ())
            series.append(Series(FIT_NAMES.get(arm, arm), at, [m.mean for m in means], *ends))
        charts.append(line_chart(title, [s for s in series if s.x], x_label="views"))
    for shift in study.shifts:
        series = []
        for arm in arms:
            at = over(done, arm, "amount", "mse", shift=shift)
            if at:
                n = over(done, arm, "views", "mse", shift=shift)[0]
                errors = [values(done, arm, "mse", views=n)]
                errors += [values(done, arm, "mse", views=n, shift=shift, amount=amount) for amount in at]
                roots = [level(combined(sqrt, found)) for found in errors]
                series.append(Series(arm, [0.0, *map(abs, at)], roots))
        charts.append(line_chart(f"root mean squared error over the shift of {shift}", series, x_label=""))
    charts += [line_chart("PSNR of training rays, dB", _training(done), x_label="steps")]
    drawn = [chart for chart in charts if chart]
    return f'<section><h2>Curves</h2><div class="charts">{"".join(drawn)}</div></section>' if drawn else ""


def _training(rows: Sequence[Row]) -> list[Series]:
    """Of each arm's lowest seed."""
    first = {row.arm: row for row in sorted(rows, key=lambda row: -row.seed) if row.curve}
    return [Series(arm, [step for _, step, _ in row.curve], [y for *_, y in row.curve]) for arm, row in first.items()]


# -- pictures ----------------------------------------------------------------------------------------------------------


def _pictures(folder: Path, study: FamilyStudy, rows: Sequence[Row]) -> str:
    """Of each arm's lowest seed: what was shown, what is there, and what each arm makes of n views; from elsewhere;
    deviations; new scenes."""
    first = {row.arm: row for row in sorted(rows, key=lambda row: -row.seed) if row.done and row.arm in study.arms}
    of = {arm: read_pictures(folder / PREVIEWS / f"{row.key}.npz") for arm, row in first.items()}
    of = {arm: of[arm] for arm in study.arms if of.get(arm)}
    if not of:
        return '<section><p class="note">No pictures of the runs are there.</p></section>'
    parts = []
    some = next(iter(of.values()))
    for i in range(sum(name.startswith("truth-") for name in some)):
        shown, truth = some[f"context-{i}"], some[f"truth-{i}"][0]
        lines: list[Line] = [("truth", [truth])]
        lines += [(arm, [_one(found, f"{n}-{i}") for n in study.contexts]) for arm, found in of.items()]
        for arm, found in of.items():
            deviations = [_one(found, f"deviation-{n}-{i}") for n in study.contexts]
            lines += [(f"{arm}, deviation", deviations)] if any(d is not None for d in deviations) else []
        parts.append(_grid(f"test scene {i + 1}: shown, in this order", [], [("", list(shown))]))
        parts.append(_grid("from n of these", [f"n = {n}" for n in study.contexts], lines))
    for name in study.shifts:
        keys = [f"{shift}={amount:g}" for shift, _, amount in study.shift_amounts() if shift == name]
        lines = [("truth", [_one(some, f"truth {key}") for key in keys])]
        lines += [(arm, [_one(found, key) for key in keys]) for arm, found in of.items()]
        parts.append(_grid(f"test scene 1, {name} shifted", [key.partition("=")[2] for key in keys], lines))
    for arm, found in of.items():
        if "prior" in found:
            parts.append(_grid(f"{arm}: new scenes, drawn from the prior", [], [("", list(found["prior"]))]))
    return (
        '<section><h2>Pictures</h2><p class="soft">Of each arm’s lowest seed. Deviation: of the draws, from 0 (black) '
        f"to 0.25 (white).</p>{''.join(parts)}</section>"
    )


Line = tuple[str, list[Frame | None]]  # a name, and pictures side by side


def _one(pictures: Mapping[str, np.ndarray], name: str) -> Frame | None:
    """The first picture of this name."""
    return pictures[name][0] if name in pictures else None


def _grid(title: str, heads: Sequence[str], lines: Sequence[Line]) -> str:
    """Lines of small pictures, enlarged, each with its name before it."""
    columns = max(len(frames) for _, frames in lines)
    cells = "".join(f'<div class="head">{escape(head)}</div>' for head in ["", *heads]) if heads else ""
    for name, frames in lines:
        cells += f'<div class="head">{escape(name)}</div>'
        for frame in [*frames, *[None] * (columns - len(frames))]:
            large = None if frame is None else frame.repeat(MAGNIFIED, 0).repeat(MAGNIFIED, 1)
            cells += "<div></div>" if large is None else img(large, f"{title}: {name}", GRID_WIDTH)
    widths = f"grid-template-columns:{GRID_WIDTH}px repeat({columns}, minmax(0, {GRID_WIDTH}px))"
    return f'<h3>{escape(title)}</h3><div class="views" style="{widths}">{cells}</div>'


def _protocol(rows: Sequence[Row]) -> dict[str, object]:
    return next((dict(row.protocol) for row in rows if row.done and row.protocol), {})

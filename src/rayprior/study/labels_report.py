"""What a study of labels leaves behind: table.md, summary.json, and report.html with curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from rayprior.evaluation.chart import Series, line_chart
from rayprior.evaluation.evaluate import strict
from rayprior.evaluation.page import header, pairs, write_page
from rayprior.files import write_json, write_text
from rayprior.study.findings import (
    Table,
    as_markdown,
    as_text,
    as_values,
    claims_section,
    failed_section,
    table_section,
)
from rayprior.study.labels import LabelStudy
from rayprior.study.labels_claims import DRAWS, LABELS, Errors, Evidence, judge
from rayprior.study.labels_work import PICTURE, evidence_of
from rayprior.study.rows import Row
from rayprior.study.statistics import LEAST_PAIRS, Values, mean_and_spread

CURVE_PX = tuple(np.linspace(0.0, 8.0, 41).tolist())
ALL_SHINY, ALL_MATTE = "shiny, all", "matte, all"


def rule(study: LabelStudy) -> str:
    """How the numbers are judged, in words."""
    labels, descriptors = study.labels, study.descriptors
    return (
        "Every source and arm is asked for the same pixels. Labels are right below "
        f"{labels.within_px:g} px of the field's pictures, descriptors below {descriptors.within_px:g} px of theirs, "
        f"which are {descriptors.width} px wide. Two sources of labels are compared at equal coverage: each keeps its "
        "surest matches, as many as the one that has fewer. An object's interval is 95 % of "
        f"{DRAWS:,} bootstrap draws of seeds and, alike for all seeds, of pixels; that over objects is of 10,000 draws "
        f"of objects, then seeds. 'Shown': at least {LEAST_PAIRS} pairs of object and seed, and every interval, over "
        "objects and of each object, wholly above 0, in the mean error and in the share that is right."
    )


def write_label_study(folder: Path, study: LabelStudy, rows: Sequence[Row], say: Callable[[str], None] = print) -> Path:
    """Write everything that the rows show, hand findings and tables as text to `say`, return report.html's path."""
    evidence = evidence_of(folder, study, rows)
    findings = [judge(claim, evidence) for claim in study.claims]
    tables = [table for table in (_of_labels(study, rows), _of_descriptors(study, rows)) if table[2]]
    failed = [f"failed: {row.key}: {row.error}" for row in rows if not row.done]
    judged = rule(study)
    write_text(folder / "table.md", as_markdown(study.name, study.about, findings, tables, failed, judged))
    write_json(folder / "summary.json", strict(as_values(study.name, findings, tables, failed, judged)))
    path = folder / "report.html"
    protocol = next((dict(row.protocol) for row in rows if row.done and row.protocol), {})
    sections = [
        _head(study, rows),
        claims_section(findings),
        *(table_section(table) for table in tables),
        _curves(study, evidence),
        failed_section(failed),
        f'<section><h2>Protocol</h2><p class="soft">{escape(judged)}</p>{pairs(protocol)}</section>',
    ]
    write_page(path, study.name, [section for section in sections if section])
    say(as_text(findings, tables))
    return path


# -- tables ------------------------------------------------------------------------------------------------------------


def _of_labels(study: LabelStudy, rows: Sequence[Row]) -> Table:
    """Every source on every object: means over seeds."""
    heads = [
        "",
        "object",
        "mean px",
        "median",
        "below 1 px",
        "below 2 px",
        "below 1 %",
        "coverage",
        "at equal coverage",
    ]
    keys = ("error_px", "median_px", "pck_1px", "pck_2px", "pck_1%", "coverage", "equal_px")
    return "Labels: end-point error", heads, _lines(study, rows, "source", keys, labels=True)


def _of_descriptors(study: LabelStudy, rows: Sequence[Row]) -> Table:
    """Every arm on every object: the best match in the whole picture, and in the mask."""
    heads = ["", "object", "AEPE px", "median", "PCK 1 px", "PCK 2 px", "PCK 1 %", "AEPE in mask", "PCK 2 px in mask"]
    keys = ("error_px", "median_px", "pck_1px", "pck_2px", "pck_1%", "mask.error_px", "mask.pck_2px")
    return "Descriptors: matches found in held-out photographs", heads, _lines(study, rows, "arm", keys, labels=False)


def _lines(study: LabelStudy, rows: Sequence[Row], what: str, keys: Sequence[str], labels: bool) -> list[list[str]]:
    """Name, object, and a number for each key; the shiny objects and their twins together first."""
    found: dict[str, dict[str, dict[str, dict[int, float]]]] = {}  # name -> key -> object -> seed
    for row in rows:
        if not row.done or (row.arm == LABELS) != labels:
            continue
        for entry in row.per_view:
            name = str(entry["source"]) if what == "source" else row.arm
            prefix = "" if entry.get("search", PICTURE) == PICTURE else f"{entry['search']}."
            for key, number in entry.items():
                if f"{prefix}{key}" in keys and number is not None:
                    of_object = found.setdefault(name, {}).setdefault(f"{prefix}{key}", {})
                    of_object.setdefault(row.scene, {})[row.seed] = float(number)
    twins = {name: subject.twin for name, subject in study.objects.items() if subject.twin is not None}
    groups = {ALL_SHINY: tuple(twins), ALL_MATTE: tuple(twins.values())} if len(twins) > 1 else {}
    groups |= {name: (name,) for name in study.objects}
    lines = []
    for group, names in groups.items():
        for name, of_keys in found.items():
            cells = [_cell(key, {n: s for n, s in of_keys.get(key, {}).items() if n in names}) for key in keys]
            if any(cells):
                lines.append([name, group, *cells])
    return lines


def _cell(key: str, values: Values) -> str:
    """Mean over objects and seeds, with the spread over seeds."""
    mean, spread = mean_and_spread(values)
    if mean is None:
        return ""
    share = "pck" in key or key == "coverage"
    form = "{:.3f}" if share else "{:.2f}"
    return form.format(mean) + ("" if spread is None else f" ± {form.format(spread)}")


# -- the page ----------------------------------------------------------------------------------------------------------


def _head(study: LabelStudy, rows: Sequence[Row]) -> str:
    done = [row for row in rows if row.done]
    facts = {
        "objects": ", ".join(dict.fromkeys(row.scene for row in rows)),
        "fields": f"{study.fields.recipe}, {study.fields.steps:,} steps",
        "descriptors": f"{study.descriptors.recipe}, {study.descriptors.steps:,} steps, {study.labels.pool:,} pairs",
        "seeds": ", ".join(map(str, sorted({row.seed for row in rows}))),
        "runs": f"{len(done)}" + (f" ({len(rows) - len(done)} failed)" if len(done) < len(rows) else ""),
        "date": max((row.started[:10] for row in done), default=""),
        "machine": next((str(row.machine.get("processor", "")) for row in done if row.machine), ""),
    }
    return header(study.name, study.about, "", {key: fact for key, fact in facts.items() if fact})


def _curves(study: LabelStudy, evidence: Evidence) -> str:
    """The share of pixels below an error, over the error: shiny objects, and their twins."""
    shiny, matte = tuple(evidence.twins), tuple(evidence.twins.values())
    groups = {"shiny": shiny, "matte": matte} if shiny else {"all": tuple(study.objects)}
    charts = []
    for measured, what in ((evidence.labels, "labels, of all pixels"), (evidence.descriptors, "descriptors")):
        for group, names in groups.items():
            series = [
                Series(name, CURVE_PX, _share_below([e for n in names for e in of.get(n, {}).values()]))
                for name, of in measured.items()
                if any(n in of for n in names)
            ]
            charts.append(line_chart(f"share below an error: {what}, {group}", series, x_label="px"))
    drawn = [chart for chart in charts if chart]
    return f'<section><h2>Curves</h2><div class="charts">{"".join(drawn)}</div></section>' if drawn else ""


def _share_below(found: Sequence[Errors]) -> list[float]:
    """Pixels without a match are below no error."""
    error = np.concatenate([np.nan_to_num(errors.error, nan=np.inf) for errors in found])
    return [float((error < limit).mean()) for limit in CURVE_PX]

"""Report: all that a study leaves behind: tables, curves, pictures, a film, and one page that holds them.

table.md, table.csv, summary.json    lines, verdicts, effects, protocol      history.csv     the curves of all runs
comparison.webp (mp4)                the arms side by side                   depth_error_maps/KEY.png
report.html                          everything, in one file that needs no network
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import torch

from rayprior.evaluation.chart import Bar, Series, interval_chart, line_chart
from rayprior.evaluation.export import Frame, write_picture
from rayprior.evaluation.page import film_tag, header, img, pairs, scale, write_page
from rayprior.evaluation.pictures import ERROR_SCALE, Picture, Ramp, Span, distance_colours, ramp
from rayprior.files import write_json, write_text
from rayprior.study.film import write_comparison
from rayprior.study.previews import Preview, has_preview, read_preview
from rayprior.study.rows import Row
from rayprior.study.spec import Study
from rayprior.study.statistics import mean_and_spread, value
from rayprior.study.tables import (
    RULE,
    Line,
    Summary,
    as_csv,
    as_html,
    as_markdown,
    as_text,
    history_csv,
    overall,
    summarise,
    with_interval,
)

DISTANCE_ERROR_SCALE = 0.25  # the relative error of distance that maps show as their brightest colour
UNKNOWN = 40  # the grey of pixels whose true distance is not known
ARMS_A_CHART, ARMS_A_GRID = 6, 5
PICTURE_WIDTH, MOST_PICTURES = 200, 240  # of the grids in the page, so that it stays below 5 MB
CURVE_POINTS = 60
FILM_BYTES = 1_500_000


def write_study(folder: Path, study: Study, rows: Sequence[Row], say: Callable[[str], None] = print) -> Path:
    """Write everything that the rows show, and hand the table as text to `say`. Returns the path of report.html.

    Runs are found at folder / row.run, previews at folder / previews / row.key; what is not there is said in the page.

    Raises:
        UserError: no row, a metric that does not exist, or a place that can't be written to.
    """
    arms = {name: place for place, name in enumerate(study.arms)}
    rows = sorted(rows, key=lambda row: arms.get(row.arm, len(arms)))  # as the file has them, not as they ended
    summary = summarise(study, rows)
    write_text(folder / "table.md", as_markdown(summary))
    write_text(folder / "table.csv", as_csv(summary))
    write_json(folder / "summary.json", summary.plain())
    write_text(folder / "history.csv", history_csv(rows))
    _write_depth_errors(folder, rows)
    film, about_film = write_comparison(folder, rows)
    path = folder / "report.html"
    sections = [
        _head(summary, study, rows),
        _claims(summary),
        _table(summary),
        _film(film, about_film),
        _charts(summary, study, rows),
        _pictures(folder, study, rows),
        _notes(summary),
        f'<section><h2>Protocol</h2><p class="soft">{escape(RULE)}</p>{pairs(summary.protocol)}</section>',
    ]
    write_page(path, summary.name, sections)
    say(as_text(summary))
    return path


# -- words and numbers -------------------------------------------------------------------------------------------------


def _head(summary: Summary, study: Study, rows: Sequence[Row]) -> str:
    done = sum(row.done for row in rows)
    facts = {
        "arms": str(len({row.arm for row in rows})),
        "scenes": str(len({row.scene for row in rows})),
        "degradations": str(len({row.degradation for row in rows})),
        "seeds": ", ".join(map(str, summary.protocol["seeds"])),
        "runs": f"{done}" + (f" ({len(rows) - done} failed)" if done < len(rows) else ""),
        "control": study.control or "",
        "budget": str(summary.protocol["budget"]),
        "date": str(summary.protocol["date"]),
        "machine": str(summary.protocol["machine"]),
    }
    return header(summary.name, summary.about, "", {key: word for key, word in facts.items() if word})


def _claims(summary: Summary) -> str:
    if not summary.verdicts:
        return ""
    items = []
    for judged in summary.verdicts:
        why = f" {escape('; '.join(judged.reasons))}." if judged.reasons else ""
        guards = "".join(f" {escape(m)} {escape(with_interval(m, gap))}." for m, gap in judged.guards.items())
        note = f" Not worse in:{guards}" if guards else ""
        others = "".join(f" {escape(m)}: {escape(with_interval(m, gap))}." for m, gap in judged.others.items())
        least = f" of at least {judged.minimum:.3g}" if judged.minimum else ""
        items.append(
            f"<dt><b>{escape(judged.word)}</b></dt><dd>{escape(judged.text)}<br>"
            f'<span class="soft">{escape(judged.metric)}: gain{least} asked, '
            f"{escape(with_interval(judged.metric, judged.gain))} found over {judged.gain.pairs} pairs."
            f"{others}{why}{note}</span></dd>"
        )
    return f'<section><h2>Claims</h2><dl class="protocol">{"".join(items)}</dl></section>'


def _table(summary: Summary) -> str:
    first = overall(summary)
    rest = [line for line in summary.lines if line not in first]
    more = f"<details><summary>Each scene</summary>{as_html(summary, rest)}</details>" if rest else ""
    chosen = any(line.views == "val" for line in summary.lines)
    marked = " Lines of val are choices, made on validation views." if chosen else ""
    return (
        f"<section><h2>Numbers</h2>{as_html(summary, first)}{more}"
        f'<p class="note">Differences: arm minus control, [low, high]: 95 % interval; ± over seeds.{marked} '
        "How they were made stands at the end.</p></section>"
    )


def _notes(summary: Summary) -> str:
    if not summary.notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in summary.notes)
    return f"<section><h2>Missing and failed</h2><ul>{items}</ul></section>"


def _film(film: Path | None, about: str) -> str:
    if film is None:
        return f'<section><p class="note">{escape(about[:1].upper() + about[1:])}.</p></section>'
    content = film.read_bytes()
    shown = film_tag(content, "the arms side by side") if len(content) <= FILM_BYTES else ""
    return (
        f'<section><h2>Side by side</h2><p class="soft">{escape(about)} ({escape(film.name)})</p>'
        f'<figure class="wide">{shown}</figure></section>'
    )


# -- charts ------------------------------------------------------------------------------------------------------------


def _charts(summary: Summary, study: Study, rows: Sequence[Row]) -> str:
    scored = [row for row in rows if row.done and row.views == "test"]
    drawn = [
        *_difference_charts(summary),
        *_effect_charts(summary),
        *_curve_charts(study, scored),
        *_robustness_charts(study, scored),
    ]
    drawn = [chart for chart in drawn if chart]
    if not drawn:
        return ""
    return (
        '<section><h2>Curves and intervals</h2><p class="soft">Bands: one standard deviation to either side; '
        f'whiskers: 95 % intervals.</p><div class="charts">{"".join(drawn)}</div></section>'
    )


def _difference_charts(summary: Summary) -> list[str]:
    """For each metric, what every arm differs from its control, all scenes together."""
    lines = [line for line in overall(summary) if line.views == "test"]
    several = len({line.degradation for line in lines}) > 1
    return [
        interval_chart(
            f"{metric}: difference to the control",
            [
                Bar(_named(line, several), gap.mean, gap.low, gap.high)
                for line in lines
                if (gap := line.differences.get(metric))
            ],
            x_label="",
        )
        for metric in summary.metrics
    ]


def _named(line: Line, several: bool) -> str:
    return f"{line.arm}, {line.degradation}" if several else line.arm


def _effect_charts(summary: Summary) -> list[str]:
    return [
        interval_chart(
            f"{metric}: effects of the factors",
            [Bar(" x ".join(e.factors), e.interval.mean, e.interval.low, e.interval.high) for e in found],
            x_label="",
        )
        for metric, found in summary.effects.items()
    ]


def _curve_charts(study: Study, rows: Sequence[Row]) -> list[str]:
    """For each scene, PSNR while training, of the undegraded capture (or the first degradation)."""
    charts = []
    first = rows[0].degradation if rows else ""
    for scene in dict.fromkeys(row.scene for row in rows):
        here = [row for row in rows if row.scene == scene and row.degradation == first]
        seconds = study.seconds is not None
        on_rays, on_views = {}, {}
        for arm, of_arm in _by_arm(here):
            on_rays[arm] = [[(s if seconds else step, y) for s, step, y in row.curve] for row in of_arm]
            on_views[arm] = [[(100 * share, y) for share, y in row.test_curve] for row in of_arm]
        charts += _charts_of(f"{scene}: PSNR of training rays, dB", on_rays, "s" if seconds else "steps")
        charts += _charts_of(f"{scene}: PSNR of test views, dB", on_views, "% of the budget")
    return charts


def _by_arm(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [(arm, [row for row in rows if row.arm == arm]) for arm in dict.fromkeys(row.arm for row in rows)]


Curve = Sequence[tuple[float, float | None]]


def _charts_of(title: str, curves: Mapping[str, Sequence[Curve]], x_label: str) -> list[str]:
    """Charts of at most six arms each: more colours can't be told apart."""
    series = [found for arm, of_arm in curves.items() if (found := _mean_curve(arm, of_arm))]
    return [
        line_chart(title, series[i : i + ARMS_A_CHART], x_label=x_label) for i in range(0, len(series), ARMS_A_CHART)
    ]


def _mean_curve(arm: str, curves: Sequence[Curve]) -> Series | None:
    """The mean over runs at even places up to where the shortest run ends, and a standard deviation to either side."""
    known = [[(x, y) for x, y in curve if y is not None and np.isfinite(y)] for curve in curves]
    known = [curve for curve in known if len(curve) > 1]
    if not known:
        return None
    at = np.linspace(max(curve[0][0] for curve in known), min(curve[-1][0] for curve in known), CURVE_POINTS)
    drawn = np.array([np.interp(at, [x for x, _ in curve], [y for _, y in curve]) for curve in known])  # (runs, points)
    mean, std = drawn.mean(axis=0), drawn.std(axis=0, ddof=1) if len(drawn) > 1 else np.zeros(len(at))
    band = ((mean - std).tolist(), (mean + std).tolist()) if len(drawn) > 1 else ((), ())
    return Series(arm, at.tolist(), mean.tolist(), *band)


def _robustness_charts(study: Study, rows: Sequence[Row]) -> list[str]:
    """For each kind of degradation that has several strengths, each metric over the strength."""
    charts = []
    for option, names in _families(study).items():
        for metric in study.metrics:
            series = [Series(arm, *_over(names, metric, of_arm)) for arm, of_arm in _by_arm(rows)]
            title = f"{metric} over {option.replace('_', ' ')}"
            charts += [
                line_chart(title, series[i : i + ARMS_A_CHART], x_label="") for i in range(0, len(series), ARMS_A_CHART)
            ]
    return charts


def _families(study: Study) -> dict[str, dict[str, float]]:
    """option -> degradation -> strength, for options of which degradations without other options hold two at least."""
    alone = {
        name: {option: strength for option, strength in options.items() if option != "seed" and strength}
        for name, options in study.degradations.items()
    }
    clean = [name for name, options in alone.items() if not options]
    found: dict[str, dict[str, float]] = {}
    for name, options in alone.items():
        if len(options) == 1:
            option, strength = next(iter(options.items()))
            found.setdefault(option, {})[name] = float(strength)
    for option, names in found.items():
        if option != "views":  # 0 views means all of them, which is not a point on this scale
            names |= dict.fromkeys(clean, 0.0)
    return {option: names for option, names in found.items() if len(names) > 1}


def _over(
    names: Mapping[str, float], metric: str, rows: Sequence[Row]
) -> tuple[list[float], list[float | None], list[float], list[float]]:
    """Strengths, means, and the edges of the band."""
    x, y, low, high = [], [], [], []
    for name, strength in sorted(names.items(), key=lambda item: item[1]):
        of_name: dict[str, dict[int, float]] = {}
        for row in rows:
            if row.degradation == name and (number := value(row, metric)) is not None:
                of_name.setdefault(row.scene, {})[row.seed] = number
        mean, spread = mean_and_spread(of_name)
        if mean is not None:
            x.append(strength)
            y.append(mean)
            low.append(mean - (spread or 0))
            high.append(mean + (spread or 0))
    return x, y, low, high


# -- pictures ----------------------------------------------------------------------------------------------------------


def _pictures(folder: Path, study: Study, rows: Sequence[Row]) -> str:
    """For each scene and degradation, truth and the arms beside each other: rendering, error, distance, its error."""
    there = [row for row in sorted(rows, key=lambda row: row.seed) if row.done and row.views == "test"]
    there = [row for row in there if has_preview(folder / "previews" / row.key)]
    if not there:
        return '<section><p class="note">No previews of the runs are there: no pictures are shown.</p></section>'
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in there:
        groups.setdefault((row.scene, row.degradation), {}).setdefault(row.arm, row)
    order = {arm: place for place, arm in enumerate(study.arms)}
    several = len({row.degradation for row in there}) > 1
    grids, shown, left_out = [], 0, []
    for (scene, degradation), arms in groups.items():
        title = f"{scene}, {degradation}" if several else scene
        if grids and shown + 4 * len(arms) > MOST_PICTURES:
            left_out.append(title)
            continue
        shown += 4 * len(arms)
        ordered = sorted(arms.values(), key=lambda row: order.get(row.arm, len(order)))
        for i in range(0, len(ordered), ARMS_A_GRID):
            parts = [(row, read_preview(folder / "previews" / row.key)) for row in ordered[i : i + ARMS_A_GRID]]
            grids.append(_grid(title, parts))
    note = f'<p class="note">Not shown here, but in previews/: {escape("; ".join(left_out))}.</p>' if left_out else ""
    return (
        '<section><h2>Pictures</h2><p class="soft">The first test view, of each arm’s lowest seed. Error: mean '
        "absolute difference of the channels; distance: the median along the ray, near is bright; its error is "
        f"relative to the true distance, and grey where that is not known.</p>{''.join(grids)}{note}</section>"
    )


def _grid(title: str, arms: Sequence[tuple[Row, Preview]]) -> str:
    """Columns: truth, then arms. Rows: pictures, errors, distances, errors of distance."""
    previews = [preview for _, preview in arms]
    truth = previews[0]
    span = _span(previews)
    names = [row.arm for row, _ in arms]

    def of_arms(frames: Sequence[Frame]) -> list[str]:
        return [img(frame, f"{title}: {name}", PICTURE_WIDTH) for name, frame in zip(names, frames)]

    heads = ["truth", *(f"{row.arm}{_psnr(row)}" for row, _ in arms)]
    rows = [
        [img(truth.truth, f"{title}: truth", PICTURE_WIDTH), *of_arms([p.rgb for p in previews])],
        [_legend("error", "0", f"{ERROR_SCALE:g}+"), *of_arms([p.error for p in previews])],
        [_true_distance(truth, span, title), *of_arms([_distance(p, span) for p in previews])],
    ]
    if truth.surface is not None:
        legend = _legend("error", "0", f"{DISTANCE_ERROR_SCALE:.0%}+")
        rows.append([legend, *of_arms([depth_error(p) for p in previews])])
    cells = "".join(f'<div class="head">{escape(head)}</div>' for head in heads)
    cells += "".join(cell for row in rows for cell in row)
    columns = f"grid-template-columns:repeat({len(heads)}, minmax(0, {PICTURE_WIDTH}px))"
    return f'<h3>{escape(title)}</h3><div class="views" style="{columns}">{cells}</div>'


def _psnr(row: Row) -> str:
    psnr = row.per_view[0].get("psnr") if row.per_view else None
    return f" {psnr:.2f} dB" if isinstance(psnr, float) else ""


def _legend(kind: Ramp, low: str, high: str) -> str:
    return f"<div>{scale(kind, low, high)}</div>"


def _span(previews: Sequence[Preview]) -> Span:
    """One range of distances for all, from the truth where it is known."""
    truth = previews[0].surface
    if truth is not None and np.isfinite(truth).any():
        known = torch.from_numpy(truth[np.isfinite(truth)])
        return Span.of(known, torch.ones_like(known))
    distance = torch.from_numpy(np.concatenate([p.distance.ravel() for p in previews]))
    return Span.of(distance, torch.from_numpy(np.concatenate([p.opacity.ravel() for p in previews])))


def _distance(preview: Preview, span: Span) -> Frame:
    rgb = torch.from_numpy(preview.rgb.astype(np.float32) / 255)
    return distance_colours(Picture(rgb, torch.from_numpy(preview.distance), torch.from_numpy(preview.opacity)), span)


def _true_distance(preview: Preview, span: Span, title: str) -> str:
    legend = _legend("distance", f"{span.far:.3g}", f"{span.near:.3g}")
    if preview.surface is None:
        return legend
    known = np.isfinite(preview.surface)
    surface = torch.from_numpy(np.where(known, preview.surface, 1.0).astype(np.float32))
    picture = Picture(torch.zeros(*known.shape, 3), surface, torch.from_numpy(known.astype(np.float32)))
    frame = distance_colours(picture, span)
    return f"<div>{img(frame, f'{title}: true distance', PICTURE_WIDTH)}{legend}</div>"


def depth_error(preview: Preview) -> Frame:
    """|distance - truth| / truth in colour, brightest at 25 %; grey where the truth is not known."""
    assert preview.surface is not None
    known = np.isfinite(preview.surface)
    truth = np.where(known, preview.surface, 1.0)
    error = np.abs(preview.distance - truth) / np.maximum(truth, 1e-9)
    level = np.rint(np.clip(np.nan_to_num(error, nan=1.0) / DISTANCE_ERROR_SCALE, 0, 1) * 255).astype(int)
    return np.where(known[:, :, None], ramp("error")[level], UNKNOWN).astype(np.uint8)


def _write_depth_errors(folder: Path, rows: Sequence[Row]) -> None:
    """A map for each run whose scene has true distances."""
    for row in rows:
        if row.done and has_preview(folder / "previews" / row.key):
            preview = read_preview(folder / "previews" / row.key)
            if preview.surface is not None:
                name = row.key.replace("/", "--")
                write_picture(folder / "depth_error_maps" / f"{name}.png", depth_error(preview))

"""Report: one self-contained page a run: what was run, its numbers with their protocol, pictures beside truth, curves.

The page is HTML and CSS alone: no script, nothing from the network. All text from outside is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayprior.evaluation.chart import Series, line_chart, linear_axis, short
from rayprior.evaluation.evaluate import Evaluation, ScoredView, strict
from rayprior.evaluation.export import Frame
from rayprior.evaluation.page import film_tag, header, img, pairs, scale, write_page
from rayprior.evaluation.pictures import ERROR_SCALE, Span, distance_colours, error_colours, ramp, to_bytes

ROWS_SHOWN = 16

# key of a number -> (label, unit, format)
NUMBERS = {
    "psnr": ("PSNR", "dB", "{:.2f}"),
    "psnr_pooled": ("PSNR, pooled", "dB", "{:.2f}"),
    "ssim": ("SSIM", "", "{:.3f}"),
    "ssim_reflect": ("SSIM, reflected", "", "{:.3f}"),
    "ms_ssim": ("MS-SSIM", "", "{:.3f}"),
    "lpips": ("LPIPS", "", "{:.3f}"),
    "distance_mae": ("Distance MAE", "", "{:#.3g}"),
    "distance_rmse": ("Distance RMSE", "", "{:#.3g}"),
    "distance_abs_rel": ("Distance AbsRel", "", "{:.4f}"),
    "distance_delta_1.25": ("Distance δ 1.25", "", "{:.3f}"),
    "floater_share": ("Floaters", "%", "{:.2%}"),
}
TILES = ("psnr", "psnr_pooled", "ssim", "lpips", "ms_ssim", "distance_abs_rel", "distance_delta_1.25", "floater_share")


def write_report(
    path: str | Path,
    *,
    title: str,
    about: str = "",
    command: str = "",
    machine: str = "",
    facts: Mapping[str, str] | None = None,
    evaluation: Evaluation | None = None,
    expects: str = "",
    log: Sequence[Mapping[str, Any]] = (),
    recipe: Mapping[str, Any] | None = None,
    film: bytes | None = None,
    snapshots: Sequence[tuple[str, Frame]] = (),
) -> Path:
    """Write report.html, whole or not at all.

    Args:
        title, about: the heading and a sentence under it.
        command: what was typed. machine: one line. facts: more pairs for the head (seed, steps, parameters, ...).
        evaluation: numbers, protocol and kept pictures; None where nothing was held out.
        expects: a sentence on the published number that the recipe must reach, or why there is none.
        log: rows of log.jsonl: step, seconds, and any of psnr, losses (weighted, by term), rays (a step's, by asker).
        recipe: everything that decided the training, as JSON knows it.
        film: an animated WebP, GIF or MP4. snapshots: (label, frame) of training.

    Raises:
        UserError: the page can't be written there.
    """
    mean_psnr = None if evaluation is None else evaluation.mean.get("psnr")
    sections = [
        header(title, about, command, {**(facts or {}), **({"machine": machine} if machine else {})}),
        _hero(evaluation, film, expects),
        _views(evaluation),
        snapshots_section(snapshots),
        curves_section(log, mean_psnr),
        _numbers(evaluation),
        settings_section(recipe),
    ]
    path = Path(path)
    write_page(path, title, sections)
    return path


# -- what was run ------------------------------------------------------------------------------------------------------


def settings_section(recipe: Mapping[str, Any] | None) -> str:
    """The whole recipe, folded."""
    if recipe is None:
        return ""
    text = json.dumps(strict(recipe), indent=2, ensure_ascii=False)
    return (
        "<section><h2>Settings</h2><details><summary>The whole recipe, defaults included</summary>"
        f"<pre>{escape(text)}</pre></details></section>"
    )


# -- numbers -----------------------------------------------------------------------------------------------------------


def _hero(evaluation: Evaluation | None, film: bytes | None, expects: str) -> str:
    """The film beside the means, PSNR largest."""
    moving = f'<figure class="film">{film_tag(film)}</figure>' if film else ""
    if evaluation is None:
        return f'<section class="hero">{moving}<p class="note">No view was held out: nothing is scored.</p></section>'
    tiles = []
    for key in TILES:
        value = evaluation.mean.get(key)
        if value is None and key != "psnr":
            continue
        label, unit, _ = NUMBERS[key]
        kind = ' class="first"' if key == "psnr" else ""
        small = f"<small>{unit}</small>" if unit and unit != "%" and value is not None else ""
        tiles.append(f"<div{kind}><dt>{label}</dt><dd>{_number(key, value)}{small}</dd></div>")
    views = len(evaluation.views)
    made = (
        f"Mean of {views} held-out view{'s' * (views != 1)} of split {evaluation.protocol.get('split', '')}, "
        f"{', '.join(evaluation.protocol.get('resolution', []))}."
    )
    note = escape(f"{made} {expects[:1].upper()}{expects[1:].rstrip('.')}." if expects else made)
    scores = f'<div class="scores"><dl class="tiles">{"".join(tiles)}</dl><p class="note">{note}</p></div>'
    return f'<section class="hero">{moving}{scores}</section>'


def _numbers(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    whole = {"psnr_pooled"}  # of all views together: no view has it
    keys = [k for k in NUMBERS if k == "psnr" or (evaluation.mean.get(k) is not None and k not in whole)]
    head = "".join(f"<th>{NUMBERS[key][0]}{' dB' if NUMBERS[key][1] == 'dB' else ''}</th>" for key in keys)
    mean = _row("Mean", evaluation.mean, keys, kind=' class="mean"')
    rows = [_row(row["name"], row, keys) for row in evaluation.views]
    table = f'<div class="table"><table><tr><th>View</th>{head}</tr>{mean}{"".join(rows[:ROWS_SHOWN])}</table></div>'
    if len(rows) > ROWS_SHOWN:
        more = f'<div class="table"><table><tr><th>View</th>{head}</tr>{"".join(rows[ROWS_SHOWN:])}</table></div>'
        table += f"<details><summary>{len(rows) - ROWS_SHOWN} more views</summary>{more}</details>"
    return (
        f"<section><h2>Numbers</h2>{table}<h2>Protocol</h2>"
        f'<p class="soft">How the numbers were made. Numbers of another protocol can’t be compared with them.</p>'
        f"{pairs(evaluation.protocol)}</section>"
    )


def _row(name: str, numbers: Mapping[str, Any], keys: Sequence[str], kind: str = "") -> str:
    cells = "".join(f"<td>{_number(key, numbers.get(key))}</td>" for key in keys)
    return f"<tr{kind}><td>{escape(str(name))}</td>{cells}</tr>"


def _number(key: str, value: float | None) -> str:
    if value is None or value != value:
        return "–"
    return NUMBERS[key][2].format(value) if isfinite(value) else "∞"


# -- pictures ----------------------------------------------------------------------------------------------------------


def _views(evaluation: Evaluation | None) -> str:
    """Truth, rendering, error and distance of each kept view, with the scales of the latter two."""
    if evaluation is None or not evaluation.kept:
        return ""
    span = Span.of(
        torch.cat([view.picture.distance.flatten() for view in evaluation.kept]),
        torch.cat([view.picture.opacity.flatten() for view in evaluation.kept]),
    )
    heads = (
        "Photograph",
        "Rendering",
        "Error" + scale("error", "0", f"{ERROR_SCALE:g}+"),
        "Distance" + scale("distance", f"{span.far * evaluation.unit:.3g}", f"{span.near * evaluation.unit:.3g}"),
    )
    head = "".join(f'<div class="head">{text}</div>' for text in heads)
    return (
        '<section><h2>Held-out views</h2><p class="soft">The error is the mean absolute difference of the channels; '
        "distance is the median along the ray, in the capture’s unit, near is bright.</p>"
        f'<div class="views">{head}{"".join(_view(view, span) for view in evaluation.kept)}</div></section>'
    )


def _view(view: ScoredView, span: Span) -> str:
    truth, error = to_bytes(view.truth), error_colours(view.picture.rgb, view.truth)
    if view.mask is not None:  # what is not scored fades, and has no error
        kept = view.mask[:, :, None].numpy()
        truth = np.where(kept, truth, truth // 3 + 85).astype(np.uint8)
        error = np.where(kept, error, ramp("error")[0]).astype(np.uint8)
    frames = (truth, to_bytes(view.picture.rgb), error, distance_colours(view.picture, span))
    words = ("photograph", "rendering", "error", "distance")
    pictures = "".join(img(frame, f"{view.name}: {word}") for frame, word in zip(frames, words))
    shown = [key for key in ("psnr", "ssim", "lpips") if view.numbers.get(key) is not None]
    numbers = "".join(
        f"<span>{NUMBERS[k][0]} {_number(k, view.numbers[k])} {NUMBERS[k][1]}</span>".replace(" </span>", "</span>")
        for k in shown
    )
    return f'{pictures}<p class="name"><b>{escape(view.name)}</b>{numbers}</p>'


def snapshots_section(snapshots: Sequence[tuple[str, Frame]]) -> str:
    """One view through the training, in a row."""
    if not snapshots:
        return ""
    figures = "".join(
        f"<figure>{img(frame, label)}<figcaption>{escape(label)}</figcaption></figure>" for label, frame in snapshots
    )
    return f'<section><h2>As it learned</h2><div class="strip">{figures}</div></section>'


# -- curves ------------------------------------------------------------------------------------------------------------


def curves_section(log: Sequence[Mapping[str, Any]], test_psnr: float | None) -> str:
    """PSNR, loss with its terms, and speed, over seconds below and steps above."""
    rows = [row for row in log if row.get("seconds") is not None and row.get("step") is not None]
    if len(rows) < 2:
        return ""
    seconds = [float(row["seconds"]) for row in rows]
    marks = step_marks(seconds, [int(row["step"]) for row in rows])
    level = None
    if test_psnr is not None and isfinite(test_psnr):
        level = (test_psnr, f"held-out views {test_psnr:.2f}")
    quality = Series("psnr", seconds, [_real(row.get("psnr")) for row in rows])
    charts = [
        line_chart("PSNR of training rays, dB", [quality], x_label="s", top=marks, level=level),
        line_chart("Loss", _losses(rows, seconds), x_label="s", top=marks, log=True),
        line_chart("Rays per second", [_speed(rows, seconds)], x_label="s", top=marks),
    ]
    if not any(charts):
        return ""
    return (
        '<section><h2>Training</h2><p class="soft">Seconds of training below, steps above.</p>'
        f'<div class="charts">{"".join(charts)}</div></section>'
    )


def _losses(rows: Sequence[Mapping[str, Any]], seconds: list[float]) -> list[Series]:
    """The total, and each term where there are several."""
    losses = [{name: _real(value) for name, value in (row.get("losses") or {}).items()} for row in rows]
    names = list(dict.fromkeys(name for row in losses for name in row))
    totals = [sum(v for v in row.values() if v is not None) if row else None for row in losses]
    terms = [Series(name, seconds, [row.get(name) for row in losses]) for name in names]
    return [Series("total", seconds, totals), *(terms if len(terms) > 1 else [])]


def _speed(rows: Sequence[Mapping[str, Any]], seconds: list[float]) -> Series:
    """Rays a second from row to row."""
    speed: list[float | None] = []
    for before, row, passed in zip(rows, rows[1:], np.diff(seconds)):
        steps, rays = row["step"] - before["step"], sum((row.get("rays") or {}).values())
        speed.append(steps * rays / passed if passed > 0 and rays else None)
    return Series("rays per second", seconds[1:], speed)


def _real(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def step_marks(seconds: Sequence[float], steps: Sequence[int]) -> list[tuple[float, str]]:
    """Round step counts and the seconds at which they were reached."""
    ticks = linear_axis(steps[0], steps[-1], tight=True).ticks
    marks = [(float(np.interp(tick, steps, seconds)), short(tick)) for tick in ticks if tick > 0]
    return [(x, f"{text} steps" if i == len(marks) - 1 else text) for i, (x, text) in enumerate(marks)]

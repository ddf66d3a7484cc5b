"""The report of a run of a family: numbers by how many views were shown, and what was predicted of a few scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from rayprior.evaluation.export import Frame
from rayprior.evaluation.family import FamilyEvaluation, ShownScene
from rayprior.evaluation.page import header, img, pairs, scale, write_page
from rayprior.evaluation.pictures import ERROR_SCALE, Picture, Span, distance_colours, error_colours, to_bytes
from rayprior.evaluation.report import curves_section, settings_section, snapshots_section
from rayprior.evaluation.sheets import LARGEST_DEVIATION, deviation_colours, montage

# key of a number -> how it is called and written
NUMBERS = {
    "psnr": ("PSNR, dB", "{:.2f}"),
    "nearest_view_psnr": ("nearest shown view, dB", "{:.2f}"),
    "prior_mean_psnr": ("nothing shown, dB", "{:.2f}"),
    "mean_picture_psnr": ("mean picture, dB", "{:.2f}"),
    "mse": ("MSE", "{:.5f}"),
    "distance_abs_rel": ("distance AbsRel", "{:.4f}"),
    "prior_mean_distance_abs_rel": ("nothing shown, distance AbsRel", "{:.4f}"),
    "kl": ("KL, nats", "{:.1f}"),
    "active_units": ("active units", "{:.0f}"),
    "nats": ("negative ELBO, nats a scene", "{:.0f}"),
    "bits": ("bits a colour value", "{:.3f}"),
    "deviation": ("deviation of draws", "{:.4f}"),
    "auc_unseen": ("AUC of deviation, unseen surfaces", "{:.3f}"),
    "coverage_50": ("coverage of 50 %", "{:.1%}"),
    "coverage_80": ("coverage of 80 %", "{:.1%}"),
    "coverage_95": ("coverage of 95 %", "{:.1%}"),
}


def number_at(evaluation: FamilyEvaluation, key: str, n: int) -> float | None:
    """A mean, of n shown views where it depends on them."""
    return evaluation.mean.get(f"{key}@{n}", evaluation.mean.get(key))


def write_family_report(
    path: Path,
    *,
    title: str,
    about: str,
    command: str,
    machine: str,
    facts: Mapping[str, str],
    evaluation: FamilyEvaluation | None,
    shown: Sequence[ShownScene],
    expects: str,
    log: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    snapshots: Sequence[tuple[str, Frame]] = (),
) -> Path:
    """Write report.html, whole or not at all; arguments as those of `report.write_report`.

    evaluation  None where no scene is held out
    shown       scenes with pictures, with draws where deviation is to be seen
    """
    best = None if evaluation is None else number_at(evaluation, "psnr", evaluation.counts[-1])
    sections = [
        header(title, about, command, {**facts, "machine": machine}),
        _numbers(evaluation, expects),
        _scenes(shown),
        snapshots_section(snapshots),
        curves_section(log, best),
        _protocol(evaluation),
        settings_section(recipe),
    ]
    write_page(path, title, sections)
    return path


def _numbers(evaluation: FamilyEvaluation | None, expects: str) -> str:
    if evaluation is None:
        return '<section><p class="note">No scene was held out: nothing is scored.</p></section>'
    head = "".join(f"<th>{n} view{'s' * (n > 1)}</th>" for n in evaluation.counts)
    rows = []
    for key, (label, form) in NUMBERS.items():
        values = [number_at(evaluation, key, n) for n in evaluation.counts]
        if any(value is not None for value in values):
            cells = "".join(f"<td>{'–' if v is None else form.format(v)}</td>" for v in values)
            first = ' class="mean"' if key == "psnr" else ""
            rows.append(f"<tr{first}><td>{label}</td>{cells}</tr>")
    scenes = len(evaluation.scenes)
    note = f"Mean of {scenes} held-out scene{'s' * (scenes != 1)}. {expects[:1].upper()}{expects[1:].rstrip('.')}."
    return (
        f'<section><h2>From so many views</h2><div class="table"><table><tr><th></th>{head}</tr>{"".join(rows)}</table>'
        f'</div><p class="note">{escape(note)}</p></section>'
    )


def _scenes(shown: Sequence[ShownScene]) -> str:
    """A row for each scene and number of shown views: these, truth, rendering, error, deviation, distance."""
    if not shown:
        return ""
    distances = [p.distance.flatten() for scene in shown for p in scene.predictions.values() if p.distance is not None]
    span = Span.of(torch.cat(distances), torch.ones(sum(map(len, distances)))) if distances else None
    drawn = any(p.draws is not None and len(p.draws) > 1 for scene in shown for p in scene.predictions.values())
    heads = ["Shown", "Photograph", "Rendering", "Error" + scale("error", "0", f"{ERROR_SCALE:g}+")]
    if drawn:
        heads.append("Deviation" + scale("error", "0", f"{LARGEST_DEVIATION:g}+"))
    if span is not None:
        heads.append("Distance" + scale("distance", f"{span.far:.3g}", f"{span.near:.3g}"))
    rows = [_row(scene, n, span, drawn) for scene in shown for n in scene.predictions]
    head = "".join(f'<div class="head">{text}</div>' for text in heads)
    return (
        '<section><h2>Held-out scenes</h2><p class="soft">One view that was not shown, as the mean of what is believed'
        " renders it. Deviation is that of renderings drawn from what is believed, where one of them is as good as"
        f' another.</p><div class="views" style="grid-template-columns: repeat({len(heads)}, minmax(0, 1fr))">{head}'
        f"{''.join(rows)}</div></section>"
    )


def _row(scene: ShownScene, n: int, span: Span | None, drawn: bool) -> str:
    found, truth = scene.predictions[n], scene.truth[0]
    frames = {
        "shown": montage(scene.context[:n]),
        "photograph": to_bytes(truth),
        "rendering": to_bytes(found.rgb[0, 0]),
        "error": error_colours(found.rgb[0, 0], truth),
    }
    if drawn and found.deviation is not None:
        frames["deviation"] = deviation_colours(found.deviation[0, 0])
    if span is not None and found.distance is not None:
        distance = found.distance[0, 0]
        frames["distance"] = distance_colours(Picture(found.rgb[0, 0], distance, torch.ones_like(distance)), span)
    pictures = "".join(img(frame, f"{scene.name}: {word}") for word, frame in frames.items())
    return f'{pictures}<p class="name"><b>{escape(scene.name)}</b><span>{n} shown</span></p>'


def _protocol(evaluation: FamilyEvaluation | None) -> str:
    if evaluation is None:
        return ""
    return (
        '<section><h2>Protocol</h2><p class="soft">How the numbers were made. Numbers of another protocol can’t be'
        f" compared with them.</p>{pairs(evaluation.protocol)}</section>"
    )

"""Descriptor pictures: descriptors as colours, clusters of them in the plane, and the curves that judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rayprior.errors import UserError
from rayprior.evaluation.chart import Axis, linear_axis, short
from rayprior.evaluation.export import Frame
from rayprior.evaluation.pictures import to_bytes
from rayprior.files import write_json
from rayprior.plain import Reader, parse_json, to_plain

CHANNELS = 3
CLIPPED = 0.01  # of the values of a colour, at either end, shown as its darkest and brightest
MOST_POINTS = 600  # of a cluster in its chart
STEPS = 200  # of a curve
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 270, 46, 14, 24, 36


@dataclass(frozen=True)
class Colouring:
    """From descriptors to colours: colour = (axes (descriptor - mean) - low) / (high - low), within [0, 1].

    Kept in a file, it gives every picture that is shown later the same colours.

    mean        (d)
    axes        three rows of (d): the first three channels, or the directions in which d > 3 channels vary most
    low, high   of each colour
    """

    mean: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @staticmethod
    def of(
        descriptors: Sequence[Float[Tensor, "h w d"]], masks: Sequence[Bool[Tensor, "h w"] | None] = ()
    ) -> Colouring:
        """From one, two or many pictures together, or what their masks keep of them. UserError where nothing is."""
        kept = [grid.reshape(-1, grid.shape[2]) for grid in descriptors]
        if masks:
            kept = [rows if mask is None else rows[mask.reshape(-1)] for rows, mask in zip(kept, masks, strict=True)]
        rows = torch.cat(kept).double() if kept else torch.empty(0, CHANNELS)
        if len(rows) == 0:
            raise UserError("no pixel to take the colours of descriptors from; are all the masks empty?")
        dimension = rows.shape[1]
        if dimension > CHANNELS:
            mean = rows.mean(dim=0)
            axes = principal_axes(rows, CHANNELS)
        else:
            mean, axes = torch.zeros(dimension, dtype=torch.float64), torch.eye(CHANNELS, dimension).double()
        shown = ((rows - mean) @ axes.T).numpy()
        low, high = np.quantile(shown, (CLIPPED, 1 - CLIPPED), axis=0)
        plain = (tuple(map(float, values)) for values in (mean, low, high))
        mean, low, high = plain
        return Colouring(mean, tuple(tuple(row) for row in axes.tolist()), low, high)

    @staticmethod
    def read(path: Path) -> Colouring:
        """One that `write` wrote. UserError where it is missing or broken."""
        try:
            text = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); expected the colouring.json that `rayprior describe"
                " pictures` wrote"
            ) from None
        found: Colouring = Reader(str(path)).read(parse_json(text, str(path)), Colouring)
        widths = {len(row) for row in found.axes} | {len(found.mean)}
        if len(widths) > 1 or {len(found.axes), len(found.low), len(found.high)} != {CHANNELS}:
            raise UserError(f"{path}: no colouring; expected three axes, lows and highs, and axes as long as the mean")
        return found

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        write_json(path, to_plain(self))

    def frame(self, descriptors: Float[Tensor, "h w d"]) -> Frame:
        """A picture of descriptors. UserError for another dimension."""
        if descriptors.shape[2] != len(self.mean):
            raise UserError(
                f"descriptors of {descriptors.shape[2]} numbers, and colours for {len(self.mean)}; take the colours of"
                " the same network"
            )
        mean, axes, low, high = (torch.tensor(x, dtype=torch.float64) for x in vars(self).values())
        shown = ((descriptors.double() - mean) @ axes.T - low) / (high - low).where(high > low, 1.0)
        return to_bytes(shown.where(high > low, 0.0))


def principal_axes(rows: Float[Tensor, "n d"], count: int) -> Float[Tensor, "count d"]:
    """The directions in which rows vary most, most first; each with its largest entry positive."""
    centred = rows.double() - rows.double().mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors.flip(1)[:, :count].T
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return axes * torch.where(largest < 0, -1.0, 1.0)


# -- charts ------------------------------------------------------------------------------------------------------------


def cluster_chart(title: str, clusters: Mapping[str, Float[Tensor, "n d"]]) -> str:
    """Descriptors of several objects as points in one plane: their two principal axes, or the numbers themselves.

    Every k-th of very many is drawn. UserError for another dimension in one of them, and where nothing is there.
    """
    filled = {name: rows[:: max(1, -(-len(rows) // MOST_POINTS))] for name, rows in clusters.items() if len(rows)}
    if not filled:
        raise UserError("no descriptor to draw clusters of; are all the masks empty?")
    dimensions = {rows.shape[1] for rows in filled.values()}
    if len(dimensions) > 1:
        raise UserError(f"clusters of descriptors of {sorted(dimensions)} numbers; expected those of one network")
    everything = torch.cat([*filled.values()]).double()
    names = ("first number", "second number")
    if everything.shape[1] == 1:
        everything = torch.cat([everything, torch.zeros_like(everything)], dim=1)
    elif everything.shape[1] > 2:
        names = ("first principal axis", "second")
        everything = (everything - everything.mean(dim=0)) @ principal_axes(everything, 2).T
    low, high = everything.amin(dim=0), everything.amax(dim=0)
    across = linear_axis(float(low[0]), float(high[0]))
    up = linear_axis(float(low[1]), float(high[1]))
    parts = [_frame(across, up, *names)]
    for number, points in enumerate(everything.split([len(rows) for rows in filled.values()])):
        at = "".join(f"M{_x(across, x):.1f} {_y(up, y):.1f}h0" for x, y in points.tolist())
        parts.append(
            f'<path class="s{number % 6}" d="{at}" fill="none" stroke-width="4" stroke-linecap="round" opacity=".45"/>'
        )
    return _figure(title, list(filled), parts)


def share_chart(
    title: str, errors: Mapping[str, Float[Tensor, "p"]], *, x_label: str, most: float, marks: Sequence[float] = ()
) -> str:
    """Curves of the share of pairs whose error is less than x, for x up to `most`: of pixel errors PCK, in general the
    cumulative distribution. Exact, not smoothed. `marks`: x at which thin lines stand.

    UserError where a curve has no pair.
    """
    for name, values in errors.items():
        if len(values) == 0:
            raise UserError(f"'{name}': no pair to draw a curve of")
    across, up = linear_axis(0.0, most, tight=True), Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
    parts = [_frame(across, up, x_label, "share of pairs")]
    base = f'y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
    parts += [f'<line class="tick" x1="{_x(across, x):.1f}" x2="{_x(across, x):.1f}" {base}/>' for x in marks]
    limits = torch.linspace(0, most, STEPS + 1, dtype=torch.float64)
    for number, values in enumerate(errors.values()):
        curve = zip(limits.tolist(), share_below(values, limits).tolist())
        points = " ".join(f"{_x(across, x):.1f},{_y(up, y):.1f}" for x, y in curve)
        parts.append(f'<polyline class="line s{number % 6}" points="{points}"/>')
    return _figure(title, list(errors), parts)


def share_below(errors: Float[Tensor, "p"], limits: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The share of errors that are less than each limit; one that is not a number is less than none."""
    ordered = errors.double().nan_to_num(nan=torch.inf).sort().values
    below: Int[Tensor, "n"] = torch.searchsorted(ordered, limits.double(), right=False)
    return below.double() / len(errors)


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _frame(across: Axis, up: Axis, x_label: str, y_label: str) -> str:
    """Grid, ticks and names of both axes."""
    right, low = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in up.ticks:
        y = _y(up, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{short(value)}</text>')
    for value in across.ticks:
        x = _x(across, value)
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{low}" y2="{low + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{low + 16}" text-anchor="middle">{short(value)}</text>')
    parts.append(f'<text x="{right}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 10}">{escape(y_label)}</text>')
    return "".join(parts)


def _figure(title: str, names: Sequence[str], parts: Sequence[str]) -> str:
    keys = "".join(f'<span class="key s{i % 6}">{escape(name)}</span>' for i, name in enumerate(names))
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<span class="keys">{keys}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )

"""Chart: curves as inline SVG, coloured by the page's own style, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 34
LABELS, LABEL_LETTERS, ROW = 140, 22, 24  # of a chart of intervals: room for names, their length, height of a row
MOST_POINTS = 240
SMOOTH = 0.04  # the bold curve is a mean over this share of the points on either side


@dataclass(frozen=True)
class Series:
    """A named curve; points that are not finite (or not positive on a log scale) are left out. low, high: the edges of
    a band around it, point by point."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Bar:
    """A named value with its interval."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Axis:
    """A value axis: what it spans, where its ticks stand, and where a value lies (0 low end, 1 high end)."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        if self.log:
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    log: bool = False,
    top: Sequence[tuple[float, str]] = (),
    level: tuple[float, str] | None = None,
) -> str:
    """One chart: raw points pale, their running mean bold. `top`: (x, text) marks of a second scale along the top;
    `level`: (y, text) a dashed line across. Empty where no series has two points."""
    drawn = [(s.label, _points(s, log)) for s in series]
    drawn = [(label, points) for label, points in drawn if len(points) > 1]
    if not drawn:
        return ""
    values = [y for _, points in drawn for _, y in points]
    values += [y for s in series for y in (*s.low, *s.high) if isfinite(y) and (y > 0 or not log)]
    if level is not None and (level[0] > 0 or not log):
        values.append(level[0])
    across = linear_axis(0, max(max(s.x) for s in series if s.x), tight=True)
    up = log_axis(min(values), max(values)) if log else linear_axis(min(values), max(values))
    parts = [_grid(across, up, x_label, top)]
    if level is not None:
        parts.append(_level(up, *level))
    shown = [s for s in series if s.label in dict(drawn)]
    parts += [_band(s, across, up, f"band s{number % 6}") for number, s in enumerate(shown) if s.low]
    for number, (_, points) in enumerate(drawn):
        parts.append(_line(points, across, up, f"raw s{number % 6}"))
        parts.append(_line(_running_mean(points), across, up, f"line s{number % 6}"))
    legend = _legend([label for label, _ in drawn]) if len(drawn) > 1 else ""
    return _figure(title, legend, HEIGHT, parts)


def interval_chart(title: str, bars: Sequence[Bar], *, x_label: str) -> str:
    """A row for each value: a dot with its interval, and a line at 0. Empty where nothing is finite."""
    bars = [bar for bar in bars if all(map(isfinite, (bar.value, bar.low, bar.high)))]
    if not bars:
        return ""
    axis = linear_axis(min(0.0, *(bar.low for bar in bars)), max(0.0, *(bar.high for bar in bars)))
    low = TOP + ROW * len(bars)

    def x(value: float) -> float:
        return LABELS + axis.place(value) * (WIDTH - LABELS - RIGHT)

    parts = [f'<line class="level" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP}" y2="{low}"/>']
    for value in axis.ticks:
        unit = f" {escape(x_label)}" if value == axis.ticks[-1] else ""
        parts.append(f'<line class="tick" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{low}" y2="{low + 4}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{low + 17}" text-anchor="middle">{short(value)}{unit}</text>')
    for number, bar in enumerate(bars):
        y = TOP + ROW * (number + 0.5)
        label = bar.label if len(bar.label) <= LABEL_LETTERS else bar.label[: LABEL_LETTERS - 1] + "…"
        parts.append(f'<text x="{LABELS - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<line class="line s0" x1="{x(bar.low):.1f}" x2="{x(bar.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<circle class="dot s0" cx="{x(bar.value):.1f}" cy="{y:.1f}" r="4"/>')
    return _figure(title, "", low + BOTTOM, parts)


# -- axes --------------------------------------------------------------------------------------------------------------


def linear_axis(low: float, high: float, tight: bool = False) -> Axis:
    """About five round ticks. `tight`: the axis ends at the values, else at round numbers beyond them."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value, but for rounding
        room = abs(low) / 10 or 0.5
        low, high = low - room, high + room
    step = round_step((high - low) / 5)
    first, last = (ceil, floor) if tight else (floor, ceil)
    ticks = [round(i * step, 10) for i in range(first(low / step - 1e-9), last(high / step + 1e-9) + 1)]
    return Axis(low, high, tuple(ticks)) if tight else Axis(ticks[0], ticks[-1], tuple(ticks))


def log_axis(low: float, high: float) -> Axis:
    """Ticks at powers of ten; at 1, 2, 5 where the values span little."""
    first, last = floor(log10(low)), ceil(log10(high))
    last = max(last, first + 1)
    steps = (1, 2, 5) if log10(high / low) < 1.7 else (1,)
    marks = [m * 10.0**power for power in range(first, last + 1) for m in steps]
    below = [m for m in marks if m <= low * 1.0001] or marks[:1]
    above = [m for m in marks if m >= high * 0.9999] or marks[-1:]
    if below[-1] == above[0]:
        return Axis(marks[0], marks[-1], tuple(marks), log=True)
    return Axis(below[-1], above[0], tuple(m for m in marks if below[-1] <= m <= above[0]), log=True)


def round_step(width: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `width`."""
    power = 10.0 ** floor(log10(width))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= width * (1 - 1e-9))


def short(value: float) -> str:
    """A number as a tick says it: 0, 250, 20k, 0.005, 1e-5."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:g}" if abs(value) >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


# -- marks -------------------------------------------------------------------------------------------------------------


def _points(series: Series, log: bool) -> list[tuple[float, float]]:
    """The points that can be drawn, averaged in groups down to what a chart can show."""
    known = [
        (float(x), float(y)) for x, y in zip(series.x, series.y) if y is not None and isfinite(y) and (y > 0 or not log)
    ]
    group = ceil(len(known) / MOST_POINTS) or 1
    parts = [known[i : i + group] for i in range(0, len(known), group)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def _running_mean(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centred; narrower towards the ends, where it would otherwise lean inwards."""
    reach = round(len(points) * SMOOTH)
    smooth = []
    for i, (x, _) in enumerate(points):
        r = min(reach, i, len(points) - 1 - i)
        around = points[i - r : i + r + 1]
        smooth.append((x, sum(y for _, y in around) / len(around)))
    return smooth


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _line(points: list[tuple[float, float]], across: Axis, up: Axis, style: str) -> str:
    path = " ".join(f"{_x(across, x):.1f},{_y(up, y):.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{path}"/>'


def _band(series: Series, across: Axis, up: Axis, style: str) -> str:
    """Between the edges, there and back."""
    edges = [(x, a, b) for x, a, b in zip(series.x, series.low, series.high) if isfinite(a) and isfinite(b)]
    if up.log:
        edges = [(x, a, b) for x, a, b in edges if a > 0 and b > 0]
    outline = [(x, a) for x, a, _ in edges] + [(x, b) for x, _, b in reversed(edges)]
    path = " ".join(f"{_x(across, x):.1f},{_y(up, y):.1f}" for x, y in outline)
    return f'<polygon class="{style}" points="{path}"/>'


def _grid(across: Axis, up: Axis, x_label: str, top: Sequence[tuple[float, str]]) -> str:
    right, low = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in up.ticks:
        y = _y(up, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{short(value)}</text>')
    for value in across.ticks:
        x = _x(across, value)
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{low}" y2="{low + 4}"/>')
        unit = f" {escape(x_label)}" if value == across.ticks[-1] else ""
        parts.append(f'<text x="{x:.1f}" y="{low + 17}" text-anchor="middle">{short(value)}{unit}</text>')
    for value, text in top:
        x = _x(across, value)
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{TOP}"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP - 9}" text-anchor="middle">{escape(text)}</text>')
    return "".join(parts)


def _level(up: Axis, value: float, text: str) -> str:
    y = _y(up, value)
    return (
        f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="level" x="{LEFT + 4}" y="{y - 6:.1f}">{escape(text)}</text>'
    )


def _figure(title: str, legend: str, height: int, parts: Sequence[str]) -> str:
    """A drawing under its title and legend (HTML)."""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{legend}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _legend(labels: list[str]) -> str:
    items = (f'<span class="key s{i % 6}">{escape(label)}</span>' for i, label in enumerate(labels))
    return f'<span class="keys">{"".join(items)}</span>'

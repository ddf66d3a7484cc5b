"""What all verbs share at a terminal: the console, a bar for counted work, and how numbers and times are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rayprior.maths.schedules import Schedule

console = Console(highlight=False, soft_wrap=True, markup=False)  # names of files and scenes may hold brackets


@contextmanager
def counted(what: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """A bar for counted work: call with (done, of how many). Without a terminal, nothing."""
    columns = TextColumn(what), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def rate(rays_per_second: float) -> str:
    """'65.0k rays/s'."""
    return f"{rays_per_second / 1000:.1f}k rays/s" if rays_per_second >= 1000 else f"{rays_per_second:.0f} rays/s"


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes; '?' where nobody knows."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}" if seconds < float("inf") else "?"


def number(value: float | None) -> str:
    """Four digits, of larger numbers two decimals; nothing for None."""
    return "" if value is None else f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"


def weight_text(weight: float | Schedule) -> str:
    """A term's weight, as it is announced."""
    return f"{weight:g}" if isinstance(weight, (int, float)) else "a schedule"

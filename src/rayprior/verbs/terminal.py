"""What all verbs share at a terminal: the console, a bar for counted work, and how numbers and times are written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rayprior.maths.schedules import Schedule

if TYPE_CHECKING:
    from rayprior.training.loop import Progress as Standing

REDRAWN = 0.1  # seconds between two looks at a training

console = Console(highlight=False, soft_wrap=True, markup=False)  # names of files and scenes may hold brackets


@contextmanager
def counted(what: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """A bar for counted work: call with (done, of how many). Without a terminal, nothing."""
    columns = TextColumn(what), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


@contextmanager
def stepped(
    said: Callable[[Standing], str], begun: Callable[[], None] = lambda: None
) -> Iterator[Callable[[Standing], None]]:
    """A bar for a training: its step, what `said` tells of it, and time left; where the output is no terminal, a line
    every tenth. `begun` is called once, after the first step."""
    bar = Progress(
        TextColumn("step {task.fields[step]:>7,}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[said]}  {task.fields[left]} left", markup=False),
        console=console,
        disable=not console.is_terminal,
        refresh_per_second=8,
    )
    shown_at, tenth, task = 0.0, 0, None

    def watch(now: Standing) -> None:
        nonlocal shown_at, tenth, task
        clock = time.monotonic()
        if now.share < 1 and clock - shown_at < REDRAWN:
            return
        shown_at = clock
        numbers = {"step": now.step, "said": said(now), "left": duration(now.seconds_left)}
        if task is None:
            begun()
            bar.start()
            task = bar.add_task("", total=1.0, **numbers)
        bar.update(task, completed=now.share, **numbers)
        if not console.is_terminal and int(now.share * 10) > tenth:
            tenth = int(now.share * 10)
            console.print(f"{now.share:4.0%}  step {now.step:,}  {numbers['said']}  {numbers['left']} left")

    try:
        yield watch
    finally:
        bar.stop()


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

"""`capture`: photos or a video in, a scene folder out, with a bar for each step."""

from __future__ import annotations

import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rayprior.capture.capture import CaptureOptions, capture
from rayprior.capture.scene_folder import Captured
from rayprior.verbs.terminal import console, duration

SHOWN = 10
BLURRED = 0.5  # of the usual sharpness


def run_capture(source: Path, out: Path, options: CaptureOptions) -> None:
    """Capture with progress; prints what became of the photos, and the scene's folder last."""
    begun = time.monotonic()
    columns = (
        TextColumn("{task.description:<16}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        tasks = {}

        def progress(what: str, done: int, count: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[what] = bar.add_task(what, total=count)
            elif done <= 1 or bar.tasks[tasks[what]].finished:
                bar.reset(tasks[what], total=count, visible=True)
            bar.update(tasks[what], completed=done, total=count, visible=True)

        done = capture(source, out, options, on_progress=progress, say=console.print)
    _summary(done, time.monotonic() - begun)
    print(out)


def _summary(done: Captured, seconds: float) -> None:
    registered = len(done.registered)
    console.print(
        f"{registered} of {len(done.photos)} photos have a place; {done.points:,} points, mean reprojection error"
        f" {done.error_px:.2f} px; {duration(seconds)}",
        style="bold",
    )
    missing = [photo for photo in done.photos if not photo["registered"]]
    for photo in missing[:SHOWN]:
        console.print(f"  without a place: {photo['name']}: {photo['why_not']}")
    if len(missing) > SHOWN:
        console.print(f"  and {len(missing) - SHOWN} more, in {done.path / 'capture.json'}")
    blurred = [photo["name"] for photo in done.photos if (photo.get("sharpness") or 1.0) < BLURRED]
    if blurred:
        console.print(f"  much less sharp than the others: {', '.join(blurred[:SHOWN])}")
    for note in done.notes:
        console.print(f"  note: {note}")
    console.print(f"next: rayprior doctor {done.path}; rayprior train grid {done.path} --seconds 60")

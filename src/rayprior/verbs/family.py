"""`family make`: a family of embedded scenes on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rayprior.errors import UserError
from rayprior.kernels.threads import set_threads
from rayprior.scenes.synthetic.families import checked_kind, checked_shift
from rayprior.scenes.synthetic.making import FamilyPlan
from rayprior.scenes.synthetic.making import make_family as write_family
from rayprior.training import fit
from rayprior.verbs.terminal import console, counted, duration


def make_family(
    kind: str,
    out: Path,
    *,
    scenes: int,
    views: int,
    size: int,
    seed: int,
    test: int | None,
    shift: Sequence[str],
    exposure: float,
    workers: int | None,
) -> None:
    """Write a family, with a bar; prints its folder last."""
    moved = checked_shift(checked_kind(kind), shift)
    plan = FamilyPlan(kind, scenes, views, size, seed, test, moved, exposure)
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    set_threads(1)
    begun, made = time.perf_counter(), 0
    with counted(f"making {kind}", "scenes") as bar:

        def on_progress(done: int, of: int) -> None:
            nonlocal made
            made = done
            bar(done, of)

        index, damaged = write_family(plan, out, workers or fit.cores(), on_progress)
    seconds = time.perf_counter() - begun
    if damaged:
        console.print(f"shards that were damaged are made again: {', '.join(map(str, damaged))}")
    kept = scenes - made
    there = f", {kept} were there already" if kept else ""
    pace = f" in {duration(seconds)}, {made / seconds:.0f} scenes/s" if made else ""
    console.print(f"{made} scenes made{pace}{there}")
    first, end = index.split["test"]
    console.print(
        f"{kind}: {scenes} scenes of {views} views, {size}x{size}; {first} train, {end - first} test"
        + "".join(f"; {name} {value:+g}" for name, value in index.shift.items())
    )
    print(out)

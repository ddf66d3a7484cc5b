"""`depth make`: depth maps of a capture from a run."""

from __future__ import annotations

from pathlib import Path

from rayprior.evaluation.depth_maps import make_depth as write_depth_of_capture
from rayprior.kernels.threads import set_threads
from rayprior.training.fit import cores, device_named
from rayprior.training.run import Run
from rayprior.verbs.terminal import console, counted


def make_depth(
    scene: str,
    path: Path,
    split: str | None,
    views: str | None,
    out: Path | None,
    *,
    force: bool,
    threads: int | None,
    device: str,
) -> None:
    """Depth maps of a capture from a run, with a bar; prints their folder last."""
    set_threads(threads or cores())
    run = Run.open(path)
    run.check_one_scene()
    run.model.to(device_named(device))
    with counted("rendering depth", "views") as bar:
        folder, kept = write_depth_of_capture(
            scene, run, split=split, views=views, out=out, force=force, on_progress=bar
        )
    saw = run.opening.protocol["train"]
    fewest = min(kept, key=lambda name: kept[name])
    console.print(
        f"depth of {len(kept)} views, derived from {path}, trained on {len(saw)} views; kept"
        f" {sum(kept.values()) / len(kept):.0%} of their pixels (fewest: {fewest} {kept[fewest]:.0%})"
    )
    if out is not None:
        console.print(f"to use it: --depth {out}")
    print(folder)

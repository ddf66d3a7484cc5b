"""`render`: films along a path, or of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rayprior.errors import UserError
from rayprior.evaluation.appearance import show_in_light_of
from rayprior.evaluation.export import export_path
from rayprior.evaluation.pictures import Renders
from rayprior.evaluation.trajectories import camera_path
from rayprior.scenes.scene import Scene
from rayprior.training.refining import RefinerRun
from rayprior.training.run import Run
from rayprior.verbs.measure import frame_of_step, opened
from rayprior.verbs.terminal import counted


def render_run(
    path: Path,
    trajectory: str,
    show: str,
    format: Literal["mp4", "webp", "gif", "png"],
    frames: int | None,
    size: str | None,
    out: Path | None,
    *,
    appearance: str | None,
    snapshots: bool,
    refiner: Path | None,
    threads: int | None,
    device: str,
) -> None:
    """A film along a path, or of the training; prints its path last."""
    run, scene = opened(path, threads, device)
    wanted = None if size is None else _size(size)
    if appearance is not None:
        if snapshots:
            raise UserError("--appearance: a film of the training is in the mean light; leave it out, or --snapshots")
        show_in_light_of(run.model, scene, appearance)
    if snapshots:
        if refiner is not None:
            raise UserError("--refiner: a film of the training shows the field alone; leave it out, or --snapshots")
        print(_training_film(run, scene, format, wanted, out))
        return
    cameras = camera_path(trajectory, scene, frames, wanted)
    model: Renders = run.model
    folder = run.path
    if refiner is not None:
        of = RefinerRun.open(refiner, run)
        model, folder = of.refined(scene), of.path
        of.check_sizes(cameras.size.tolist())
    target = out or folder / "renders" / Path(trajectory).stem
    shows: Any = tuple(part.strip() for part in show.split(",") if part.strip())
    with counted("rendering", "frames") as bar:
        written = export_path(model, scene, cameras, target, shows=shows, format=format, on_progress=bar)
    print(written)


def _training_film(run: Run, scene: Scene, format: Any, size: tuple[int, int] | None, out: Path | None) -> Path:
    from rayprior.evaluation.export import write_film, write_frames

    if not run.snapshots:
        raise UserError(f"{run.path}: this run kept no weights on the way; train with --snapshots N")
    frames = [frame_of_step(run, scene, step, size) for step in run.snapshots]
    target = out or run.path / "renders" / "training"
    if format == "png":
        write_frames(target, frames)
        return target
    target = target if target.suffix == f".{format}" else target.with_name(f"{target.name}.{format}")
    write_film(target, frames, format, fps=4)
    return target


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not cross or not width.isdigit() or not height.isdigit():
        raise UserError(f"--size {text}: expected WIDTHxHEIGHT in pixels, as in --size 640x480")
    return int(width), int(height)

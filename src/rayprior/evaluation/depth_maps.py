"""Depth maps from a trained field, written as files that `load_scene` reads: derived depth, and marked as such."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from rayprior.errors import UserError
from rayprior.evaluation.pictures import SURFACE, Renders
from rayprior.files import remove, write_atomically, write_json
from rayprior.plain import to_plain
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.formats.depth import FOLDER as DEPTH
from rayprior.scenes.formats.depth import LEGEND, DerivedFrom, Legend, capture_folder, read_legend
from rayprior.scenes.open import EMBEDDED, load_scene, open_cameras
from rayprior.scenes.scene import Scene
from rayprior.scenes.splits import Frames, choose_split
from rayprior.training.run import Run
from rayprior.training.tasks import scene_for


def make_depth(
    path: str | Path,
    run: Run,
    *,
    split: str | None = None,
    views: str | None = None,
    out: Path | None = None,
    force: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, dict[str, float]]:
    """Write the depth of a capture's frames as a run sees them: the folder, and each frame's share of known pixels.

    path          the capture that the run was trained on
    split, views  the frames: all views of a named split, or those of these names or numbers; default every frame of
                  the capture whose photo is there, so that each split has depth
    out           the folder; default `depth` in the capture's folder, where `load_scene` finds it
    force         take the place of derived maps that are there; measured ones are never replaced
    on_progress   called with (frames done, frames in all)

    Raises UserError for another capture than the run's, an occupied folder, one that can't be written to, and a run
    whose rays meet no surface anywhere.
    """
    options = {name: value for name, value in run.opening.options.items() if name not in ("depth", "degrade")}
    scene = scene_for(run.recipe, load_scene(_same_capture(path, run), **options))
    description, cameras = open_cameras(path, format=options.get("format"), downscale=options.get("downscale") or 1)
    saw = tuple(run.opening.protocol["train"])
    unknown = [name for name in saw if name not in description.names]
    if unknown:
        raise UserError(
            f"{run.path}: was trained on view {unknown[0]!r}, which {path} does not have ({len(unknown)} of"
            f" {len(saw)}); name the capture that the run was trained on"
        )
    chosen = range(len(description.names))
    if split is not None or views is not None:
        named = choose_split(Frames(description.names, description.lists, description.path), split, views)
        chosen = named.train if views is not None else sorted({*named.train, *named.val, *named.test})
    if out is None and str(path).startswith(EMBEDDED):
        raise UserError(f"{path}: an embedded scene has exact depth, and no folder to write to; give --out DIR")
    folder = out if out is not None else capture_folder(description) / DEPTH
    _make_room(folder, force)
    made = DerivedFrom(str(run.path.absolute()), run.recipe.name, run.latest or 0, saw, date.today().isoformat())
    # first, so that maps are never taken for measured ones, even if writing stops halfway
    write_json(folder / LEGEND, to_plain(Legend(unit=1.0, kind="z", derived_from=made)))
    kept = write_depth(run.model, scene, cameras, description.names, chosen, folder, on_progress)
    if not any(kept.values()):
        _clear(folder)
        raise UserError(
            f"{run.path}: no ray of its {len(kept)} views meets a surface (opacity {SURFACE:g} or more), so there is no"
            f" depth to write; train it for longer: rayprior train --resume {run.path} --steps N"
        )
    return folder, kept


def write_depth(
    model: Renders,
    scene: Scene,
    cameras: Cameras,
    names: Sequence[str],
    chosen: Sequence[int],
    folder: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """folder/NAME.npz of the chosen cameras (working units), see `depth_of`; the share of known pixels of each."""
    kept = {}
    for done, index in enumerate(chosen, start=1):
        arrays = depth_of(model, scene, cameras, index)
        kept[names[index]] = float(np.isfinite(arrays["depth"]).mean())
        write_atomically(
            folder / f"{names[index]}.npz",
            lambda file, a=arrays: np.savez_compressed(file, depth=a["depth"], std=a["std"], opacity=a["opacity"]),
        )
        if on_progress is not None:
            on_progress(done, len(chosen))
    return kept


def depth_of(model: Renders, scene: Scene, cameras: Cameras, index: int) -> dict[str, Float32[np.ndarray, "h w"]]:
    """What a model sees through one camera (working units), in the capture's unit.

    depth    z of the median of where the ray ends; nan where opacity is below 1/2
    std      standard deviation of where it ends, along z as well
    opacity  the share of the ray that ends at all
    """
    pixel = cameras.pixel_grid(index)
    camera = torch.full((len(pixel),), index)
    rays = scene.rays(camera, pixel, cameras=cameras)
    parts = []
    with torch.no_grad():
        for part in model.render_in_chunks(rays):
            spread = part.distribution.variance.clamp_min(0).sqrt()
            parts.append(torch.stack([part.distance, spread, part.opacity]).cpu())
    distance, std, opacity = torch.cat(parts, dim=1).double()
    along_axis = cameras.axis_cosine(camera, pixel) / scene.similarity.scale
    depth = torch.where(opacity >= SURFACE, distance * along_axis, torch.nan)
    width, height = cameras.size[index].tolist()
    named = {"depth": depth, "std": std * along_axis, "opacity": opacity}
    return {name: value.float().view(height, width).numpy() for name, value in named.items()}


def _same_capture(path: str | Path, run: Run) -> str | Path:
    """`path`, if the run was trained on it, or on a capture that has since been moved from where it was."""
    trained_on = run.opening.path
    if str(path) == trained_on or Path(path).absolute() == Path(trained_on).absolute():
        return path
    embedded = trained_on.startswith(EMBEDDED) or str(path).startswith(EMBEDDED)
    both = Path(trained_on).exists() and Path(path).exists()
    if embedded or (both and not Path(trained_on).samefile(path)):
        raise UserError(f"{run.path}: was trained on {trained_on}, not on {path}; name that capture, or another run")
    return path


def _make_room(folder: Path, force: bool) -> None:
    """An empty place for derived maps, or an error that says what is there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder for depth maps, choose another --out")
    if not any(folder.iterdir()):
        return
    if not (folder / LEGEND).is_file() or read_legend(folder).derived_from is None:
        raise UserError(f"{folder}: holds something else than derived depth; it is not touched. Choose another --out")
    if not force:
        raise UserError(f"{folder}: holds derived depth already; replace it with --force, or choose another --out")
    _clear(folder)


def _clear(folder: Path) -> None:
    for file in [*folder.rglob("*.npz"), folder / LEGEND]:  # in this order: without it they would pass for measured
        remove(file)

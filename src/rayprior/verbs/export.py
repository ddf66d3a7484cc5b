"""`export`: what a run and its capture hold, in files that other programs open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from rayprior.errors import UserError, did_you_mean
from rayprior.evaluation.cloud import POINTS, surface_cloud
from rayprior.evaluation.export import Format, export_path
from rayprior.evaluation.mesh import LEVEL, RESOLUTION, mesh_of
from rayprior.evaluation.mesh_files import MESH_FORMATS, write_mesh
from rayprior.evaluation.trajectories import camera_path, camera_path_json
from rayprior.files import remove, write_json
from rayprior.maths.space import Box
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.open import open_cameras
from rayprior.scenes.scene import Scene
from rayprior.scenes.writing import CAMERA_KEYS, write_points, write_scene
from rayprior.training.run import Run
from rayprior.verbs.measure import opened
from rayprior.verbs.terminal import console, counted


@dataclass(frozen=True)
class Kind:
    """One thing to export: the formats that it may have, its own first, and the options that mean something to it."""

    formats: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        return not self.formats


PATH_OPTIONS = ("path", "frames")
WHAT: dict[str, Kind] = {
    "mesh": Kind(MESH_FORMATS, ("format", "resolution", "level", "box")),
    "points": Kind(("ply",), ("count",)),
    "poses": Kind(("json",)),
    "depth": Kind((), PATH_OPTIONS),
    "video": Kind(("mp4", *(f for f in get_args(Format) if f not in ("mp4", "png"))), ("format", *PATH_OPTIONS)),
    "nerfstudio": Kind(),
    "colmap": Kind(),
    "llff": Kind(),
}


def export_run(
    path: Path,
    what: str,
    out: Path | None,
    *,
    options: Mapping[str, Any],
    threads: int | None,
    device: str,
) -> None:
    """Write one thing of a run, say what it is worth, and print its path last.

    options  what was typed of those that `WHAT` lists, by name; others are refused
    """
    if what not in WHAT:
        raise UserError(f"nothing named '{what}' to export{did_you_mean(what, WHAT)}")
    kind = WHAT[what]
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in kind.options:
            means = f"its options are --{', --'.join(kind.options)}" if kind.options else "it has no options"
            raise UserError(f"export {what} with --{name}: that says nothing about {what}; {means}, and --out")
    format = _format(what, kind, given.get("format"), out)
    target = _place(path, what, kind, format, out)
    run, scene = opened(path, threads, device)
    final = target
    if out is None and kind.is_folder:  # an earlier export of this run stays until this one is whole
        target = final.with_name(f".{final.name}.new")
        remove(target)
    if what == "mesh":
        _mesh(run, scene, target, format, given)
    elif what == "points":
        _points(run, scene, target, given.get("count", POINTS))
    elif what == "poses":
        write_json(target, poses_json(scene))
    elif what in ("depth", "video"):
        _rendered(run, scene, target, what, format, given)
    else:
        _capture(run, scene, target, what)
    if target != final:
        remove(final)
        target.rename(final)
    print(final)


def _format(what: str, kind: Kind, typed: str | None, out: Path | None) -> str:
    """The format that was typed, else that of --out's suffix, else the kind's own; '' for a folder."""
    if kind.is_folder:
        return ""
    suffix = "" if out is None else out.suffix.removeprefix(".").lower()
    if typed is None and suffix and suffix not in kind.formats:
        raise UserError(f"--out {out}: {what} is written as {' or '.join('.' + f for f in kind.formats)}; rename it")
    if typed is not None and typed not in kind.formats:
        raise UserError(f"--format {typed}: {what} has no such format{did_you_mean(typed, kind.formats)}")
    if typed is not None and suffix and suffix != typed:
        raise UserError(f"--format {typed} with --out {out}: they name two formats; leave one of them out")
    return typed or suffix or kind.formats[0]


def _place(run: Path, what: str, kind: Kind, format: str, out: Path | None) -> Path:
    """Where to write: what an export of this run may replace is in RUN/export, anything else must be free."""
    if out is None:
        return run / "export" / (what if kind.is_folder else f"{what}.{format}")
    target = out if kind.is_folder or out.suffix else out.with_name(f"{out.name}.{format}")
    if target.is_dir() and kind.is_folder and not any(target.iterdir()):
        return target
    if target.exists():
        found = "a folder that is not empty" if target.is_dir() else "a file"
        raise UserError(f"--out {target}: there is {found} already, which is not touched; remove it or choose another")
    return target


# -- each of them ------------------------------------------------------------------------------------------------------


def _mesh(run: Run, scene: Scene, target: Path, format: Any, given: Mapping[str, Any]) -> None:
    box = None if "box" not in given else box_of(given["box"])
    resolution, level = given.get("resolution", RESOLUTION), given.get("level", LEVEL)
    with counted("density", "planes") as bar:
        mesh, quality = mesh_of(run.model, scene, box=box, resolution=resolution, level=level, on_progress=bar)
    write_mesh(target, mesh, format)
    console.print(f"mesh: {quality}")


def _points(run: Run, scene: Scene, target: Path, count: int) -> None:
    with counted("rays", "rays") as bar:
        position, rgb = surface_cloud(run.model, scene, torch.Generator().manual_seed(0), count, bar)
    write_points(target, position, rgb)
    console.print(f"{len(position):,} points, where the rays of {count:,} training pixels end")


def _rendered(run: Run, scene: Scene, target: Path, what: str, format: Any, given: Mapping[str, Any]) -> None:
    trajectory = given.get("path", "train" if what == "depth" else "orbit")
    own = what == "depth" and trajectory == "train" and "frames" not in given
    if own:  # each at its own photo's size
        cameras = scene.cameras[list(scene.split.train)]
    else:
        cameras = camera_path(trajectory, scene, given.get("frames"))
    with counted("rendering", "frames") as bar:
        if what == "video":
            export_path(run.model, scene, cameras, target, format=format, on_progress=bar)
            return
        export_path(run.model, scene, cameras, target, shows=("depth",), format="png", on_progress=bar)
    names = [scene.names[i] for i in scene.split.train] if own else None
    write_json(target / "poses.json", _poses(cameras, scene, names))
    console.print(f"distance and z of {len(cameras)} views, in depth/; poses.json has their cameras")


def _capture(run: Run, scene: Scene, target: Path, form: Any) -> None:
    """The capture that the run was trained on, whole, as its own files have it."""
    description, working = open_cameras(run.opening.path, format=run.opening.options.get("format"))
    back = scene.similarity.inverse()
    cameras = replace(working, c2w=back.poses(working.c2w))
    sides = {"train": scene.split.train, "test": scene.split.test, "val": scene.split.val or scene.split.test}
    lists = {side: [scene.names[i] for i in views] for side, views in sides.items()}
    bounds = scene.bounds.near * back.scale, scene.bounds.far * back.scale
    with counted("copying", "photos") as bar:
        said = write_scene(form, target, description, cameras, lists=lists, bounds=bounds, on_progress=bar)
    for line in said:
        console.print(line)
    sparse = "" if description.points is None else f", {len(description.points):,} sparse points"
    console.print(f"{form}: {len(cameras)} photos{sparse}, in the capture's own units")


def poses_json(scene: Scene) -> dict[str, Any]:
    """The scene's cameras with their names and lenses, in a form that `render --path` takes too."""
    return _poses(scene.cameras, scene, scene.names)


def _poses(cameras: Cameras, scene: Scene, names: Any) -> dict[str, Any]:
    """nerfstudio's camera path, with every entry's name and intrinsics in transforms.json's words beside it."""
    layout = camera_path_json(cameras, scene)
    for i, entry in enumerate(layout["camera_path"]):
        if names is not None:
            entry["name"] = names[i]
        (fx, fy), (cx, cy) = cameras.focal_px[i].tolist(), cameras.centre_px[i].tolist()
        width, height = cameras.size[i].tolist()
        entry |= {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height}
        if cameras.distortion is not None:
            entry |= {"lens": cameras.lens}
            entry |= dict(zip(CAMERA_KEYS[cameras.lens], cameras.distortion[i].tolist(), strict=True))
    return layout


def box_of(text: str) -> Box:
    """The low and the high corner, x,y,z,x,y,z, in the capture's units. UserError for anything else."""
    try:
        a, b, c, d, e, f = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--box {text}: expected two corners, x,y,z,x,y,z, as in --box=-1,-1,0,1,1,2") from None
    if not all(low < high < float("inf") for low, high in ((a, d), (b, e), (c, f))):
        raise UserError(f"--box {text}: has no volume; expected the low corner, x,y,z, then the high one")
    return Box((a, b, c), (d, e, f))

"""Film: the arms of a study side by side, each under its name, along one camera path."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from rayprior.evaluation.export import Frame, in_rows, labelled, shown, write_film
from rayprior.evaluation.pictures import Renders, Span, render_camera
from rayprior.evaluation.trajectories import camera_path, resized
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.scene import Scene
from rayprior.study.rows import Row
from rayprior.study.second_stage import REFINERS
from rayprior.training.refining import ABOUT, RefinerRun
from rayprior.training.run import Run, is_run, load_run
from rayprior.training.tasks import scene_for

MOST_ARMS, COLUMNS, WIDTH, NARROWEST = 8, 4, 200, 120
FRAMES, FEWEST_FRAMES, SECONDS = 36, 8, 45.0  # the film gets fewer frames where they take longer than this together


def write_comparison(folder: Path, rows: Sequence[Row]) -> tuple[Path | None, str]:
    """comparison.webp, and comparison.mp4 where PyAV is there: the arms of the first scene, their lowest seeds.

    Returns the WebP's path, or None, and a sentence: what it shows, what it leaves out, or why there is none.
    """
    chosen = _chosen([row for row in rows if "sharpened" not in row.protocol])
    runs = {row.arm: folder / row.run for row in chosen if row.run and is_run(folder / row.run)}
    if not runs:
        return None, "no film: the folders of the runs are not there"
    left_out = [row.arm for row in chosen if row.arm not in runs] + list(runs)[MOST_ARMS:]
    opened = {arm: load_run(path) for arm, path in list(runs.items())[:MOST_ARMS]}
    scenes = {arm: _scene(run) for arm, run in opened.items()}
    models = {row.arm: _model(folder, row, opened[row.arm], scenes) for row in chosen if row.arm in opened}
    first = next(iter(scenes.values()))
    path = _path(first)
    begun = time.perf_counter()
    _frame(models, scenes, first, path, 0)
    count = max(FEWEST_FRAMES, min(FRAMES, int(SECONDS / max(time.perf_counter() - begun, 1e-9))))
    picked = [i * len(path) // count for i in range(count)]
    frames = [_frame(models, scenes, first, path, i) for i in picked]
    target, fps = folder / "comparison.webp", 20 * count / FRAMES
    write_film(target, frames, "webp", fps)
    if find_spec("av") is not None:
        write_film(folder / "comparison.mp4", frames, "mp4", fps)
    missing = f"; not shown: {', '.join(left_out)}" if left_out else ""
    seeds = ", ".join(str(seed) for seed in sorted({row.seed for row in chosen}))
    return target, f"{chosen[0].scene}, seed {seeds}{missing}"


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """Of the first scene and degradation, each arm's lowest seed."""
    done = [row for row in rows if row.done and row.views == "test"]
    if not done:
        return []
    here = [row for row in done if (row.scene, row.degradation) == (done[0].scene, done[0].degradation)]
    lowest: dict[str, Row] = {}
    for row in sorted(here, key=lambda row: row.seed):
        lowest.setdefault(row.arm, row)
    return [lowest[arm] for arm in dict.fromkeys(row.arm for row in here)]


def _scene(run: Run) -> Scene:
    return scene_for(run.recipe, run.reopen())


def _model(folder: Path, row: Row, run: Run, scenes: Mapping[str, Scene]) -> Renders:
    """The run's, or what its refiner makes of it."""
    refiner = folder / REFINERS / row.key
    return RefinerRun.open(refiner, run).refined(scenes[row.arm]) if (refiner / ABOUT).is_file() else run.model


def _path(scene: Scene) -> Cameras:
    width, height = scene.pictures.size[scene.split.train[0]].tolist()
    share = min(1.0, WIDTH / width)
    cameras = camera_path("orbit" if scene.inward else "spiral", scene, FRAMES)
    return resized(cameras, (round(width * share), round(height * share)))


def _frame(
    models: Mapping[str, Renders], scenes: Mapping[str, Scene], first: Scene, path: Cameras, index: int
) -> Frame:
    """All arms at one place of the path, which is in the first scene's working units."""
    frames = []
    for arm, model in models.items():
        scene = scenes[arm]
        poses = scene.similarity.poses(first.similarity.inverse().poses(path.c2w[index : index + 1]))
        picture = render_camera(model, scene, replace(path[[index]], c2w=poses), 0)
        frame = shown(picture, "rgb", Span(1.0, 2.0))
        enlarged = -(-NARROWEST // frame.shape[1])  # tiny pictures by whole pixels, so that names fit above them
        frames.append(labelled(frame.repeat(enlarged, axis=0).repeat(enlarged, axis=1), arm))
    return in_rows(frames, COLUMNS)

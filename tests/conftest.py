"""Fixtures that all tests share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayprior import cli
from rayprior.kernels.threads import set_threads
from rayprior.maths.poses import opencv_from_opengl
from rayprior.scenes.scene import Scene
from tiny import tiny_scene


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests are small: two threads that wait for each other on a busy machine cost fifty times what they save."""
    set_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real captures: RAYPRIOR_DATA, else ../shared/data beside the checkout."""
    root = Path(os.environ.get("RAYPRIOR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"real captures are not here: {root} is no folder (set RAYPRIOR_DATA)")
    return root


@pytest.fixture
def data_dir(data_root: Path):
    """`data_dir("llff_fern")` -> the folder of one real capture, or a skip that says which is missing."""

    def find(name: str) -> Path:
        if not (data_root / name).is_dir():
            pytest.skip(f"real capture '{name}' is not in {data_root}")
        return data_root / name

    return find


# -- a house in which everything is quick: for tests of the command line and of the documents --------------------------


@pytest.fixture
def quick_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with `my-capture` in it; embedded scenes are tiny, reports have no film, one thread.

    Checkpoints are few and need not outlive a power cut.
    """
    monkeypatch.setattr("rayprior.scenes.open.synthetic_scene", tiny_scene)
    for name in (
        "training.fit",
        *(f"verbs.{verb}" for verb in ("depth", "infer", "measure", "sample", "study", "train")),
    ):
        monkeypatch.setattr(f"rayprior.{name}.cores", lambda: 1)
    monkeypatch.setattr("rayprior.training.loop.SAVE_SHARE", 0.5)
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr("rayprior.verbs.measure.FILM_SECONDS", 0.0)
    monkeypatch.setattr("rayprior.verbs.train.DEMO_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    write_capture(tmp_path / "my-capture", tiny_scene("shapes"))
    return tmp_path


@pytest.fixture
def rayprior(quick_house: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`rayprior("train", ...)` -> (exit status, stdout, stderr), in a folder of its own."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = 0
        try:
            cli.main(words)
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, *capsys.readouterr()

    return call


def write_capture(folder: Path, scene: Scene) -> None:
    """A scene's training views as transforms.json, photos before a backdrop of many colours, and masks."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    frames = []
    poses = opencv_from_opengl(scene.cameras.c2w)
    for view in [*scene.split.train, *scene.split.test]:
        rgba = scene.pictures[view].numpy()
        height, width = rgba.shape[:2]
        backdrop = np.random.default_rng(view).integers(0, 256, (height, width, 3))
        seen = rgba[:, :, 3:] / 255
        photo = np.rint(rgba[:, :, :3] * seen + backdrop * (1 - seen)).astype(np.uint8)
        Image.fromarray(photo).save(folder / "images" / f"{len(frames):03d}.png")
        Image.fromarray(np.where(rgba[:, :, 3] > 127, 255, 0).astype(np.uint8)).save(
            folder / "masks" / f"{len(frames):03d}.png"
        )
        pose = [*poses[view].tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": f"images/{len(frames):03d}.png", "transform_matrix": pose})
    (focal, _), (width, height) = scene.cameras.focal_px[0].tolist(), scene.cameras.size[0].tolist()
    content = {"fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2, "w": width, "h": height}
    (folder / "transforms.json").write_text(json.dumps({**content, "frames": frames}))

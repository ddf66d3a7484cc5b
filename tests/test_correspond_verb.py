"""`rayprior correspond`: pairs, what they are worth, the original's folders; every mistake has one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rayprior.descriptors.pairs_file import read_pairs
from rayprior.errors import UserError
from rayprior.evaluation.export import read_picture
from rayprior.scenes.open import load_scene
from rayprior.verbs.correspond import cycle_px, write_original

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rayprior(rayprior: Cli) -> Cli:
    """In a folder with a run of `synthetic:shapes`, `runs/a`."""
    words = "train", "grid", "synthetic:shapes", "--size", "small", "--steps", "60", "--out", "runs/a"
    trained = rayprior(*words)
    assert trained[0] == 0, trained
    return rayprior


def test_pairs_and_what_they_are_worth(rayprior: Cli):
    status, out, err = rayprior("correspond", "runs/a", "--out", "pairs", "--count", "60", "--cycle", "8")
    assert status == 0, err
    assert out.splitlines()[-1] == "pairs/pairs.json"
    assert "60 pairs of pixels between 8 views by median, cycle check 8 px" in out
    assert "label quality on 60 pixels whose match is known ('exact')" in out
    assert len(read_pairs(Path("pairs/pairs.json"), load_scene("synthetic:shapes"))) == 60
    about = json.loads(Path("pairs/labels.json").read_text())
    assert about["counts"]["kept"] == 60
    assert set(about["quality"]) == {"median", "median, cycle 8 px"}
    assert read_picture(Path("pairs/pairs.png")).shape[2] == 3
    assert sorted(p.name for p in Path("pairs").iterdir()) == ["labels.json", "pairs.json", "pairs.png"]

    assert rayprior("correspond", "runs/a", "--out", "again", "--count", "60", "--cycle", "8")[0] == 0
    assert Path("again/pairs.json").read_bytes() == Path("pairs/pairs.json").read_bytes()

    for words, message in [
        (["--out", "pairs"], "--out pairs: is there already, and nothing in it is replaced"),
        (["--out", "new", "--labels", "drwa"], "--labels drwa: no source of labels has this name; did you mean 'draw'"),
        (["--out", "new", "--cycle", "two"], "--cycle two: expected a number of pixels above 0, or none"),
        (["--out", "new", "--count", "0"], "--count 0: expected at least 1 pair"),
        (["--out", "new", "--form", "csv"], "--form csv: expected json or original"),
        (["--out", "new", "--views", "train-000"], "1 views were given; expected at least two"),
        (["--out", "new", "--views", "nobody,1"], "no view of"),
    ]:
        status, out, err = rayprior("correspond", "runs/a", *words)
        assert (status, message in err) == (2, True), err
        assert not Path("new").exists()
    assert "not a run" in rayprior("correspond", "my-capture", "--out", "new")[2]


def test_the_originals_folders(rayprior: Cli):
    words = "--labels", "median", "--cycle", "none", "--count", "20", "--form", "original"
    status, out, err = rayprior("correspond", "runs/a", "--out", "pairs", *words)
    assert status == 0, err
    assert "MB a view" in out
    root, scene = Path("pairs"), load_scene("synthetic:shapes")
    for folder, ending in (("rgb", "png"), ("depth", "png"), ("weight", "npy"), ("z", "npy"), ("pose", "txt")):
        names = [f"{view:06d}.{ending}" for view in range(8)]
        assert sorted(p.name for p in (root / folder).iterdir()) == names
    weight, z = (np.load(root / kind / "000001.npy", allow_pickle=False) for kind in ("weight", "z"))
    assert weight.shape == z.shape == (24, 24, weight.shape[2])
    depth = np.asarray(read_depth(root / "depth" / "000001.png"))
    np.testing.assert_allclose(depth, 1000 * (weight * z).sum(axis=2), atol=1)
    pose, k = np.loadtxt(root / "pose" / "000001.txt"), np.loadtxt(root / "intrinsics.txt")
    view = scene.split.train[1]
    np.testing.assert_allclose(pose[:3, 2], -scene.cameras.c2w[view, :, 2].numpy(), atol=1e-8)  # OpenGL looks back
    np.testing.assert_allclose(pose[:3, 3], scene.cameras.origins[view].numpy(), atol=1e-8)
    np.testing.assert_allclose(k[0, 0], float(scene.cameras.focal_px[0, 0]), rtol=1e-8)


def read_depth(path: Path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image).astype(np.float64)


def test_what_the_originals_folders_cannot_hold(rayprior: Cli, tmp_path: Path):
    from dataclasses import replace

    from rayprior.maths.space import Similarity
    from rayprior.training.run import load_run

    run, scene = load_run("runs/a"), load_scene("synthetic:shapes")
    cameras = scene.cameras
    bent = replace(cameras, lens="opencv", distortion=torch.full((len(cameras), 5), 0.01).double())
    several = replace(cameras, focal_px=cameras.focal_px * torch.linspace(1, 2, len(cameras)).double()[:, None])
    for wrong, message in [
        (replace(scene, cameras=bent), "a lens with distortion"),
        (replace(scene, cameras=several), "these views have several"),
        (replace(scene, similarity=Similarity(scale=1e-3)), r"16-bit pictures end at 65.535"),
    ]:
        with pytest.raises(UserError, match=message):
            write_original(run.model, wrong, [0, 1], tmp_path / "o", left=False)


def test_a_capture_without_truth(rayprior: Cli):
    trained = rayprior("train", "grid", "my-capture", "--size", "small", "--steps", "60", "--out", "runs/b")
    assert trained[0] == 0, trained
    status, out, err = rayprior("correspond", "runs/b", "--out", "pairs", "--count", "20", "--cycle", "none")
    assert status == 0, err
    assert "label quality: not measured" in out
    assert json.loads(Path("pairs/labels.json").read_text())["quality"] is None


def test_pixels_of_the_cycle_check():
    assert cycle_px("none") is None
    assert cycle_px("1.5") == 1.5
    for text in ("0", "-1", "inf", "nan", ""):
        with pytest.raises(UserError, match="--cycle"):
            cycle_px(text)

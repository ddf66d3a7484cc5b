"""Depth maps from a field: exact on a sphere, read back as they left, marked as derived, and nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rayprior import cli
from rayprior.errors import UserError
from rayprior.evaluation.depth_maps import depth_of, make_depth, write_depth
from rayprior.scenes.open import load_scene, open_cameras
from rayprior.training.run import load_run


def test_depth_is_z_in_the_captures_unit(scene, model):
    """The ball of radius 1/2 about the origin, seen from |(2, 0, .7)|: on the axis z is that less 1/2, times 4."""
    arrays = depth_of(model, scene, scene.cameras, 0)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert scene.depth is not None
    known = scene.depth[0][:, :, 0]
    cosine = scene.cameras.axis_cosine(torch.zeros(known.numel(), dtype=torch.long), scene.cameras.pixel_grid(0))
    exact = (known * cosine.view(known.shape) / scene.similarity.scale).numpy()
    inside = np.isfinite(exact)
    assert np.abs(arrays["depth"] - exact)[inside & (arrays["opacity"] > 0.99)].max() < 0.06  # a bin is 0.04
    expected = 4 * ((4 + 0.49) ** 0.5 - 0.5)
    assert np.nanmin(arrays["depth"]) == pytest.approx(expected, abs=0.05)
    assert np.isnan(arrays["depth"][~inside]).all()
    assert (arrays["opacity"][~inside] == 0).all()
    assert 0 < np.median(arrays["std"][inside]) < 0.05  # 1 / density along the ray, and half a bin


def test_maps_are_written_one_a_frame_with_progress(scene, model, tmp_path):
    seen = []
    names = [f"train/{name}" for name in scene.names]
    kept = write_depth(model, scene, scene.cameras, names, (3, 1), tmp_path, lambda *done: seen.append(done))
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.npz")) == [
        "train/view_1.npz",
        "train/view_3.npz",
    ]
    assert list(kept) == ["train/view_3", "train/view_1"]
    assert 0.05 < kept["train/view_1"] < 0.5
    assert seen == [(1, 2), (2, 2)]


# -- the command, end to end -------------------------------------------------------------------------------------------


def rayprior(*words: str) -> int:
    try:
        cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def trained(quick_house: Path) -> Path:
    """`my-capture`, photos and masks alone, and a short run on three of its views."""
    options = ("--size", "small", "--steps", "40", "--masks", "background", "--views", "1,2,3")
    assert rayprior("train", "grid", "my-capture", *options, "--out", "runs/a") == 0
    return quick_house


def test_one_command_gives_depth_to_a_capture_without(trained, capsys):
    assert load_scene("my-capture").depth is None
    capsys.readouterr()
    assert rayprior("depth", "make", "my-capture", "--from", "runs/a", "--threads", "1") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "my-capture/depth"
    assert "derived from runs/a, trained on 3 views" in out[-2]
    maps = sorted(p.stem for p in Path("my-capture/depth").glob("*.npz"))
    assert maps == sorted(open_cameras("my-capture")[0].names)  # every frame, be it of the run's split or not
    scene = load_scene("my-capture", masks="background")
    assert scene.has_depth
    assert scene.depth is not None
    assert scene.depth_std is not None
    assert any("depth derived from" in note and "trained on 3 views: 001, 002, 003" in note for note in scene.notes)
    assert all(scene.depth[i].isnan().all() for i in scene.split.test)
    run = load_run("runs/a")
    legend = json.loads(Path("my-capture/depth/depth.json").read_text())["derived_from"]
    assert (legend["recipe"], legend["step"], legend["views"]) == ("grid", 40, ["001", "002", "003"])
    assert Path(legend["run"]) == trained / "runs/a"
    # what is read back is what the run sees: the median of its rays
    view = scene.split.train[0]
    seen = next(run.model.render_in_chunks(scene.view_rays(view), 10_000))
    known = scene.depth[view].reshape(-1)
    assert (seen.opacity[known.isfinite()] >= 0.5 - 1e-4).all()
    torch.testing.assert_close(known[known.isfinite()], seen.distance[known.isfinite()], rtol=1e-3, atol=1e-4)


def test_derived_depth_is_replaced_only_with_force_and_measured_depth_never(trained, capsys):
    make = ("depth", "make", "my-capture", "--from", "runs/a", "--out", "made")
    assert rayprior(*make, "--views", "1,2") == 0
    assert sorted(p.stem for p in Path("made").glob("*.npz")) == ["001", "002"]
    assert not Path("my-capture/depth").exists()
    assert load_scene("my-capture", depth="made").has_depth
    before = Path("made/001.npz").read_bytes()
    assert rayprior(*make) == 2
    assert "--force" in capsys.readouterr().err
    assert Path("made/001.npz").read_bytes() == before
    assert rayprior(*make, "--force", "--views", "3") == 0
    assert sorted(p.name for p in Path("made").iterdir()) == ["003.npz", "depth.json"]
    Path("made/depth.json").unlink()
    assert rayprior(*make, "--force") == 2
    assert "not touched" in capsys.readouterr().err
    assert rayprior("train", "grid", "my-capture", "--size", "small", "--steps", "2", "--depth", "made") == 0
    assert rayprior("inspect", "my-capture", "--depth", "made") == 0
    assert "1 of" in capsys.readouterr().out


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    assert rayprior("depth", "make", *words) == 2
    return capsys.readouterr().err


def test_mistakes_of_depth_make(trained, capsys):
    assert "not on synthetic:shapes" in refused(capsys, "synthetic:shapes", "--from", "runs/a")
    assert "no such folder" in refused(capsys, "my-capture", "--from", "runs/b")
    assert "77" in refused(capsys, "my-capture", "--from", "runs/a", "--views", "77")
    assert rayprior("depth", "mke", "my-capture", "--from", "runs/a") == 2
    assert not Path("my-capture/depth").exists()


def test_embedded_scenes_need_a_folder(quick_house):
    assert rayprior("train", "grid", "synthetic:shapes", "--size", "small", "--steps", "40", "--out", "runs/s") == 0
    run = load_run("runs/s")
    with pytest.raises(UserError, match=r"embedded scene has exact depth.*--out"):
        make_depth("synthetic:shapes", run)
    folder, kept = make_depth("synthetic:shapes", run, out=Path("made"), split="own-lists")
    assert folder == Path("made")
    assert len(kept) == len(load_scene("synthetic:shapes"))


def test_a_run_that_sees_nothing_writes_nothing(quick_house, make_model):
    assert rayprior("train", "grid", "synthetic:shapes", "--size", "small", "--steps", "1", "--out", "runs/s") == 0
    run = load_run("runs/s")
    run.__dict__["model"] = make_model(density=0.0)
    with pytest.raises(UserError, match="meets a surface"):
        make_depth("synthetic:shapes", run, out=Path("made"))
    assert list(Path("made").iterdir()) == []

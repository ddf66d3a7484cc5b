"""Real captures, opened: counts, units, backgrounds, depth that agrees across views, names that protocols know."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rayprior.errors import UserError
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene

pytestmark = pytest.mark.data


def shape(scene: Scene) -> tuple[str, int, int, int, list[int]]:
    return scene.format, len(scene), len(scene.split.train), len(scene.split.test), scene.pictures.size[0].tolist()


@pytest.mark.parametrize(
    ("name", "expected", "background", "inward"),
    [
        ("bench_fox8", ("nerfstudio", 50, 43, 7, [135, 240]), "none", True),
        ("bench_lego100", ("nerfstudio", 100, 94, 6, [100, 100]), "colour", True),
        ("ngp_fox", ("nerfstudio", 50, 43, 7, [270, 480]), "none", True),
        ("nerf_lego_400", ("blender", 55, 25, 25, [400, 400]), "random", True),
        ("llff_fern", ("llff", 20, 17, 3, [504, 378]), "none", False),
        ("mask_goldcape", ("llff", 40, 35, 5, [456, 456]), "none", True),
        ("wild_liberty", ("llff", 68, 59, 9, [400, 600]), "none", True),
    ],
)
def test_captures_open(data_dir, name, expected, background, inward):
    scene = load_scene(data_dir(name))
    assert shape(scene) == expected
    assert (scene.background.kind, scene.inward, scene.forward_facing) == (background, inward, name == "llff_fern")
    if name not in ("nerf_lego_400", "llff_fern"):
        assert scene.cameras.origins.norm(dim=1).mean().item() == pytest.approx(1.0)
    assert 0 < scene.bounds.near < 1.5 or name == "nerf_lego_400"


def test_npz_scenes(data_dir):
    root: Path = data_dir("nerf_lego_100")
    with pytest.raises(UserError, match=r"found 2 \(lego_100.npz, tiny_nerf_style.npz\)"):
        load_scene(root)
    lego, tiny = load_scene(root / "lego_100.npz"), load_scene(root / "tiny_nerf_style.npz")
    assert shape(lego) == ("npz", 135, 100, 25, [100, 100])
    assert shape(tiny) == ("npz", 106, 92, 14, [100, 100])
    assert (lego.background.kind, tiny.background.kind, tiny.background.colour) == ("random", "colour", (0.0, 0.0, 0.0))
    few = load_scene(root / "lego_100.npz", split="small/lego100-4")
    assert [few.names[i] for i in few.split.train] == ["train/r_26", "train/r_86", "train/r_2", "train/r_55"]
    drawn = load_scene(root / "lego_100.npz", fewshot=4)
    assert [drawn.names[i] for i in drawn.split.train] == [few.names[i] for i in few.split.train]


def test_white_border_of_bench_lego(data_dir):
    scene = load_scene(data_dir("bench_lego100"))
    assert scene.background.colour == (1.0, 1.0, 1.0)
    for i in range(0, len(scene), 9):  # the box holds all that is not white
        rays = scene.view_rays(i)
        enter, leave = scene.bounds.box.hit(rays.origins, rays.directions)
        seen = (scene.pictures[i].reshape(-1, 3) < 250).any(dim=1)
        assert not (seen & (enter >= leave)).any()


def test_bench_fox_opens_in_a_second(data_dir):
    path = data_dir("bench_fox8")
    load_scene(path)
    start = time.perf_counter()
    load_scene(path)
    assert time.perf_counter() - start < 1.0


def test_lego_depth_agrees_across_views(data_dir):
    """A point seen in one view lies at the distance that a neighbouring view measured, where both see it."""
    scene = load_scene(data_dir("nerf_lego_400"))
    assert scene.depth is not None
    errors = []
    for i, j in zip(scene.split.test[:-1:3], scene.split.test[1::3]):
        rays, distance = scene.view_rays(i), scene.depth[i].reshape(-1)
        known = ~distance.isnan()
        points = rays.at(distance[:, None])[known, 0].double()
        pixel, expected, inside = scene.cameras.project(points, torch.full((len(points),), j))
        column, row = pixel[inside].long().unbind(dim=1)
        found = scene.depth[j][row, column, 0]
        errors.append((found - expected[inside]).abs())
    error = torch.cat(errors)
    error = error[~error.isnan()]
    assert len(error) > 100_000
    assert error.median().item() < 0.03


def test_infonerf_views_of_lego_400(data_dir):
    scene = load_scene(data_dir("nerf_lego_400"), split="blender/infonerf-8")
    assert [scene.names[i] for i in scene.split.train] == [f"train/r_{i}" for i in (26, 86, 2, 55, 75, 93, 16, 73)]
    assert len(scene.split.test) == 25
    assert any("published at 800x800" in note for note in scene.notes)
    with pytest.raises(UserError, match="names views 1, 3"):
        load_scene(data_dir("nerf_lego_400"), split="blender/first-4")
    with pytest.raises(UserError, match="no frame of"):
        load_scene(data_dir("nerf_lego_400"), views="1")


def test_fern_is_read_as_llff_for_want_of_a_complete_model(data_dir):
    scene = load_scene(data_dir("llff_fern"), split="llff/sparse-3")
    assert scene.names == tuple(f"image{i:03d}" for i in (0, 1, 8, 10, 16, 19))
    table = np.load(data_dir("llff_fern") / "poses_bounds.npy")
    assert scene.bounds.near == pytest.approx(0.9 / 0.75)
    assert scene.similarity.scale == pytest.approx(1 / (0.75 * table[:, 15].min()))
    assert scene.cameras.focal_px[0, 0].item() == pytest.approx(3260.526 / 8, rel=1e-4)


def test_masks_of_goldcape(data_dir):
    ignored = load_scene(data_dir("mask_goldcape"))
    known = load_scene(data_dir("mask_goldcape"), masks="background", downscale=4)
    assert ignored.masks is not None
    assert known.masks is None
    assert known.bounded
    assert known.pictures.size[0].tolist() == [114, 114]
    kept = float(ignored.masks.values.float().mean())
    assert float(known.pictures.values[:, 3].float().mean()) / 255 == pytest.approx(kept, abs=0.01)

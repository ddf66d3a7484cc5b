"""Small captures written to disk and opened: sizes, masks, depth, background, units, and every mistake answered."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rayprior.errors import UserError
from rayprior.maths.poses import llff_from_opencv, look_at, opencv_from_opengl
from rayprior.scenes.open import load_scene
from rayprior.scenes.reading import area_average
from rayprior.scenes.scene import Background, Scene
from rayprior.scenes.synthetic import synthetic_scene

SIZE = (24, 16)  # width, height
FOCAL = 30.0


def ring(count: int, radius: float = 4.0) -> torch.Tensor:
    """OpenCV poses on a ring above the plane z = 0, looking at the origin."""
    angle = torch.arange(count, dtype=torch.float64) * (2 * torch.pi / count)
    origins = radius * torch.stack([0.8 * angle.cos(), 0.8 * angle.sin(), torch.full_like(angle, 0.6)], dim=1)
    return look_at(origins, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0, 1], dtype=torch.float64))


def matrices(c2w: torch.Tensor) -> list[list[list[float]]]:
    """4x4 OpenGL matrices, as the JSON files have them."""
    return [[*rows, [0.0, 0.0, 0.0, 1.0]] for rows in opencv_from_opengl(c2w).tolist()]


def picture(path: Path, size=SIZE, channels: int = 3, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (size[1], size[0], channels), np.uint8)).save(path)


def nerfstudio(root: Path, count: int = 6, **extra: Any) -> Path:
    """A capture with transforms.json; returns its folder."""
    for i in range(count):
        picture(root / f"images/{i:02d}.png", seed=i)
    frames = [
        {"file_path": f"images/{i:02d}.png", "transform_matrix": m} for i, m in enumerate(matrices(ring(count, 9.0)))
    ]
    content = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": 12.0, "cy": 8.0, "w": 24, "h": 16, "frames": frames, **extra}
    (root / "transforms.json").write_text(json.dumps(content))
    return root


def edit(root: Path, change, name: str = "transforms.json") -> Path:
    content = json.loads((root / name).read_text())
    change(content)
    (root / name).write_text(json.dumps(content))
    return root


def blender(root: Path, counts=(("train", 4), ("test", 2)), channels: int = 4) -> Path:
    for split, count in counts:
        frames = []
        for i, matrix in enumerate(matrices(ring(count))):
            picture(root / split / f"r_{i}.png", channels=channels, seed=i)
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": matrix})
        (root / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    return root


def llff(root: Path, c2w: torch.Tensor, declared=(240, 160)) -> Path:
    count = len(c2w)
    for i in range(count):
        picture(root / f"images_10/{i:02d}.png", seed=i)
    hwf = torch.tensor([[declared[1]], [declared[0]], [10 * FOCAL]], dtype=torch.float64).expand(count, 3, 1)
    rows = torch.cat([llff_from_opencv(c2w), hwf], dim=2).reshape(count, 15)
    np.save(root / "poses_bounds.npy", np.concatenate([rows, np.tile([[2.0, 30.0]], (count, 1))], axis=1))
    return root


def forward_facing(count: int = 5) -> torch.Tensor:
    origins = torch.tensor([[0.1 * i, 0.05 * (i % 2), 1.0] for i in range(count)], dtype=torch.float64)
    ahead = torch.tensor([0.2, 0.0, 40.0], dtype=torch.float64)
    return look_at(origins, ahead, torch.tensor([0.0, -1, 0], dtype=torch.float64))


def refused(root: Path | str, *words: str, **options) -> str:
    """The one message with which a capture is refused."""
    with pytest.raises(UserError) as error:
        load_scene(root, **options)
    text = str(error.value)
    for word in words:
        assert word in text, text
    return text


# -- what is read ------------------------------------------------------------------------------------------------------


def test_nerfstudio_units_and_round_trip(tmp_path):
    scene = load_scene(nerfstudio(tmp_path))
    assert (scene.format, scene.name, len(scene)) == ("nerfstudio", tmp_path.name, 6)
    assert scene.cameras.origins.norm(dim=1).mean().item() == pytest.approx(1.0)
    back = scene.similarity.inverse().poses(scene.cameras.c2w)
    torch.testing.assert_close(back, ring(6, 9.0), atol=1e-9, rtol=0)
    assert scene.inward
    assert scene.up @ torch.tensor([0.0, 0, 1]) > 0.99
    assert any("near 0.2, far 100 (working units; 1 unit = 9 of the capture's" in note for note in scene.notes)


def test_pixels_are_those_of_the_files(tmp_path):
    scene = load_scene(nerfstudio(tmp_path))
    for i, name in enumerate(scene.names):
        with Image.open(tmp_path / f"images/{name}.png") as image:
            assert (scene.pictures[i].numpy() == np.asarray(image)).all()


def test_lens_and_per_frame_intrinsics(tmp_path):
    nerfstudio(tmp_path, camera_model="OPENCV", k1=0.1, p2=0.01)
    edit(tmp_path, lambda c: c["frames"][2].update(fl_x=33.0, k1=0.2))
    cameras = load_scene(tmp_path).cameras
    assert cameras.lens == "opencv"
    assert cameras.focal_px[2].tolist() == [33.0, FOCAL]
    assert cameras.distortion is not None
    assert cameras.distortion[[0, 2]].tolist() == [[0.1, 0, 0, 0.01, 0], [0.2, 0, 0, 0.01, 0]]


def test_fisheye_lens(tmp_path):
    cameras = load_scene(nerfstudio(tmp_path, camera_model="OPENCV_FISHEYE", k1=0.05, k4=0.001)).cameras
    assert cameras.lens == "fisheye"
    assert cameras.distortion is not None
    assert cameras.distortion[0].tolist() == [0.05, 0, 0, 0.001]


def test_zero_distortion_is_a_pinhole(tmp_path):
    assert load_scene(nerfstudio(tmp_path, camera_model="OPENCV", k1=0.0)).cameras.distortion is None


def test_pictures_by_one_common_factor_scale_the_intrinsics(tmp_path):
    nerfstudio(tmp_path, w=48, h=33, fl_x=60.0, fl_y=60.0, cx=24.0, cy=16.5)  # 33 / 2 is 16 within a pixel
    scene = load_scene(tmp_path)
    assert scene.cameras.focal_px[0, 0].item() == pytest.approx(30.0)
    assert scene.cameras.size[0].tolist() == [24, 16]
    assert any("declared 48x33: intrinsics scaled by" in note for note in scene.notes)


def test_downscale_keeps_rays(tmp_path):
    full, half = (load_scene(nerfstudio(tmp_path), downscale=k) for k in (1, 2))
    assert half.pictures.size[0].tolist() == [12, 8]
    camera = torch.tensor([3])
    torch.testing.assert_close(
        half.cameras.directions(camera, torch.tensor([[2.5, 1.5]])),
        full.cameras.directions(camera, torch.tensor([[5.0, 3.0]])),
    )
    expected = full.pictures[3][:2, :2].float().mean(dim=(0, 1))
    assert (half.pictures[3][0, 0].float() - expected).abs().max() <= 0.51


def test_area_average_weighs_colours_by_alpha():
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[0, 0], picture[0, 1] = (200, 100, 0, 255), (0, 0, 250, 0)  # what is transparent has no colour
    assert area_average(picture, 2)[0, 0].tolist() == [200, 100, 0, 64]


def test_blender_convention(tmp_path):
    scene = load_scene(blender(tmp_path))
    assert scene.names == ("train/r_0", "train/r_1", "train/r_2", "train/r_3", "test/r_0", "test/r_1")
    assert (scene.split.train, scene.split.test) == ((0, 1, 2, 3), (4, 5))
    assert (scene.background.kind, scene.bounded, scene.similarity.scale) == ("random", True, 1.0)
    assert scene.bounds.near == 2
    assert scene.bounds.far > 6  # z 6 in the corners is farther away
    assert scene.bounds.box.high == (1.5, 1.5, 1.5)
    torch.testing.assert_close(scene.cameras.c2w[:4], ring(4), atol=1e-12, rtol=0)


def test_blender_names_alone_are_no_convention(tmp_path):
    edit(
        blender(tmp_path), lambda c: c["frames"][0]["transform_matrix"][2].__setitem__(3, 30.0), "transforms_train.json"
    )
    scene = load_scene(tmp_path)
    assert scene.similarity.scale != 1.0
    assert any("bounds come from poses" in note for note in scene.notes)


def test_npz_forms(tmp_path):
    poses = np.array(matrices(ring(5)), np.float32)
    images = np.random.RandomState(0).rand(5, 8, 8, 3).astype(np.float32)
    np.savez(tmp_path / "tiny.npz", images=images, poses=poses, focal=np.float32(10))
    scene = load_scene(tmp_path)
    assert (scene.format, scene.split.name, scene.cameras.focal_px[0, 0].item()) == (
        "npz",
        "every-8th",
        pytest.approx(10),
    )
    assert (scene.pictures[2].numpy() == np.rint(images[2] * 255)).all()
    np.savez(tmp_path / "other.npz", images=images, poses=poses, focal=np.float32(10))
    refused(tmp_path, "found 2 (other.npz, tiny.npz)", "name the file")
    assert load_scene(tmp_path / "other.npz").name == "other"


def test_llff_forward_facing_is_recentred(tmp_path):
    scene = load_scene(llff(tmp_path, forward_facing()))
    assert scene.forward_facing
    assert not scene.inward
    assert scene.similarity.scale == pytest.approx(1 / (0.75 * 2.0))
    assert scene.bounds.near == pytest.approx(0.9 / 0.75)
    torch.testing.assert_close(
        scene.cameras.origins.mean(dim=0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(scene.up, torch.tensor([0.0, -1, 0]), atol=1e-3, rtol=0)
    assert scene.cameras.focal_px[0, 0].item() == pytest.approx(FOCAL)
    torch.testing.assert_close(scene.similarity.inverse().poses(scene.cameras.c2w), forward_facing(), atol=1e-9, rtol=0)


def test_llff_walk_around_is_not_forward_facing(tmp_path):
    scene = load_scene(llff(tmp_path, ring(6)))
    assert scene.inward
    assert not scene.forward_facing
    assert scene.cameras.origins.norm(dim=1).mean().item() == pytest.approx(1.0)


def test_outward_cameras_are_not_inward(tmp_path):
    def turn(content):
        for frame in content["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[0], row[2] = -row[0], -row[2]

    scene = load_scene(edit(nerfstudio(tmp_path), turn))
    assert not scene.inward
    assert np.isfinite([scene.bounds.near, *scene.bounds.box.low, *scene.bounds.box.high]).all()


def test_near_and_far_are_in_the_captures_unit(tmp_path):
    bounds = load_scene(nerfstudio(tmp_path), near=0.9, far=90).bounds
    assert (bounds.near, bounds.far) == (pytest.approx(0.1), pytest.approx(10.0))
    refused(tmp_path, "near 5 and far 4", near=5, far=4)
    refused(tmp_path, "near -1", near=-1)
    refused(tmp_path, "near nan", near=float("nan"))


# -- masks, background, depth ------------------------------------------------------------------------------------------


def with_masks(root: Path) -> Path:
    nerfstudio(root)
    for i in range(5):  # the sixth photo has none
        mask = np.zeros((16, 24), np.uint8)
        mask[4:12, 6:18] = 255
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / f"masks/{i:02d}.png")
    return root


def test_masks_ignored_are_not_drawn(tmp_path):
    scene = load_scene(with_masks(tmp_path))
    assert scene.masks is not None
    assert scene.masks[1].sum() == 8 * 12
    assert scene.masks[5].all()
    assert any("1 photos have none" in note for note in scene.notes)
    drawn = scene.photo_rays(2000, torch.Generator().manual_seed(0)).rays
    inside = drawn.camera != 5
    assert ((drawn.pixel[inside] > torch.tensor([6, 4])) & (drawn.pixel[inside] < torch.tensor([18, 12]))).all()


def test_masks_as_background_become_alpha(tmp_path):
    scene = load_scene(with_masks(tmp_path), masks="background", downscale=2)
    assert scene.masks is None
    assert scene.background.kind == "random"
    assert scene.pictures[1][:, :, 3].unique().tolist() == [0, 255]
    refused(tmp_path, "'background'", masks="backgrund")


def test_masks_may_decide_what_is_scored_and_nothing_else(tmp_path):
    scene = load_scene(with_masks(tmp_path), masks="score")
    assert scene.masks is not None
    assert scene.protocol["masks"] == "score"
    rays = scene.photo_rays(400, torch.Generator().manual_seed(0)).rays
    column, row = rays.pixel.long().unbind(dim=1)
    drawn = torch.stack([scene.masks[c][v, u, 0] for c, u, v in zip(rays.camera.tolist(), column, row)])
    assert 0 < drawn.float().mean() < 1


def test_mask_path_of_frames_and_zero_one_masks(tmp_path):
    nerfstudio(tmp_path)
    Image.fromarray(np.eye(16, 24, dtype=np.uint8)).save(tmp_path / "m.png")
    edit(tmp_path, lambda c: [f.update(mask_path="m.png") for f in c["frames"]])
    masks = load_scene(tmp_path).masks
    assert masks is not None
    assert masks[0].sum() == 16


def test_common_border_colour_is_found_and_named(tmp_path):
    nerfstudio(tmp_path)
    for i in range(6):
        pixels = np.full((16, 24, 3), (10, 20, 31), np.uint8)
        pixels[5:9, 5:9] = 200
        pixels[0, 0] = (11, 19, 30)  # within 2 steps
        Image.fromarray(pixels).save(tmp_path / f"images/{i:02d}.png")
    scene = load_scene(tmp_path)
    assert scene.background.kind == "colour"
    assert [round(255 * c) for c in scene.background.colour] == [10, 20, 31]
    assert any("colour [10, 20, 31]" in note for note in scene.notes)
    assert scene.bounded
    assert load_scene(tmp_path, background=Background("none")).background.kind == "none"


def test_opaque_alpha_says_nothing(tmp_path):
    nerfstudio(tmp_path)
    for i in range(6):
        with Image.open(tmp_path / f"images/{i:02d}.png") as image:
            image.convert("RGBA").save(tmp_path / f"images/{i:02d}.png")
    scene = load_scene(tmp_path)
    assert scene.pictures.values.shape[1] == 3
    assert scene.background.kind == "none"


@pytest.mark.parametrize("suffix", ["png", "npy"])
@pytest.mark.parametrize("downscale", [1, 2])
def test_depth_becomes_distance_in_working_units(tmp_path, suffix, downscale):
    """Every camera sees a wall at z = 8 of the capture's units; file in thousandths, half the picture's resolution."""
    nerfstudio(tmp_path)
    depth = np.full((8, 12), 8000, np.uint16)
    depth[:, 0] = 0
    if suffix == "png":
        Image.fromarray(depth).save(tmp_path / "depth.png")
    else:
        np.save(tmp_path / "depth.npy", depth.astype(np.float32))
    edit(tmp_path, lambda c: c["frames"][1].update(depth_file_path=f"depth.{suffix}"))
    scene = load_scene(tmp_path, downscale=downscale)
    assert scene.depth is not None
    assert scene.depth[0].isnan().all()
    assert scene.depth[1][:, : 2 // downscale].isnan().all()
    rays = scene.view_rays(1)
    z = scene.depth[1].reshape(-1) * (rays.directions @ scene.cameras.forward[1].float()) / scene.similarity.scale
    torch.testing.assert_close(z[~z.isnan()], torch.full_like(z[~z.isnan()], 8.0), rtol=1e-4, atol=0)
    known = rays.guide[:, 0]
    torch.testing.assert_close(known, scene.depth[1].reshape(-1), equal_nan=True)


def test_embedded_scenes_open_like_captures(monkeypatch):
    small = partial(synthetic_scene, size=24, views=6, test_views=2)
    monkeypatch.setattr("rayprior.scenes.open.synthetic_scene", small)
    scene, exact = load_scene("synthetic:still-life"), small("still-life")
    assert (str(scene.path), scene.name, scene.bounds, scene.split.train) == (
        "synthetic:still-life",
        "still-life",
        exact.bounds,
        exact.split.train,
    )
    assert (scene.background, scene.inward, scene.depth is not None) == (exact.background, True, True)
    assert scene.depth is not None
    assert exact.depth is not None
    torch.testing.assert_close(scene.depth.values, exact.depth.values, equal_nan=True)
    assert (scene.pictures.values == exact.pictures.values).all()
    few = load_scene("synthetic:still-life", fewshot=3, downscale=2)
    assert len(few.split.train) == 3
    assert few.pictures.size[0].tolist() == [12, 12]
    refused("synthetic:stil-life", "did you mean 'still-life'")


def test_a_scene_knows_how_to_open_itself_again(tmp_path):
    nerfstudio(tmp_path)
    options = {"views": [1, 2], "downscale": 2, "near": 0.5, "masks": "background"}
    scene = load_scene(tmp_path, background=Background("colour", (0.0, 0.5, 1.0)), **options)
    again = load_scene(str(scene.path), **json.loads(json.dumps(scene.opened)))
    assert (again.names, again.split, again.bounds, again.opened) == (
        scene.names,
        scene.split,
        scene.bounds,
        {**scene.opened, "background": {"kind": "colour", "colour": [0.0, 0.5, 1.0]}},
    )
    assert again.background == scene.background
    assert load_scene(tmp_path).opened == {}


# -- splits ------------------------------------------------------------------------------------------------------------


def test_frames_outside_the_split_are_not_read(tmp_path):
    nerfstudio(tmp_path)
    (tmp_path / "images/03.png").write_bytes(b"")
    scene = load_scene(tmp_path, views="1,2")
    assert scene.names == ("00", "01", "02")
    assert (scene.split.train, scene.split.test) == ((1, 2), (0,))
    refused(tmp_path, "03.png", "zero bytes")


def test_units_do_not_depend_on_the_split(tmp_path):
    nerfstudio(tmp_path)
    assert load_scene(tmp_path, views="1,2").similarity == load_scene(tmp_path).similarity


def test_listed_splits_and_a_name_that_no_frame_has(tmp_path):
    lists = {"train_filenames": ["images/01.png", "images/04.png"], "test_filenames": ["images/02.png"]}
    scene = load_scene(nerfstudio(tmp_path, 6, **lists))
    assert scene.names == ("01", "02", "04")
    assert (scene.split.train, scene.split.test) == ((0, 2), (1,))
    edit(tmp_path, lambda c: c["test_filenames"].append("images/33.png"))
    refused(tmp_path, "transforms.json", "'test_filenames'", "images/33.png", "no frame has")


# -- mistakes ----------------------------------------------------------------------------------------------------------


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def test_folders_without_a_capture(tmp_path):
    refused(tmp_path, "is empty")
    refused(tmp_path / "none", "no such folder or file")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path, "no description of cameras", "transforms.json", "poses_bounds.npy")
    refused(tmp_path / "notes.txt", "not a file that describes a capture")
    refused(tmp_path, "no format named 'colmp'; did you mean 'colmap'", format="colmp")
    refused(tmp_path / ("x" * 300), "no such folder")


def test_a_broken_file_of_the_chosen_kind_is_an_error(tmp_path):
    blender(nerfstudio(tmp_path))
    (tmp_path / "transforms.json").write_text('{"frames": [')
    refused(tmp_path, "transforms.json", "broken JSON at line 1")
    assert load_scene(tmp_path, format="blender").format == "blender"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.unlink(), ("1 of 6 listed photos do not exist", "02.png", "--skip-missing")),
        (lambda p: p.write_bytes(b""), ("02.png", "zero bytes")),
        (lambda p: p.write_text("no picture"), ("02.png", "not a picture")),
        (cut, ("02.png", "cut short")),
        (lambda p: picture(p, (12, 8)), ("02.png", "12x8", "24x16")),
        (lambda p: picture(p, (16, 24)), ("02.png", "16x24", "24x16")),
    ],
)
def test_broken_pictures(tmp_path, damage, words):
    nerfstudio(tmp_path)
    damage(tmp_path / "images/02.png")
    refused(tmp_path, *words)


def test_skip_missing_says_how_many(tmp_path):
    lists = {"train_filenames": ["images/01.png", "images/02.png"], "test_filenames": ["images/03.png"]}
    nerfstudio(tmp_path, 6, **lists)
    (tmp_path / "images/02.png").unlink()
    scene = load_scene(tmp_path, skip_missing=True)
    assert scene.names == ("01", "03")
    assert any("skipped 1 of 6" in note and "02.png" in note for note in scene.notes)
    (tmp_path / "images/03.png").unlink()
    refused(tmp_path, "no test view", skip_missing=True)


def set_pose(row: int, column: int, value):
    return lambda c: c["frames"][1]["transform_matrix"][row].__setitem__(column, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_pose(0, 3, float("nan")), ("'01'", "nan or infinity")),
        (set_pose(0, 3, float("inf")), ("'01'", "nan or infinity")),
        (set_pose(0, 3, 1e300), ("'01'", "farther than 1e+09")),
        (set_pose(0, 0, 3.0), ("'01'", "not rigid", "R^T R differs from 1 by up to")),
        (set_pose(3, 3, 2.0), ("images/01.png", "last row")),
        (set_pose(1, 1, "x"), ("images/01.png", "expected 4x4 numbers")),
        (lambda c: c["frames"][1]["transform_matrix"].pop(), None),
        (lambda c: [c["frames"][1]["transform_matrix"][i].pop() for i in range(4)], ("images/01.png", "shape (4, 3)")),
        (lambda c: [r.__setitem__(0, -r[0]) for r in c["frames"][1]["transform_matrix"][:3]], ("'01'", "mirrors")),
        (lambda c: c.pop("frames"), ("'frames' is None", "expected a list")),
        (lambda c: c.update(frames=[]), ("'frames' is an empty list",)),
        (lambda c: c.update(frames=c["frames"][:1]), ("1 views", "at least 2")),
        (lambda c: c["frames"].append(c["frames"][0]), ("images/00.png", "twice")),
        (lambda c: c["frames"].append({**c["frames"][0], "file_path": "./images/00.png"}), ("two frames", "images/00")),
        (lambda c: c["frames"][1].pop("transform_matrix"), ("frame 1", "images/01.png", "no 'transform_matrix'")),
        (lambda c: c["frames"][1].pop("file_path"), ("frame 1", "no 'file_path'")),
        (
            lambda c: c["frames"][1].update(file_path="../../etc/x.png"),
            ("'../../etc/x.png'", "leaves the scene's folder"),
        ),
        (lambda c: c["frames"][1].update(file_path="/etc/x.png"), ("'/etc/x.png'", "leaves the scene's folder")),
        (lambda c: c["frames"][1].update(file_path="a\0b"), ("expected", "relative")),
        (lambda c: c["frames"][1].update(mask_path="../m.png"), ("'../m.png'", "leaves the scene's folder")),
        (lambda c: c["frames"][1].update(mask_path="m.png"), ("m.png", "no such picture")),
        (lambda c: c["frames"][1].update(depth_file_path="d.png"), ("d.png", "no such picture")),
        (lambda c: c["frames"][1].update(depth_file_path="d.npy"), ("d.npy", "no such file")),
        (lambda c: c.update(fl_x=0), ("'fl_x' is 0", "above 0")),
        (lambda c: c.update(fl_x=1e-30), ("singular",)),
        (lambda c: c.update(fl_x=10**400), ("'fl_x'", "finite number")),
        (lambda c: c.update(cx="x"), ("'cx' is 'x'", "finite number")),
        (lambda c: c.update(w=24.5), ("'w' is 24.5", "whole number")),
        (lambda c: c.update(w=10**9), ("'w'", "at most 100000")),
        (lambda c: (c.pop("fl_x"), c.pop("fl_y")), ("no focal length", "'camera_angle_x'")),
        (lambda c: c.update(camera_model="OPENCV_FISHEY"), ("did you mean 'OPENCV_FISHEYE'",)),
        (lambda c: c.update(k4=1.0), ("'k4'", "Undistort")),
        (lambda c: c["frames"][1].update(camera_model="OPENCV_FISHEYE"), ("fisheye and with other lenses",)),
        (
            lambda c: c.update(train_filenames=[f["file_path"] for f in c["frames"]], test_filenames=[]),
            ("no test view",),
        ),
    ],
)
def test_broken_descriptions(tmp_path, change, words):
    edit(nerfstudio(tmp_path), change)
    if words is None:  # three rows are a pose, too
        assert len(load_scene(tmp_path)) == 6
    else:
        refused(tmp_path, *words)


def test_masks_of_another_size_or_name(tmp_path):
    with_masks(tmp_path)
    Image.fromarray(np.zeros((8, 12), np.uint8)).save(tmp_path / "masks/02.png")
    refused(tmp_path, "02.png", "12x8", "24x16")
    shutil.rmtree(tmp_path / "masks")
    picture(tmp_path / "masks/other.png")
    refused(tmp_path, "no mask has the name of a photo")


def test_downscale_that_leaves_nothing(tmp_path):
    refused(nerfstudio(tmp_path), "--downscale 17", "24x16", downscale=17)
    refused(tmp_path, "--downscale 0", downscale=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t[:-1], ("has 4 poses", "5 photos")),
        (lambda t: t[:, :16], ("expected (photos, 17)",)),
        (lambda t: t * np.nan, ("row 0", "finite")),
        (lambda t: t * [[1] * 15 + [1, -1]], ("bounds", "0 < near < far")),
        (lambda t: t * [[1] * 14 + [0, 1, 1]], ("focal", "positive")),
        (lambda t: t * [[2] * 4 + [1] * 13], ("'00'", "not rigid")),
    ],
)
def test_broken_llff(tmp_path, change, words):
    llff(tmp_path, forward_facing())
    table = np.load(tmp_path / "poses_bounds.npy")
    np.save(tmp_path / "poses_bounds.npy", change(table))
    refused(tmp_path, *words)


def test_numpy_files_cut_pickled_or_absurd(tmp_path):
    llff(tmp_path, forward_facing())
    file = tmp_path / "poses_bounds.npy"
    good = file.read_bytes()
    cut(file)
    refused(tmp_path, "poses_bounds.npy", "can't be read")
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(tmp_path, "never loaded")
    file.write_bytes(good.replace(b"(5, 17)", b"(9" + b"9" * 3 + b", 17)")[: len(good)])
    refused(tmp_path, "poses_bounds.npy")
    (tmp_path / "images").mkdir()
    file.write_bytes(good)
    refused(tmp_path, "has 5 poses, but", "0 photos")


def test_broken_npz(tmp_path):
    poses = np.array(matrices(ring(3)), np.float32)
    images = np.zeros((3, 4, 4, 3), np.uint8)
    file = tmp_path / "s.npz"
    for arrays, word in (
        ({"images": images, "poses": poses}, "'focal'"),
        ({"images": images, "poses": poses[:2], "focal": 5.0}, "one pose a picture"),
        ({"images": images[..., 0], "poses": poses, "focal": 5.0}, "(n, h, w, 3 or 4)"),
        ({"images": images, "poses": poses, "focal": np.nan}, "positive number"),
        ({"images": images + 2.0, "poses": poses, "focal": 5.0}, "outside [0, 1]"),
    ):
        np.savez(file, **arrays)
        refused(tmp_path, "s.npz", word)
    cut(file)
    refused(tmp_path, "s.npz", "can't be read")
    refused(file, "s.npz", "can't be read")


# -- fuzzing -----------------------------------------------------------------------------------------------------------

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -1, 0, "", "..", "/", "images/00.png", "a" * 300, "\ud800", "OPENCV"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "k1",
        "k4",
        "mask_path",
        "depth_file_path",
        "camera_model",
        "train_filenames",
        "test_filenames",
        "fl_y",
        "w",
        "is_fisheye",
    ]
)


def places(node, path=()):
    """The paths to all values of a JSON."""
    yield path
    for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(inner, (*path, key))


@st.composite
def mutated(draw, content):
    """The JSON with one to three values replaced, removed, or added."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        options = list(places(content))
        path = options[draw(st.integers(0, len(options) - 1))]
        node = content
        for key in path[:-1]:
            node = node[key]
        kind = draw(st.sampled_from(["replace", "remove", "add"]))
        if not path:
            continue
        if kind == "replace":
            node[path[-1]] = draw(JUNK)
        elif kind == "remove":
            del node[path[-1]]
        elif isinstance(node, dict):
            node[draw(KEYS)] = draw(JUNK)
    return content


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """One capture of each JSON format, and its untouched content."""
    roots = {
        "transforms.json": nerfstudio(tmp_path_factory.mktemp("n"), 3),
        "transforms_train.json": blender(tmp_path_factory.mktemp("b"), (("train", 3), ("test", 1))),
    }
    return {name: (root, json.loads((root / name).read_text())) for name, root in roots.items()}


def opened(root: Path, **options) -> tuple[Scene | None, str]:
    """The scene, or the message of its refusal. Any other exception is a bug."""
    try:
        return load_scene(root, **options), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("name", ["transforms.json", "transforms_train.json"])
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(data=st.data())
def test_any_json_gives_a_scene_or_one_message(fuzzed, name, data):
    root, content = fuzzed[name]
    (root / name).write_text(json.dumps(data.draw(mutated(content))))
    scene, message = opened(root, skip_missing=data.draw(st.booleans()))
    assert isinstance(scene, Scene) or str(root) in message or "--" in message


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(noise=st.binary(max_size=40), at=st.floats(0, 1), keep=st.booleans())
def test_any_bytes_give_a_scene_or_one_message(tmp_path_factory, noise, at, keep):
    root = tmp_path_factory.mktemp("bytes")
    llff(root, forward_facing(3))
    for file in (root / "poses_bounds.npy", root / "images_10/01.png"):
        good = file.read_bytes()
        start = int(at * len(good))
        file.write_bytes(good[:start] + noise + (good[start + len(noise) :] if keep else b""))
        scene, message = opened(root)
        assert isinstance(scene, Scene) or str(root) in message
        file.write_bytes(good)

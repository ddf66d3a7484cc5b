"""Depth read from files: every place and form, units, alignment of relative depth, and every mistake answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rayprior.errors import UserError
from rayprior.maths.poses import look_at, opencv_from_opengl
from rayprior.scenes.formats.depth import FEWEST_POINTS, align, find_depth
from rayprior.scenes.inspect import summary
from rayprior.scenes.open import describe, load_scene
from rayprior.scenes.scene import Pictures, Scene

WIDTH, HEIGHT, FOCAL = 24, 16, 30.0
WALL = np.full((HEIGHT, WIDTH), 8.0, np.float32)  # every camera sees a wall at z = 8, the capture's unit
DERIVED = {"run": "runs/a", "recipe": "grid", "step": 40, "views": ["02", "03"], "date": "2026-11-21"}


def matrices(count: int, radius: float = 9.0) -> list[list[list[float]]]:
    """OpenGL poses on a ring above the plane z = 0, looking at the origin."""
    angle = torch.arange(count, dtype=torch.float64) * (2 * torch.pi / count)
    origins = radius * torch.stack([0.8 * angle.cos(), 0.8 * angle.sin(), torch.full_like(angle, 0.6)], dim=1)
    poses = look_at(origins, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0, 1], dtype=torch.float64))
    return [[*rows, [0.0, 0.0, 0.0, 1.0]] for rows in opencv_from_opengl(poses).tolist()]


def photo(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Six photos in images/, the first and the last held out by its own lists; no depth."""
    root = tmp_path / "capture"
    frames = []
    for i, matrix in enumerate(matrices(6)):
        photo(root / f"images/{i:02d}.png", i)
        frames.append({"file_path": f"images/{i:02d}.png", "transform_matrix": matrix})
    listed = [frame["file_path"] for frame in frames]
    content = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": 12.0, "cy": 8.0, "w": WIDTH, "h": HEIGHT, "frames": frames}
    lists = {"train_filenames": listed[1:5], "test_filenames": [listed[0], listed[5]]}
    (root / "transforms.json").write_text(json.dumps({**content, **lists}))
    return root


def write(file: Path, value: np.ndarray, **beside: Any) -> Path:
    """A map in the form that the suffix says: npz and npy as given, png in thousandths."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".npz":
        np.savez(file, depth=value, **beside)
    elif file.suffix == ".npy":
        np.save(file, value)
    else:
        Image.fromarray(np.nan_to_num(value * 1000).round().astype(np.uint16)).save(file)
    return file


def legend(folder: Path, **content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "depth.json").write_text(json.dumps(content))


def depth_of(scene: Scene) -> Pictures:
    assert scene.depth is not None
    return scene.depth


def z_of(scene: Scene, index: int) -> np.ndarray:
    """(h, w) z-depth in the capture's unit, from the scene's distances."""
    pixel = scene.cameras.pixel_grid(index)
    cosine = scene.cameras.axis_cosine(torch.full((len(pixel),), index), pixel)
    distance = depth_of(scene)[index][:, :, 0]
    return (distance * cosine.view(distance.shape) / scene.similarity.scale).numpy()


def refused(path: Path, *words: str, **options: Any) -> None:
    with pytest.raises(UserError) as error:
        load_scene(path, **options)
    text = str(error.value)
    for word in words:
        assert word in text, text


def noted(scene: Scene, *words: str) -> bool:
    return any(all(word in note for word in words) for note in scene.notes)


# -- places and forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npz", "npy", "png"])
@pytest.mark.parametrize("place", ["images/{}_depth", "images/depth/{}", "depth/{}"])
def test_maps_beside_the_pictures_are_found(capture, place, suffix):
    for name in ("01", "02"):
        write(capture / f"{place.format(name)}.{suffix}", WALL)
    scene = load_scene(capture)
    assert len(scene) == 6
    np.testing.assert_allclose(z_of(scene, 1), WALL, rtol=1e-5)
    assert np.isnan(z_of(scene, 3)).all()
    assert noted(scene, "depth for 2 of 6 views; kept 100% of their pixels (fewest: 01 100%)")
    assert scene.protocol["depth"] == [f"2 views files {capture / place.format('*')}.{suffix}".replace("*_depth", "*")]
    assert scene.opened == {}


def test_the_distance_is_longer_than_z_off_the_axis(capture):
    """distance = z |K^-1 (u, v, 1)|: closed form at the first pixel's centre."""
    write(capture / "depth/01.npy", WALL)
    scene = load_scene(capture)
    expected = 8 * np.sqrt(1 + (11.5 / FOCAL) ** 2 + (7.5 / FOCAL) ** 2) * scene.similarity.scale
    assert float(depth_of(scene)[1][0, 0, 0]) == pytest.approx(expected, rel=1e-6)


def test_npz_and_beside_come_first(capture):
    write(capture / "images/01_depth.npy", WALL)
    write(capture / "images/depth/01.npz", 2 * WALL)
    assert z_of(load_scene(capture), 1)[0, 0] == pytest.approx(8)
    write(capture / "images/01_depth.npz", WALL / 2)
    assert z_of(load_scene(capture), 1)[0, 0] == pytest.approx(4)


def test_depth_file_path_of_a_frame_comes_before_files_beside(capture):
    content = json.loads((capture / "transforms.json").read_text())
    content["frames"][1]["depth_file_path"] = "mine.png"
    (capture / "transforms.json").write_text(json.dumps(content))
    write(capture / "mine.png", WALL / 2)
    for name in ("01", "02"):
        write(capture / f"depth/{name}.npy", WALL)
    scene = load_scene(capture)
    assert z_of(scene, 1)[0, 0] == pytest.approx(4)
    assert z_of(scene, 2)[0, 0] == pytest.approx(8)


def test_one_array_a_split_in_the_order_of_its_list(capture):
    stack = np.stack([WALL * (1 + 0.1 * i) for i in range(4)])
    np.save(capture / "lego_depths_train.npy", stack)
    np.save(capture / "lego_depths_test.npy", np.stack([WALL, 2 * WALL])[..., None])
    scene = load_scene(capture, views="3,2")
    assert scene.names == ("00", "02", "03", "05")
    assert [round(float(z_of(scene, i)[3, 3]), 4) for i in range(4)] == [8.0, 8.8, 9.6, 16.0]
    np.save(capture / "lego_depths_train.npy", stack[:3])
    refused(capture, "lego_depths_train.npy", "(3, 16, 24)", "(4, h, w)")
    (capture / "fern_depths_test.npy").write_bytes((capture / "lego_depths_test.npy").read_bytes())
    (capture / "lego_depths_train.npy").unlink()
    refused(capture, "two files", "'test'")
    (capture / "fern_depths_test.npy").unlink()
    np.save(capture / "lego_depths_val.npy", stack)
    refused(capture, "lego_depths_val.npy", "no list")


def test_blender_names_hold_their_folder_and_its_own_pictures_stay(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        frames = []
        for i, matrix in enumerate(matrices(count, 4.0)):
            photo(tmp_path / split / f"r_{i}.png", i)
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": matrix})
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    Image.fromarray(np.full((HEIGHT, WIDTH), 128, np.uint8)).save(tmp_path / "test/r_0_depth_0001.png")
    for name in ("train/r_1", "test/r_0", "test/r_1"):
        write(tmp_path / f"depth/{name}.npz", WALL / 2)
    scene = load_scene(tmp_path)
    assert [float(np.nanmean(z_of(scene, i))) for i in (1, 5)] == pytest.approx([4, 4], rel=1e-5)
    assert float(scene.depth[4].nanmean()) == pytest.approx(8 * (1 - 128 / 255), rel=1e-5)  # a distance, no z


def test_known_distances_move_near_away(capture):
    """Half of the nearest distance of a training view, 8; what is held out says nothing, and --near is stronger."""
    unit = load_scene(capture).similarity.scale
    assert load_scene(capture).bounds.near == pytest.approx(0.2)
    for name, value in (("00", WALL / 8), ("01", WALL), ("03", 2 * WALL)):
        write(capture / f"depth/{name}.npy", value)
    scene = load_scene(capture)
    assert scene.bounds.near == pytest.approx(0.5 * 8 * unit, rel=0.1)
    assert any("from poses and depth" in note for note in scene.notes)
    assert load_scene(capture, near=1.0).bounds.near == pytest.approx(unit)


def test_a_folder_elsewhere_replaces_those_beside(capture, tmp_path):
    write(capture / "depth/01.npy", WALL)
    write(tmp_path / "other/02.npy", 2 * WALL)
    scene = load_scene(capture, depth=tmp_path / "other")
    assert np.isnan(z_of(scene, 1)).all()
    assert z_of(scene, 2)[0, 0] == pytest.approx(16)
    assert scene.opened == {"depth": str(tmp_path / "other")}
    again = load_scene(capture, **json.loads(json.dumps(scene.opened)))
    torch.testing.assert_close(depth_of(again).values, depth_of(scene).values, equal_nan=True)
    refused(capture, "no such folder", depth=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused(capture, "empty", "no depth map of a frame", "00.npz", depth=tmp_path / "empty")


def test_depth_maps_in_a_folder_of_photos_are_no_photos(tmp_path):
    """LLFF lists its photos by folder."""
    for i in range(3):
        photo(tmp_path / f"images/{i}.png", i)
        write(tmp_path / f"images/{i}_depth.png", WALL)
        write(tmp_path / f"images/depth/{i}.png", WALL)
    poses = np.tile(np.array([[0, 1, 0, 0, HEIGHT], [1, 0, 0, 0, WIDTH], [0, 0, -1, 0, FOCAL]], np.float64), (3, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(3)
    np.save(tmp_path / "poses_bounds.npy", np.concatenate([poses.reshape(3, 15), np.tile([[4.0, 20]], (3, 1))], axis=1))
    scene = load_scene(tmp_path)
    assert len(scene) == 3
    assert z_of(scene, 0)[2, 2] == pytest.approx(8, rel=1e-4)


# -- what numbers mean -------------------------------------------------------------------------------------------------


def test_whole_numbers_are_thousandths_unless_depth_json_says(capture):
    write(capture / "depth/01.npy", (WALL * 1000).astype(np.uint16))
    assert z_of(load_scene(capture), 1)[0, 0] == pytest.approx(8)
    legend(capture / "depth", unit=0.0005, kind="distance")
    scene = load_scene(capture)
    torch.testing.assert_close(
        depth_of(scene)[1], torch.full((HEIGHT, WIDTH, 1), 4.0 * scene.similarity.scale), rtol=1e-5, atol=0
    )


def test_confidence_and_std(capture):
    confidence, std = np.ones_like(WALL), np.full_like(WALL, 0.4)
    confidence[:4] = 0.3
    write(capture / "depth/01.npz", WALL, confidence=confidence, std=std)
    scene = load_scene(capture)
    assert np.isnan(z_of(scene, 1)[:4]).all()
    assert not np.isnan(z_of(scene, 1)[4:]).any()
    assert noted(scene, "kept 75% of their pixels (fewest: 01 75%)")
    assert scene.depth_std is not None
    share = scene.depth_std[1][4:] / depth_of(scene)[1][4:]
    torch.testing.assert_close(share, torch.full_like(share, 0.05), rtol=1e-5, atol=0)  # both along the ray
    guide = scene.view_rays(1).guide[4 * WIDTH :]
    torch.testing.assert_close(guide[:, 1], scene.depth_std[1][4:].reshape(-1))
    assert scene.view_rays(2).guide[:, 0].isnan().all()


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize("factor", [2, 0.5])
def test_another_size_by_one_common_factor(capture, factor, downscale):
    rows, columns = round(HEIGHT * factor), round(WIDTH * factor)
    left = np.where(np.arange(columns) < columns // 2, 6.0, 9.0)
    write(capture / "depth/01.npy", np.tile(left, (rows, 1)))
    z = z_of(load_scene(capture, downscale=downscale), 1)
    middle = WIDTH // 2 // downscale
    np.testing.assert_allclose(z[:, :middle], 6, rtol=1e-5)
    np.testing.assert_allclose(z[:, middle:], 9, rtol=1e-5)


def test_inspect_has_a_table_of_kept_and_dropped(capture):
    holed = WALL.copy()
    holed[:, :6] = 0
    write(capture / "depth/01.npy", holed)
    write(capture / "depth/00.npy", WALL)
    rows = [line.split() for line in summary(load_scene(capture))]
    (train,) = [row for row in rows if row[:2] == ["01", "train"]]
    assert train[2:5] == ["288", "96", "75.0%"]
    assert ["00", "test", "384", "0", "100.0%"] in [row[:5] for row in rows]


# -- derived -----------------------------------------------------------------------------------------------------------


def test_derived_depth_is_said_and_never_a_truth(capture):
    for i in range(6):
        write(capture / f"depth/{i:02d}.npz", WALL)
    legend(capture / "depth", unit=1.0, derived_from=DERIVED)
    scene = load_scene(capture)
    assert noted(scene, "depth derived from runs/a (grid, step 40, 2026-11-21), trained on 2 views: 02, 03")
    assert noted(scene, "estimated depth of 2 held-out views is left out")
    assert not noted(scene, "held out here")
    assert np.isnan(z_of(scene, 0)).all()
    assert not np.isnan(z_of(scene, 1)).any()
    assert "derived from runs/a" in str(scene.protocol["depth"])
    leaky = load_scene(capture, split="every-8th")
    assert not noted(leaky, "held out here")
    legend(capture / "depth", unit=1.0, derived_from={**DERIVED, "views": ["00", "02"]})
    assert noted(load_scene(capture), "saw 1 views that are held out here: 00")


def test_derived_depth_replaces_measured_depth_where_it_is_asked_for(capture, tmp_path):
    content = json.loads((capture / "transforms.json").read_text())
    content["frames"][1]["depth_file_path"] = "mine.npy"
    content["depth_unit_scale_factor"] = 1.0
    (capture / "transforms.json").write_text(json.dumps(content))
    write(capture / "mine.npy", WALL)
    for folder in (capture / "depth", tmp_path / "made"):
        for name in ("01", "02"):
            write(folder / f"{name}.npz", 2 * WALL)
        legend(folder, derived_from=DERIVED)
    found = load_scene(capture)
    assert (z_of(found, 1)[0, 0], z_of(found, 2)[0, 0]) == pytest.approx((8, 16))
    asked = load_scene(capture, depth=tmp_path / "made")
    assert (z_of(asked, 1)[0, 0], z_of(asked, 2)[0, 0]) == pytest.approx((16, 16))
    legend(tmp_path / "made")
    assert z_of(load_scene(capture, depth=tmp_path / "made"), 1)[0, 0] == pytest.approx(16)


# -- relative ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverse", [True, False])
def test_align_finds_scale_and_shift_among_outliers(inverse):
    """Exact numbers with 25 % of gross outliers: scale 0.5 and shift 0.1 come back."""
    random = np.random.RandomState(0)
    value = random.uniform(0.2, 2.0, 200)
    line = 0.5 * value + 0.1
    depth = 1 / line if inverse else line
    depth[:50] = random.uniform(0.1, 20, 50)
    found = align(value, depth, inverse)
    assert found is not None
    assert (found.scale, found.shift) == pytest.approx((0.5, 0.1), abs=1e-3)
    assert found.residual < 1e-2
    np.testing.assert_allclose(found(value)[50:], depth[50:], rtol=1e-2)
    assert align(value, depth, not inverse) is None  # values fall with it


def test_align_needs_points_and_values_that_differ():
    value = np.linspace(1, 2, FEWEST_POINTS)
    assert align(value, value, inverse=False) is not None
    assert align(value[1:], value[1:], inverse=False) is None
    assert align(np.ones(50), np.linspace(1, 2, 50), inverse=False) is None
    beyond = align(np.linspace(1, 2, 50), np.linspace(1, 2, 50) - 0.5, inverse=False)
    assert beyond is not None
    assert np.isnan(beyond(np.array([0.2]))).all()


def plane_z(x: float) -> np.ndarray:
    """(h, w) z of the plane z = 5 + X / 2 seen by an unturned camera at (x, 0, 0)."""
    across = (np.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL
    return np.tile((5 + x / 2) / (1 - across / 2), (HEIGHT, 1))


@pytest.fixture
def colmap(tmp_path: Path) -> Path:
    """Six unturned cameras in a row before that plane; the last sees 5 points, the others 80. Text model."""
    root, model = tmp_path / "plane", tmp_path / "plane/sparse/0"
    model.mkdir(parents=True)
    random = np.random.RandomState(1)
    x, y = random.uniform(-0.7, 1.5, 80), random.uniform(-0.9, 0.9, 80)
    points = np.stack([x, y, 5 + x / 2], axis=1)
    images, tracks = [], [""] * 80
    for i in range(6):
        photo(root / f"images/{i}.png", i)
        offset = points - [0.2 * i, 0, 0]
        pixel = FOCAL * offset[:, :2] / offset[:, 2:] + [WIDTH / 2, HEIGHT / 2]
        seen = range(80 if i < 5 else 5)
        triples = " ".join(f"{pixel[p, 0]} {pixel[p, 1]} {p}" for p in seen)
        images += [f"{i + 1} 1 0 0 0 {-0.2 * i} 0 0 1 {i}.png", triples]
        for feature, p in enumerate(seen):
            tracks[p] += f" {i + 1} {feature}"
    rows = [f"{p} {a} {b} {c} 9 9 9 0.5{tracks[p]}" for p, (a, b, c) in enumerate(points)]
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
    (model / "images.txt").write_text("\n".join(images) + "\n")
    (model / "points3D.txt").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("kind", ["z", "distance"])
def test_relative_depth_is_fitted_to_the_points_of_each_view(colmap, inverse, kind):
    for i in range(6):
        pixel = np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), axis=-1)
        stretch = np.sqrt(1 + (((pixel - [WIDTH / 2, HEIGHT / 2]) / FOCAL) ** 2).sum(axis=-1))
        depth = plane_z(0.2 * i) * (stretch if kind == "distance" else 1)
        line = 1 / depth if inverse else depth
        write(colmap / f"depth/{i}.npy", (line - 0.01 * i) / (0.3 + 0.1 * i))
    legend(colmap / "depth", relative=True, kind=kind)
    scene = load_scene(colmap)
    assert scene.split.test == (0,)
    for i in range(1, 5):
        np.testing.assert_allclose(z_of(scene, i), plane_z(0.2 * i), rtol=0.02)
    assert np.isnan(z_of(scene, 0)).all()  # held out: its points are not asked
    assert np.isnan(z_of(scene, 5)).all()
    assert noted(scene, f"relative depth of 4 views fitted to sparse points as {'inverse ' if inverse else ''}depth")
    assert noted(scene, "relative depth of 1 views is dropped", "fewer than 10 points", ": 5")
    assert scene.depth_std is not None
    assert 0 < float((scene.depth_std[1] / depth_of(scene)[1]).nanmedian()) < 0.02


def test_relative_depth_without_points_is_refused(capture, colmap):
    write(capture / "depth/01.npy", WALL)
    legend(capture / "depth", relative=True)
    refused(capture, "01.npy", "sparse points")
    write(colmap / "depth/5.npy", WALL)
    legend(colmap / "depth", relative=True)
    refused(colmap, "5.npy", "none of 1 relative depth maps", "10 sparse points")


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_a_map_of_another_size(capture):
    write(capture / "depth/01.npy", WALL[:, :16])
    refused(capture, "01.npy", "16x16", "24x16", "common factor")


def test_maps_of_another_unit(capture):
    """Millimetres as floats: a thousand times too far; and the other way round."""
    write(capture / "depth/01.npy", 1000 * WALL)
    refused(capture, "8002", "depth.json", '{"unit": 0.001}')
    legend(capture / "depth", unit=0.001)
    assert z_of(load_scene(capture), 1)[0, 0] == pytest.approx(8)
    legend(capture / "depth", unit=1e-6)
    refused(capture, "0.008", "unit")


@pytest.mark.parametrize(
    ("value", "found"), [(0 * WALL, "values 0 to 0"), (-WALL, "values -8 to -8"), (np.nan * WALL, "zeros and nan")]
)
def test_maps_without_any_valid_pixel(capture, value, found):
    write(capture / "depth/01.npy", value)
    refused(capture, "01.npy", "no depth above 0 in any of 1 depth maps", "unit 1", found)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"unit": 0}', ("depth.json", "above 0")),
        ('{"unit": "mm"}', ("depth.json", "'unit'", "a number")),
        ('{"kind": "disparity"}', ("depth.json", "'kind'", "distance")),
        ('{"units": 1}', ("depth.json", "did you mean 'unit'")),
        ('{"derived_from": {}}', ("depth.json", "derived_from.run")),
        ("{", ("depth.json", "not valid JSON")),
        ("[]", ("depth.json", "an object")),
    ],
)
def test_a_broken_legend(capture, content, words):
    write(capture / "depth/01.npy", WALL)
    (capture / "depth/depth.json").write_text(content)
    refused(capture, *words)


def test_files_that_are_no_maps(capture):
    Image.fromarray(WALL.astype(np.uint8)).save(capture / "images/01_depth.png")
    refused(capture, "01_depth.png", "16-bit", "move it away")
    (capture / "images/01_depth.png").unlink()
    np.savez(capture / "images/01_depth.npz", z=WALL)
    refused(capture, "01_depth.npz", "no array 'depth'", "z")
    write(capture / "images/01_depth.npz", WALL, std=WALL[:4])
    refused(capture, "01_depth.npz", "several sizes")
    write(capture / "images/01_depth.npz", WALL[0])
    refused(capture, "01_depth.npz", "(24,)", "(h, w)")
    (capture / "images/01_depth.npz").write_bytes(b"PK")
    refused(capture, "01_depth.npz", "can't be read")


def test_embedded_scenes_look_for_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "depth/train-000.npy", WALL)
    assert find_depth(describe("synthetic:shapes")[0]) == {}

"""COLMAP, DTU, RGB-D, BOP, Strecha: small models written here come back exactly, and broken ones get one message."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rayprior.errors import UserError
from rayprior.maths.poses import rotation_from_vector
from rayprior.scenes.formats import bop, colmap, dtu, rgbd, strecha
from rayprior.scenes.formats.bop import describe_bop
from rayprior.scenes.formats.colmap import describe_colmap
from rayprior.scenes.formats.dtu import decompose_projection, describe_dtu
from rayprior.scenes.formats.rgbd import describe_rgbd
from rayprior.scenes.formats.strecha import describe_strecha

SIZE = (12, 8)
HALF_TURN = np.diag([1.0, -1.0, -1.0])


def picture(path: Path, size=SIZE, values=None, mode=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((size[1], size[0], 3), 90, np.uint8) if values is None else values
    Image.fromarray(values, mode).save(path)


def rotation(*vector: float) -> np.ndarray:
    return rotation_from_vector(torch.tensor([vector], dtype=torch.float64))[0].numpy()


def poses(count: int, seed: int = 0) -> np.ndarray:
    """(count, 3, 4) camera-to-world, all different."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [np.concatenate([rotation(*rng.normal(size=3)), rng.normal(size=(3, 1))], axis=1) for _ in range(count)]
    )


# -- COLMAP ------------------------------------------------------------------------------------------------------------


def quaternion(r: np.ndarray) -> np.ndarray:
    """(w, x, y, z) from the largest eigenvector of Bar-Itzhack's matrix."""
    k = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [0, r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
            [0, 0, r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]],
            [0, 0, 0, r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    return np.linalg.eigh(k, UPLO="U")[1][:, -1]


def colmap_model(
    lens: str = "OPENCV", parameters=(900.0, 910.0, 6.5, 4.25, 0.1, -0.02, 0.003, -0.004)
) -> SimpleNamespace:
    """Three images, out of the order of names, of which one has no features; two points."""
    names, c2w = ("b.png", "c.png", "a.png"), poses(3)
    images = []
    for key, (name, pose) in enumerate(zip(names, c2w), start=7):
        features = [] if name == "c.png" else [(1.5 + key, 2.25, 11), (3.0, 4.0, -1), (5.5, 6.75, 22)]
        images.append((key, quaternion(pose[:, :3].T), -pose[:, :3].T @ pose[:, 3], 1, name, features))
    points = [
        (11, (0.1, 0.2, 3.0), (255, 0, 7), 0.5, [(7, 0), (9, 0)]),
        (22, (-0.4, 0.25, 5.0), (1, 2, 3), 1.25, [(9, 2), (7, 2)]),
    ]
    return SimpleNamespace(cameras=[(1, lens, *SIZE, parameters)], images=images, points=points, c2w=c2w[[2, 0, 1]])


def write_binary(model: SimpleNamespace, folder: Path) -> None:
    cameras = struct.pack("<Q", len(model.cameras))
    for key, lens, width, height, parameters in model.cameras:
        head = struct.pack("<IiQQ", key, colmap.ID_OF_MODEL.get(lens, lens), width, height)
        cameras += head + struct.pack(f"<{len(parameters)}d", *parameters)
    images = struct.pack("<Q", len(model.images))
    for key, q, t, camera, name, features in model.images:
        images += struct.pack("<I7dI", key, *q, *t, camera) + name.encode() + b"\0"
        images += struct.pack("<Q", len(features)) + b"".join(struct.pack("<ddq", *feature) for feature in features)
    points = struct.pack("<Q", len(model.points))
    for key, xyz, rgb, error, track in model.points:
        points += struct.pack("<Q3d3BdQ", key, *xyz, *rgb, error, len(track))
        points += b"".join(struct.pack("<II", *observation) for observation in track)
    folder.mkdir(parents=True, exist_ok=True)
    for part, data in zip(colmap.PARTS, (cameras, images, points)):
        (folder / f"{part}.bin").write_bytes(data)


def write_text(model: SimpleNamespace, folder: Path) -> None:
    def row(*values) -> str:
        return " ".join(repr(float(v)) if isinstance(v, float) else str(v) for v in values) + "\n"

    cameras = "".join(row(key, lens, w, h, *parameters) for key, lens, w, h, parameters in model.cameras)
    images = ""
    for key, q, t, camera, name, features in model.images:
        images += row(key, *map(float, q), *map(float, t), camera, name)
        images += row(*(value for feature in features for value in feature))
    points = ""
    for key, xyz, rgb, error, track in model.points:
        points += row(key, *xyz, *rgb, error, *(value for observation in track for value in observation))
    folder.mkdir(parents=True, exist_ok=True)
    for part, text in zip(colmap.PARTS, (cameras, images, points)):
        (folder / f"{part}.txt").write_text(f"# a comment\n{text}", encoding="utf-8")


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A folder with the photos of `colmap_model`, and one photo more."""
    for name in ("a", "b", "c", "left_out"):
        picture(tmp_path / "images" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("write", [write_binary, write_text])
@pytest.mark.parametrize("folder", colmap.MODEL_FOLDERS)
def test_a_colmap_model_comes_back_as_it_was_written(capture, write, folder):
    model = colmap_model()
    assert not colmap.present(capture)
    write(model, capture / folder)
    assert colmap.present(capture)
    got = describe_colmap(capture)
    assert got.names == ("a", "b", "c")
    assert [p.name for p in got.photos] == ["a.png", "b.png", "c.png"]
    torch.testing.assert_close(got.cameras.c2w, torch.from_numpy(model.c2w), rtol=0, atol=1e-14)
    assert got.cameras.lens == "opencv"
    assert got.cameras.focal_px[0].tolist() == [900.0, 910.0]
    assert got.cameras.centre_px[0].tolist() == [6.5, 4.25]
    assert got.cameras.distortion[0].tolist() == [0.1, -0.02, 0.003, -0.004, 0.0]
    assert got.cameras.size.tolist() == [list(SIZE)] * 3
    points = got.points
    assert points.position.tolist() == [[0.1, 0.2, 3.0], [-0.4, 0.25, 5.0]]
    assert points.rgb.tolist() == [[255, 0, 7], [1, 2, 3]]
    assert points.error_px.tolist() == [0.5, 1.25]
    assert points.track_point.tolist() == [0, 0, 1, 1]
    assert points.track_camera.tolist() == [1, 0, 0, 1]  # by name: b is 1, a is 0
    assert points.track_pixel.tolist() == [[8.5, 2.25], [10.5, 2.25], [5.5, 6.75], [5.5, 6.75]]
    assert any("1 photos" in note and "left_out.png" in note for note in got.notes)


LENSES = {
    "SIMPLE_PINHOLE": ((5.0, 6.0, 4.0), "pinhole", [5.0, 5.0], None),
    "PINHOLE": ((5.0, 7.0, 6.0, 4.0), "pinhole", [5.0, 7.0], None),
    "SIMPLE_RADIAL": ((5.0, 6.0, 4.0, 0.1), "opencv", [5.0, 5.0], [0.1, 0, 0, 0, 0]),
    "RADIAL": ((5.0, 6.0, 4.0, 0.1, 0.2), "opencv", [5.0, 5.0], [0.1, 0.2, 0, 0, 0]),
    "OPENCV": ((5.0, 7.0, 6.0, 4.0, 0.1, 0.2, 0.3, 0.4), "opencv", [5.0, 7.0], [0.1, 0.2, 0.3, 0.4, 0]),
    "FULL_OPENCV": (
        (5.0, 7.0, 6.0, 4.0, *(0.1, 0.2, 0.3, 0.4, 0.5), 0.0, 0.0, 0.0),
        "opencv",
        [5.0, 7.0],
        [0.1, 0.2, 0.3, 0.4, 0.5],
    ),
    "OPENCV_FISHEYE": ((5.0, 7.0, 6.0, 4.0, 0.1, 0.2, 0.3, 0.4), "fisheye", [5.0, 7.0], [0.1, 0.2, 0.3, 0.4]),
    "SIMPLE_RADIAL_FISHEYE": ((5.0, 6.0, 4.0, 0.1), "fisheye", [5.0, 5.0], [0.1, 0, 0, 0]),
    "RADIAL_FISHEYE": ((5.0, 6.0, 4.0, 0.1, 0.2), "fisheye", [5.0, 5.0], [0.1, 0.2, 0, 0]),
}


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("write", [write_binary, write_text])
def test_every_lens_is_read(capture, name, write):
    parameters, lens, focal, distortion = LENSES[name]
    write(colmap_model(name, parameters), capture)
    cameras = describe_colmap(capture).cameras
    assert cameras.lens == lens
    assert cameras.focal_px[0].tolist() == focal
    assert cameras.centre_px[0].tolist() == [6.0, 4.0]
    assert (None if cameras.distortion is None else cameras.distortion[0].tolist()) == distortion


@pytest.mark.parametrize(
    ("lens", "parameters", "words"),
    [
        ("FOV", (5.0, 7.0, 6.0, 4.0, 0.9), "FOV"),
        ("FULL_OPENCV", (5.0, 7.0, 6.0, 4.0, *(0.0,) * 7, 0.1), "k4 k5 k6"),
        ("THIN_PRISM_FISHEYE", (5.0,) * 12, "THIN_PRISM_FISHEYE"),
        ("PINHOLE", (0.0, 7.0, 6.0, 4.0), "focal length"),
        ("PINHOLE", (5.0, float("nan"), 6.0, 4.0), "finite"),
    ],
)
@pytest.mark.parametrize("write", [write_binary, write_text])
def test_lenses_that_are_not_read_are_named(capture, lens, parameters, words, write):
    write(colmap_model(lens, parameters), capture)
    with pytest.raises(UserError, match=words):
        describe_colmap(capture)


def broken(change) -> SimpleNamespace:
    model = colmap_model()
    change(model)
    return model


def replaced(rows: list, index: int, position: int, value) -> None:
    row = list(rows[index])
    row[position] = value
    rows[index] = tuple(row)


BROKEN_MODELS = {
    "a pose of NaN": (lambda m: replaced(m.images, 0, 2, (0.0, float("nan"), 0.0)), "'b.png'.*nan"),
    "no unit quaternion": (lambda m: replaced(m.images, 0, 1, (0.0, 0.0, 0.0, 0.0)), "'b.png'.*quaternion"),
    "an unknown camera": (lambda m: replaced(m.images, 0, 3, 5), "camera 5"),
    "a name twice": (lambda m: replaced(m.images, 0, 4, "a.png"), "'a.png' is registered twice"),
    "an image twice": (lambda m: replaced(m.images, 0, 0, 9), "image 9 stands here twice"),
    "a camera twice": (lambda m: m.cameras.append(m.cameras[0]), "camera 1 stands here twice"),
    "a photo outside": (lambda m: replaced(m.images, 0, 4, "../../b.png"), "leaves the scene's folder"),
    "a track of no image": (lambda m: replaced(m.points, 0, 4, [(4, 0)]), "image 4"),
    "a track of no feature": (lambda m: replaced(m.points, 0, 4, [(7, 3)]), "feature 3 of image 7"),
    "a point at infinity": (lambda m: replaced(m.points, 1, 1, (0.0, float("inf"), 0.0)), "point 1 of 2"),
    "a picture of no size": (lambda m: replaced(m.cameras, 0, 2, 0), "0x8"),
    "a picture of absurd size": (lambda m: replaced(m.cameras, 0, 3, 1 << 40), "1099511627776"),
    "no image": (lambda m: m.images.clear(), "no registered image"),
    "fisheye and another": (
        lambda m: (
            m.cameras.append((2, "RADIAL_FISHEYE", *SIZE, (5.0, 6.0, 4.0, 0.1, 0.2))),
            replaced(m.images, 0, 3, 2),
        ),
        "undistort",
    ),
}


@pytest.mark.parametrize("case", BROKEN_MODELS)
@pytest.mark.parametrize("write", [write_binary, write_text])
def test_what_cannot_be_true_is_named(capture, case, write):
    change, words = BROKEN_MODELS[case]
    write(broken(change), capture / "sparse" / "0")
    with pytest.raises(UserError, match=words):
        describe_colmap(capture)


@pytest.mark.parametrize("part", colmap.PARTS)
def test_a_binary_model_cut_anywhere_is_refused(capture, part):
    write_binary(colmap_model(), capture)
    file = capture / f"{part}.bin"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{part}\.bin: at byte \d+ of {length}: .*cut short"):
            describe_colmap(capture)
    file.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match="1 bytes follow the last"):
        describe_colmap(capture)


@pytest.mark.parametrize("part", colmap.PARTS)
def test_absurd_counts_are_refused_before_anything_is_allocated(capture, part):
    write_binary(colmap_model(), capture)
    file = capture / f"{part}.bin"
    file.write_bytes(struct.pack("<Q", 1 << 62) + file.read_bytes()[8:])
    tracemalloc.start()
    with pytest.raises(UserError, match="claims 4611686018427387904"):
        describe_colmap(capture)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6


def test_an_unknown_camera_model_is_named_with_the_known_ones(capture):
    write_binary(colmap_model(99, (1.0, 2.0, 3.0)), capture)
    with pytest.raises(UserError, match="unknown model id 99; supported: SIMPLE_PINHOLE"):
        describe_colmap(capture)
    for part in colmap.PARTS:
        (capture / f"{part}.bin").unlink()
    write_text(colmap_model("PINHOL", (1.0, 2.0, 3.0, 4.0)), capture)
    with pytest.raises(UserError, match="unknown model 'PINHOL'; supported: SIMPLE_PINHOLE"):
        describe_colmap(capture)


@pytest.mark.parametrize(
    ("part", "line", "words"),
    [
        ("cameras", "1 PINHOLE 12 8 1.0 x 3.0 4.0", "line 2: expected CAMERA_ID"),
        ("cameras", "1 PINHOLE 12 8 1.0", "line 2: expected 4 parameters"),
        ("images", "7 1 0 0 0 1 2", "line 2: expected IMAGE_ID"),
        ("images", "7 1 0 0 0 1 2 3 1 a.png", "line 3: expected the features"),
        ("images", "7 1 0 0 0 1 2 3 1 a.png\n1.0 2.0", "line 3: expected features"),
        ("points3D", "11 1 2 3 4 5 6", "line 2: expected POINT3D_ID"),
        ("points3D", "11 1 2 3 4 5 6 0.5 7", "line 2: expected POINT3D_ID"),
        ("points3D", "11 1 2 3 4 5 600 0.5 7 0", "line 2: expected a colour"),
    ],
)
def test_bad_lines_of_text_are_named(capture, part, line, words):
    write_text(colmap_model(), capture)
    (capture / f"{part}.txt").write_text(f"# a comment\n{line}\n")
    with pytest.raises(UserError, match=rf"{part}\.txt: {words}"):
        describe_colmap(capture)


def test_an_incomplete_model_is_no_model(capture):
    write_binary(colmap_model(), capture / "sparse" / "0")
    (capture / "sparse" / "0" / "images.bin").unlink()
    assert not colmap.present(capture)
    with pytest.raises(UserError, match="no complete COLMAP model"):
        describe_colmap(capture)


def test_a_model_without_points_has_none(capture):
    write_binary(broken(lambda m: m.points.clear()), capture)
    assert describe_colmap(capture).points is None


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), part=st.sampled_from(colmap.PARTS))
def test_a_damaged_binary_model_gives_a_description_or_a_message(capture, data, part):
    write_binary(colmap_model(), capture)
    file = capture / f"{part}.bin"
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])
    message = str(capture)
    tracemalloc.start()
    try:
        described = describe_colmap(capture)
        assert len(described.names) == len(described.cameras) == 3
        assert described.cameras.c2w.isfinite().all()
        assert described.cameras.focal_px.gt(0).all()
    except UserError as error:
        message = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert str(capture) in message
    assert peak < 4e6


def test_a_large_images_file_is_read_fast(capture):
    """100 images of 1,000 features and 10,000 points: a few hundredths of a second."""
    model = colmap_model()
    _, q, t, camera, _, _ = model.images[0]
    features = [(1.0, 2.0, -1)] * 1000
    model.images = [(i, q, t, camera, f"{i:04d}.png", features) for i in range(100)]
    model.points = [(i, (0.0, 0.0, 1.0), (0, 0, 0), 0.1, [(i % 100, 5), ((i + 1) % 100, 6)]) for i in range(10_000)]
    write_binary(model, capture)
    start = perf_counter()
    assert len(describe_colmap(capture).points) == 10_000
    assert perf_counter() - start < 1.0  # a loop over features in Python would take longer than that


# -- DTU ---------------------------------------------------------------------------------------------------------------

K = np.array([[2892.0, 0, 823.0], [0, 2883.0, 619.0], [0, 0, 1]])


def dtu_capture(folder: Path, change=lambda arrays: None, masks: bool = True) -> np.ndarray:
    """Three views with world and scale matrices; returns the poses."""
    c2w, arrays = poses(3), {}
    for i, pose in enumerate(c2w):
        view = np.eye(4)
        view[:3] = K @ np.concatenate([pose[:, :3].T, (-pose[:, :3].T @ pose[:, 3])[:, None]], axis=1)
        arrays[f"world_mat_{i}"] = view * (-1 if i == 1 else 1)  # a projection has no sign
        arrays[f"scale_mat_{i}"] = np.array([[4.0, 0, 0, 1], [0, 4, 0, 2], [0, 0, 4, 3], [0, 0, 0, 1]])
        arrays[f"camera_mat_{i}"] = np.diag([2 / 1600, 2 / 1200, 1, 1]) - np.array(
            [[0, 0, 1, 0], [0, 0, 1, 0], *[[0] * 4] * 2]
        )
        picture(folder / "image" / f"{i:06d}.png", (16, 12))
        if masks:
            picture(folder / "mask" / f"{i:03d}.png", (16, 12))
    change(arrays)
    np.savez(folder / "cameras.npz", **arrays)
    return c2w


def test_dtu_matrices_come_apart_into_cameras(tmp_path):
    c2w = dtu_capture(tmp_path)
    assert dtu.present(tmp_path)
    got = describe_dtu(tmp_path)
    torch.testing.assert_close(got.cameras.c2w, torch.from_numpy(c2w), rtol=0, atol=1e-9)
    torch.testing.assert_close(got.cameras.focal_px[1], torch.tensor([2892.0, 2883.0], dtype=torch.float64))
    torch.testing.assert_close(got.cameras.centre_px[2], torch.tensor([823.0, 619.0], dtype=torch.float64))
    assert got.cameras.size.tolist() == [[1600, 1200]] * 3
    assert (got.box.low, got.box.high) == ((-3.0, -2.0, -1.0), (5.0, 6.0, 7.0))
    corners = got.similarity.points(torch.tensor([got.box.low, got.box.high], dtype=torch.float64))
    assert corners.tolist() == [[-1.0] * 3, [1.0] * 3]
    assert [mask.name for mask in got.masks] == ["000.png", "001.png", "002.png"]


def test_without_a_stated_size_the_principal_point_tells(tmp_path):
    dtu_capture(tmp_path, lambda arrays: [arrays.pop(f"camera_mat_{i}") for i in range(3)], masks=False)
    got = describe_dtu(tmp_path)
    assert got.cameras.size[0].tolist() == [1600, 1200]
    assert got.masks is None
    for i in range(3):
        picture(tmp_path / "image" / f"{i:06d}.png", (1640, 1240))
    assert describe_dtu(tmp_path).cameras.size[0].tolist() == [1640, 1240]


def test_a_photo_that_is_gone_keeps_its_view(tmp_path):
    dtu_capture(tmp_path)
    (tmp_path / "image" / "000000.png").unlink()
    assert [p.name for p in describe_dtu(tmp_path).photos] == ["000000.png", "000001.png", "000002.png"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.update(world_mat_1=np.full((4, 4), np.nan)), "world_mat_1 .*finite"),
        (lambda a: a.update(world_mat_1=np.zeros((4, 4))), "world_mat_1 is singular"),
        (lambda a: a.update(world_mat_1=np.eye(3)), r"world_mat_1 is float64 \(3, 3\)"),
        (lambda a: a.update(world_mat_1=np.array([["x"] * 4] * 4)), "world_mat_1 is <U1"),
        (lambda a: a.pop("scale_mat_2"), "has no scale_mat_2"),
        (lambda a: a.update(scale_mat_2=np.eye(4)), "scale_mat_2 is not scale_mat_0"),
        (lambda a: a.update(scale_mat_0=np.diag([1.0, 2.0, 3.0, 1.0])), "scale_mat_0 = .*one positive scale"),
        (lambda a: a.clear(), "holds no world_mat_0"),
    ],
)
def test_bad_dtu_matrices_are_named(tmp_path, change, words):
    dtu_capture(tmp_path, change)
    with pytest.raises(UserError, match=words):
        describe_dtu(tmp_path)


def test_a_cut_npz_and_missing_masks_are_named(tmp_path):
    dtu_capture(tmp_path)
    (tmp_path / "mask" / "001.png").unlink()
    with pytest.raises(UserError, match="no mask for view 1"):
        describe_dtu(tmp_path)
    whole = (tmp_path / "cameras.npz").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cameras.npz").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cameras\.npz"):
            describe_dtu(tmp_path)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_projection_comes_apart_into_what_it_was_made_of(seed):
    rng = np.random.default_rng(seed)
    pose = poses(1, seed)[0]
    k = np.array([[rng.uniform(1, 3000), rng.normal(), rng.normal() * 500], [0, rng.uniform(1, 3000), 7], [0, 0, 1]])
    p = (
        rng.choice([-3.0, 0.2, 1.0])
        * k
        @ np.concatenate([pose[:, :3].T, (-pose[:, :3].T @ pose[:, 3])[:, None]], axis=1)
    )
    got_k, got_pose = decompose_projection(p)
    np.testing.assert_allclose(got_k, k, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got_pose, pose, atol=1e-6)


# -- RGB-D -------------------------------------------------------------------------------------------------------------


def rgbd_capture(folder: Path, focal: float = 10.0) -> np.ndarray:
    c2w = poses(2)
    for i, pose in enumerate(c2w):
        picture(folder / f"frame-{i:06d}.color.png")
        picture(folder / f"frame-{i:06d}.depth.png", values=np.full(SIZE[::-1], 1500, np.uint16))
        np.savetxt(folder / f"frame-{i:06d}.pose.txt", np.concatenate([pose, [[0, 0, 0, 1]]]))
    np.savetxt(folder / "camera-intrinsics.txt", np.array([[focal, 0, 6], [0, focal, 4], [0, 0, 1]]))
    return c2w


def test_rgbd_frames_come_back(tmp_path):
    c2w = rgbd_capture(tmp_path)
    counts = np.full(SIZE[::-1], 1500, np.uint16)
    counts[0, :3] = (0, 65535, 1)
    picture(tmp_path / "frame-000000.depth.png", values=counts)
    (tmp_path / "frame-000001.depth.png").unlink()
    assert rgbd.present(tmp_path)
    got = describe_rgbd(tmp_path)
    assert got.names == ("frame-000000", "frame-000001")
    torch.testing.assert_close(got.cameras.c2w, torch.from_numpy(c2w), rtol=0, atol=1e-14)
    assert got.cameras.focal_px.tolist() == [[10.0, 10.0]] * 2
    assert got.depths.has == (True, False)
    assert got.depths.cameras is None  # one K for both
    depth = got.depths.read(0)
    assert np.isnan(depth[0, :2]).all()
    assert depth[0, 2] == np.float32(0.001)
    assert depth[1:] == pytest.approx(1.5)


def test_the_kinect_of_7_scenes_has_two_cameras(tmp_path):
    rgbd_capture(tmp_path, 585.0)
    got = describe_rgbd(tmp_path)
    assert got.depths.cameras.focal_px[0].tolist() == [585.0, 585.0]
    assert got.cameras.focal_px[0].tolist() == [525 * 12 / 640] * 2
    assert got.cameras.centre_px[0].tolist() == [6.0, 4.0]
    assert any("585" in note for note in got.notes)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("frame-000001.pose.txt", "nan " * 16, "0 finite numbers of 16"),
        ("frame-000001.pose.txt", "1 0 0 0 0 1 0 0 0 0 1", "11 finite numbers of 11; expected a 4x4"),
        ("frame-000001.pose.txt", "1 0 0 0 0 1 0 0 0 0 x 0 0 0 0 1", "no number"),
        ("frame-000001.pose.txt", "2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", "no rigid motion"),
        ("frame-000001.pose.txt", "-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "no rigid motion"),
        ("camera-intrinsics.txt", "0 0 6 0 10 4 0 0 1", "fx and fy above 0"),
        ("camera-intrinsics.txt", "", "expected a 3x3"),
    ],
)
def test_bad_rgbd_matrices_are_named(tmp_path, file, text, words):
    rgbd_capture(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=f"{file}: .*{words}"):
        describe_rgbd(tmp_path)


def test_missing_and_wrong_rgbd_files_are_named(tmp_path):
    rgbd_capture(tmp_path)
    picture(tmp_path / "frame-000001.depth.png", values=np.full((4, 4), 1, np.uint16))
    with pytest.raises(UserError, match="4x4 px, but the first depth map has 12x8"):
        describe_rgbd(tmp_path).depths.read(1)
    picture(tmp_path / "frame-000001.depth.png")
    with pytest.raises(UserError, match="16-bit depth"):
        describe_rgbd(tmp_path).depths.read(1)
    whole = (tmp_path / "frame-000000.depth.png").read_bytes()
    for length in (0, 30, len(whole) // 2):
        (tmp_path / "frame-000001.depth.png").write_bytes(whole[:length])
        with pytest.raises(UserError, match="frame-000001"):
            describe_rgbd(tmp_path).depths.read(1)
    (tmp_path / "camera-intrinsics.txt").unlink()
    with pytest.raises(UserError, match=r"camera-intrinsics\.txt: missing"):
        describe_rgbd(tmp_path)


# -- BOP ---------------------------------------------------------------------------------------------------------------


def bop_capture(folder: Path, change=lambda cameras, truth: None, depth: bool = True) -> None:
    """A cube of 200 mm seen along z from 1 m in front and 1 m behind, its front face in both depth maps."""
    cameras, truth = {}, {}
    shown = np.zeros((40, 60), np.uint8)
    shown[10:30, 20:40] = 255
    for i, r in ((3, HALF_TURN), (18, np.eye(3))):
        cameras[str(i)] = {"cam_K": [90.0, 0, 30.0, 0, 90.0, 20.0, 0, 0, 1], "depth_scale": 0.5}
        truth[str(i)] = [{"cam_R_m2c": r.ravel().tolist(), "cam_t_m2c": [0.0, 0.0, 1000.0], "obj_id": 4}]
        picture(folder / "rgb" / f"{i:06d}.png", (60, 40))
        picture(folder / "mask_visib" / f"{i:06d}_000000.png", values=shown)
        if depth:
            picture(folder / "depth" / f"{i:06d}.png", values=np.where(shown > 0, 1800, 2400).astype(np.uint16))
    change(cameras, truth)
    (folder / "scene_camera.json").write_text(json.dumps(cameras))
    (folder / "scene_gt.json").write_text(json.dumps(truth))


def test_bop_poses_are_cameras_about_the_object(tmp_path):
    bop_capture(tmp_path)
    assert bop.present(tmp_path)
    got = describe_bop(tmp_path)
    assert got.names == ("000003", "000018")
    assert got.cameras.origins.tolist() == [[0.0, 0.0, 1000.0], [0.0, 0.0, -1000.0]]
    assert got.cameras.forward.tolist() == [[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]]
    assert got.depths.read(0)[15, 25] == 900.0
    # visible: 20 px at 900 mm and f = 90 px, pixel centres 19 px apart; faces at z = -100 and 100
    assert np.allclose(got.box.high, np.array([95, 95, 100]) + 0.03 * 200, atol=0.1)
    assert np.allclose(got.box.low, np.array([-95, -95, -100]) - 0.03 * 200, atol=0.1)


def test_without_depth_masks_give_the_box(tmp_path):
    bop_capture(tmp_path, depth=False)
    got = describe_bop(tmp_path)
    assert got.depths is None
    high = np.array(got.box.high)
    assert (high[:2] > 100).all()  # it holds the cube
    assert (high[:2] < 300).all()
    assert "masks" in got.notes[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, t: c["3"].pop("cam_K"), "frame 3 has no 'cam_K'"),
        (lambda c, t: c["3"].update(cam_K=[1, 2]), "'cam_K' of frame 3"),
        (lambda c, t: c["3"].update(cam_K=[0.0] * 9), "focal length"),
        (lambda c, t: c["3"].update(depth_scale=0), "'depth_scale' of frame 3 is 0"),
        (lambda c, t: c.update(x={}), "frame numbers for keys"),
        (lambda c, t: c.clear(), "frame numbers for keys"),
        (lambda c, t: t.pop("18"), "frame 18 of scene_camera.json has no list"),
        (lambda c, t: t["18"].append(t["18"][0]), "frame 18 shows 2 objects"),
        (lambda c, t: t["18"][0].update(obj_id=5), "objects 4, 5"),
        (lambda c, t: t["18"][0].pop("cam_t_m2c"), "frame 18 has no 'cam_t_m2c'"),
        (lambda c, t: t["18"][0].update(cam_t_m2c=[0, float("nan"), 0]), "'cam_t_m2c' of frame 18 .*finite"),
        (
            lambda c, t: t["18"][0].update(cam_R_m2c=[1, 0, 0, 0, 1, 0, 0, 0, 0]),
            "'cam_R_m2c' of frame 18 is no rotation",
        ),
    ],
)
def test_bad_bop_entries_are_named(tmp_path, change, words):
    bop_capture(tmp_path, change)
    with pytest.raises(UserError, match=words):
        describe_bop(tmp_path)


def test_broken_bop_files_are_named(tmp_path):
    bop_capture(tmp_path)
    (tmp_path / "mask_visib" / "000018_000000.png").unlink()
    with pytest.raises(UserError, match=r"000018_000000\.png: missing"):
        describe_bop(tmp_path)
    (tmp_path / "scene_gt.json").write_text('{"3": [')
    with pytest.raises(UserError, match=r"scene_gt\.json: broken JSON"):
        describe_bop(tmp_path)
    (tmp_path / "scene_gt.json").unlink()
    with pytest.raises(UserError, match=r"scene_gt\.json: missing"):
        describe_bop(tmp_path)


# -- Strecha -----------------------------------------------------------------------------------------------------------


def strecha_text(pose: np.ndarray, size="3072 2048", k="2759.5 0 1520.7 0 2764.2 1006.8 0 0 1") -> str:
    r = "\n".join(" ".join(f"{value!r}" for value in row.tolist()) for row in pose[:, :3])
    return f"{k}\n0 0 0\n{r}\n{' '.join(repr(v) for v in pose[:, 3].tolist())}\n{size}\n"


@pytest.mark.parametrize("place", ["gt_dense_cameras", "images", "."])
def test_strecha_cameras_come_back(tmp_path, place):
    c2w = poses(2)
    photos = tmp_path if place == "." else tmp_path / "images"
    (tmp_path / place).mkdir(exist_ok=True)
    for i, pose in enumerate(c2w):
        picture(photos / f"{i:04d}.png", (96, 64))
        (tmp_path / place / f"{i:04d}.png.camera").write_text(strecha_text(pose))
    assert strecha.present(tmp_path)
    got = describe_strecha(tmp_path)
    assert got.names == ("0000", "0001")
    assert all(photo.is_file() for photo in got.photos)
    torch.testing.assert_close(got.cameras.c2w, torch.from_numpy(c2w), rtol=0, atol=1e-14)
    assert got.cameras.focal_px[0].tolist() == [2759.5, 2764.2]
    assert got.cameras.size[0].tolist() == [3072, 2048]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "0 finite numbers of 0; expected 3 rows of K"),
        ("a b c", "no number"),
        (strecha_text(np.full((3, 4), np.nan)), "finite"),
        (strecha_text(np.ones((3, 4))), "no rotation"),
        (strecha_text(poses(1)[0], size="3072"), "25 finite numbers"),
        (strecha_text(poses(1)[0], size="3072 -5"), r"\[3072.0, -5.0\]"),
        (strecha_text(poses(1)[0], k="0 0 1 0 2 1 0 0 1"), "focal lengths positive"),
        (strecha_text(poses(1)[0], k="9 5 1 0 9 1 0 0 1"), "skew"),
    ],
)
def test_bad_strecha_files_are_named(tmp_path, text, words):
    picture(tmp_path / "images" / "0000.png", (96, 64))
    (tmp_path / "images" / "0000.png.camera").write_text(text)
    with pytest.raises(UserError, match=rf"0000\.png\.camera: .*{words}"):
        describe_strecha(tmp_path)


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [colmap, dtu, rgbd, bop, strecha])
def test_an_empty_folder_holds_no_format(tmp_path, reader):
    assert not reader.present(tmp_path)
    assert not reader.present(tmp_path / "no such folder")


def test_cameras_see_and_return(tmp_path):
    """`project` after `directions` returns the pixel."""
    rgbd_capture(tmp_path)
    cameras = describe_rgbd(tmp_path).cameras
    pixel = cameras.pixel_grid(0)
    camera = torch.zeros(len(pixel), dtype=torch.long)
    back, _, visible = cameras.project(cameras.origins[camera] + 2 * cameras.directions(camera, pixel), camera)
    assert visible.all()
    torch.testing.assert_close(back, pixel.double(), rtol=0, atol=1e-9)

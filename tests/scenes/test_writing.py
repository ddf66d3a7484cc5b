"""What is written is read back, by the house's own readers and by pycolmap, to rounding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rayprior.errors import UserError
from rayprior.maths.poses import look_at, rotation_angle_deg
from rayprior.scenes.cameras import Cameras, Lens
from rayprior.scenes.description import Points
from rayprior.scenes.formats.colmap import describe_colmap
from rayprior.scenes.formats.llff import describe_llff
from rayprior.scenes.formats.nerfstudio import describe_nerfstudio
from rayprior.scenes.open import describe, open_cameras
from rayprior.scenes.placement import place
from rayprior.scenes.writing import Form, write_colmap, write_llff, write_points, write_scene, write_transforms

EXACT = 1e-12
PHOTOS = ("images/b.png", "images/a.jpg", "images/deep/c.png", "images/d.png", "images/e.png")
LENSES: dict[str, tuple[Lens, list[float] | None]] = {
    "pinhole": ("pinhole", None),
    "opencv": ("opencv", [0.03, -0.02, 1e-3, -2e-3, 0.0]),
    "opencv with k3": ("opencv", [0.03, -0.02, 1e-3, -2e-3, 0.004]),
    "fisheye": ("fisheye", [0.02, -0.01, 3e-3, -1e-4]),
}


def cameras_with(lens: str, alike: bool = False) -> Cameras:
    """Five cameras around a place far from the origin; `alike`: one set of intrinsics for all."""
    g = torch.Generator().manual_seed(0)
    kind, k = LENSES[lens]
    focus = torch.tensor([431.0, -27.0, 12.5], dtype=torch.float64)
    origins = focus + 3 * torch.nn.functional.normalize(torch.randn(5, 3, generator=g, dtype=torch.float64), dim=1)
    change = torch.zeros(5, 2, dtype=torch.float64) if alike else torch.rand(5, 2, generator=g, dtype=torch.float64)
    size = torch.tensor([[64, 48]] * 5) + (0 if alike else 1) * torch.arange(5)[:, None]
    return Cameras(
        c2w=look_at(origins, focus, torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64)),
        focal_px=torch.tensor([[71.25, 70.5]], dtype=torch.float64) + change,
        centre_px=torch.tensor([[31.3, 24.9]], dtype=torch.float64) - change,
        size=size,
        lens=kind,
        distortion=None if k is None else torch.tensor([k] * 5, dtype=torch.float64),
    )


def write_photos(root: Path, cameras: Cameras) -> list[Path]:
    files = [root / name for name in PHOTOS]
    for file, (width, height) in zip(files, cameras.size.tolist(), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(file)
    return files


def some_points() -> Points:
    """Seven points; one that nobody saw, one whose error and pixels are unknown."""
    g = torch.Generator().manual_seed(1)
    track = torch.tensor([[4, 2], [0, 0], [0, 3], [2, 2], [1, 1], [2, 0], [5, 4], [6, 1], [0, 2], [6, 0]])
    pixel = 40 * torch.rand(len(track), 2, generator=g, dtype=torch.float64)
    pixel[track[:, 0] == 6] = torch.nan
    error = torch.rand(7, generator=g, dtype=torch.float64)
    error[6] = torch.nan
    return Points(
        position=torch.tensor([431.0, -27.0, 12.5]) + 0.3 * torch.randn(7, 3, generator=g, dtype=torch.float64),
        rgb=torch.randint(256, (7, 3), generator=g, dtype=torch.uint8),
        error_px=error,
        track_point=track[:, 0],
        track_camera=track[:, 1],
        track_pixel=pixel,
    )


def assert_same_cameras(a: Cameras, b: Cameras, tolerance: float = EXACT) -> None:
    assert float((a.origins - b.origins).abs().max()) < tolerance * 431
    assert float(rotation_angle_deg(a.c2w[:, :, :3], b.c2w[:, :, :3]).max()) < 1e-6
    torch.testing.assert_close(a.c2w[:, :, :3], b.c2w[:, :, :3], atol=tolerance, rtol=0)
    for name in ("focal_px", "centre_px", "size"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.lens == b.lens
    assert (a.distortion is None) == (b.distortion is None)
    assert a.distortion is None or b.distortion is None or torch.equal(a.distortion, b.distortion)


# -- nerfstudio --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("lens", LENSES)
def test_transforms_are_read_back(tmp_path: Path, lens: str, alike: bool):
    cameras = cameras_with(lens, alike)
    photos = write_photos(tmp_path, cameras)
    write_transforms(tmp_path / "transforms.json", list("bacde"), photos, cameras)
    found = describe_nerfstudio(tmp_path)
    assert found.names == ("b", "a", "c", "d", "e")
    assert list(found.photos) == photos
    assert_same_cameras(found.cameras, cameras)
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert ("fl_x" in content) == alike
    assert ("fl_x" in content["frames"][0]) != alike


def test_transforms_name_masks_points_and_lists(tmp_path: Path):
    cameras = cameras_with("pinhole")
    photos = write_photos(tmp_path, cameras)
    masks = [tmp_path / "masks" / "b.png", None, None, None, tmp_path / "masks" / "e.png"]
    write_transforms(
        tmp_path / "transforms.json", list("bacde"), photos, cameras, masks=masks, points_file="sparse.ply",
        lists={"train": ["b", "c"], "test": ["a"]},
    )  # fmt: skip
    found = describe_nerfstudio(tmp_path)
    assert found.masks == tuple(masks)
    assert found.lists == {"train": ("b", "c"), "test": ("a",)}
    assert json.loads((tmp_path / "transforms.json").read_text())["ply_file_path"] == "sparse.ply"


def test_photos_outside_the_folder_are_refused(tmp_path: Path):
    cameras = cameras_with("pinhole")
    photos = write_photos(tmp_path, cameras)
    with pytest.raises(UserError, match=r"images/b\.png of frame 'b' lies outside of .*scene; files of a scene"):
        write_transforms(tmp_path / "scene" / "transforms.json", list("bacde"), photos, cameras)


# -- COLMAP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lens", LENSES)
def test_a_colmap_model_is_read_back(tmp_path: Path, lens: str):
    cameras, points = cameras_with(lens), some_points()
    write_photos(tmp_path, cameras)
    write_colmap(tmp_path / "sparse" / "0", [name.removeprefix("images/") for name in PHOTOS], cameras, points)
    found = describe_colmap(tmp_path)
    order = sorted(range(5), key=lambda i: PHOTOS[i])
    assert_same_cameras(found.cameras, cameras[order])
    assert found.points is not None
    assert torch.equal(found.points.position, points.position)
    assert torch.equal(found.points.rgb, points.rgb)
    assert torch.equal(found.points.error_px, points.error_px.nan_to_num(-1.0))
    projected, _, _ = cameras.project(points.position[points.track_point], points.track_camera)
    pixel = torch.where(points.track_pixel.isfinite(), points.track_pixel, projected)
    rows = {
        (int(p), order.index(int(c))): xy.tolist()
        for p, c, xy in zip(points.track_point, points.track_camera, pixel, strict=True)
    }
    q = found.points
    assert {
        (int(p), int(c)): xy.tolist() for p, c, xy in zip(q.track_point, q.track_camera, q.track_pixel, strict=True)
    } == rows


def test_equal_intrinsics_share_a_colmap_camera(tmp_path: Path):
    write_colmap(tmp_path, PHOTOS, cameras_with("pinhole", alike=True))
    assert (tmp_path / "cameras.bin").read_bytes()[:8] == (1).to_bytes(8, "little")
    assert (tmp_path / "points3D.bin").read_bytes() == bytes(8)


@pytest.mark.parametrize("lens", LENSES)
def test_pycolmap_reads_the_model(tmp_path: Path, lens: str):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (extra sfm)")
    cameras, points = cameras_with(lens), some_points()
    write_colmap(tmp_path, PHOTOS, cameras, points)
    model = pycolmap.Reconstruction(tmp_path)
    assert sorted(model.points3D) == list(range(1, 8))
    for key, point in model.points3D.items():
        np.testing.assert_array_equal(point.xyz, points.position[key - 1].numpy())
        np.testing.assert_array_equal(point.color, points.rgb[key - 1].numpy())
        seen = {int(c) + 1 for c in points.track_camera[points.track_point == key - 1]}
        assert {element.image_id for element in point.track.elements} == seen
    local = torch.tensor([[0.2, -0.1, 1.0], [-0.3, 0.25, 1.0]], dtype=torch.float64)
    for i, name in enumerate(PHOTOS):
        image = model.find_image_with_name(name)
        matrix = image.cam_from_world().matrix()
        rotation = cameras.c2w[i, :, :3].numpy()
        np.testing.assert_allclose(matrix[:, :3], rotation.T, atol=1e-12)
        np.testing.assert_allclose(-matrix[:, :3].T @ matrix[:, 3], cameras.origins[i].numpy(), atol=1e-9)
        world = local @ cameras.c2w[i, :, :3].T + cameras.origins[i]
        ours, _, _ = cameras.project(world, torch.full((2,), i))
        np.testing.assert_allclose(image.camera.img_from_cam(local.numpy()), ours.numpy(), atol=1e-8)
        assert [image.camera.width, image.camera.height] == cameras.size[i].tolist()


# -- LLFF --------------------------------------------------------------------------------------------------------------


def for_llff() -> Cameras:
    cameras = cameras_with("pinhole", alike=True)
    return replace(cameras, focal_px=torch.full_like(cameras.focal_px, 70.0), centre_px=cameras.size.double() / 2)


def test_llff_is_read_back(tmp_path: Path):
    cameras = for_llff()
    write_photos(tmp_path, cameras)
    bounds = torch.tensor([[1.0, 9.0], [2.0, 8.0], [1.5, 7.0], [1.25, 9.5], [3.0, 4.0]], dtype=torch.float64)
    said = write_llff(tmp_path / "poses_bounds.npy", [n.removeprefix("images/") for n in PHOTOS], cameras, bounds)
    assert said == ()
    order = sorted(range(5), key=lambda i: PHOTOS[i])
    assert_same_cameras(describe_llff(tmp_path).cameras, cameras[order])
    np.testing.assert_array_equal(np.load(tmp_path / "poses_bounds.npy")[:, 15:], bounds[order].numpy())


def test_llff_says_what_it_loses(tmp_path: Path):
    bounds = torch.tensor([[1.0, 9.0]]).expand(5, 2)
    said = write_llff(tmp_path / "poses_bounds.npy", PHOTOS, cameras_with("pinhole", alike=True), bounds)
    assert said == (
        "LLFF has one focal length: fx and fy differ by up to 1.06%, their mean is written",
        "LLFF has its principal point in the middle: it is up to 0.90 px off, which is lost",
    )


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (cameras_with("fisheye", alike=True), "LLFF knows pinhole cameras alone, these have a fisheye lens; export"),
        (cameras_with("opencv", alike=True), r"these have lens distortion \(k1, k2, p1, p2, k3\); export nerfstudio"),
        (cameras_with("pinhole"), "LLFF holds photos of one size, these are 64x48, 65x49, 66x50, ...; export"),
    ],
)
def test_llff_refuses_what_it_cannot_hold(tmp_path: Path, cameras: Cameras, message: str):
    with pytest.raises(UserError, match=message):
        write_llff(tmp_path / "poses_bounds.npy", PHOTOS, cameras, torch.tensor([[1.0, 9.0]]).expand(5, 2))
    assert not list(tmp_path.iterdir())


# -- real captures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"),
    [("ngp_fox", "nerfstudio"), ("ngp_fox", "colmap"), ("colmap_can", "colmap"), ("llff_fern", "llff")],
)
def test_a_real_capture_is_read_back(tmp_path: Path, data_dir, name: str, form: Form):
    description, working = open_cameras(data_dir(name))
    cameras = replace(working, c2w=place(description).similarity.inverse().poses(working.c2w))
    seen = []
    said = write_scene(form, tmp_path, description, cameras, on_progress=lambda *done: seen.append(done))
    assert said == ()
    assert seen[-1] == (len(cameras), len(cameras))
    found, _ = describe(tmp_path)
    order = [found.names.index(n) for n in description.names]
    back = found.cameras[order]
    torch.testing.assert_close(back.c2w, cameras.c2w, atol=1e-6, rtol=1e-6)
    for part in ("focal_px", "centre_px", "size"):
        torch.testing.assert_close(getattr(back, part), getattr(cameras, part), atol=1e-6, rtol=1e-9)
    assert back.lens == cameras.lens
    if form == "colmap" and description.points is not None:
        assert found.points is not None
        assert torch.equal(found.points.position, description.points.position)
        assert len(found.points.track_point) == len(description.points.track_point)
    if form == "llff":
        stated = np.load(data_dir(name) / "poses_bounds.npy", allow_pickle=False)[:, 15:]
        written = np.load(tmp_path / "poses_bounds.npy", allow_pickle=False)[:, 15:]
        np.testing.assert_allclose(written, stated, rtol=0.02)


# -- points ------------------------------------------------------------------------------------------------------------


def test_points_keep_their_digits(tmp_path: Path):
    position = torch.tensor([[431234.123456789, -5.4e6, 0.1], [1.0, 2.0, 3.0]], dtype=torch.float64)
    rgb = torch.tensor([[1, 2, 255], [0, 128, 7]])
    write_points(tmp_path / "points.ply", position, rgb)
    head, _, body = (tmp_path / "points.ply").read_bytes().partition(b"end_header\n")
    assert head.decode().splitlines()[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 2"]
    rows = np.frombuffer(body, np.dtype([("position", "<f8", 3), ("rgb", "u1", 3)]))
    np.testing.assert_array_equal(rows["position"], position.numpy())
    np.testing.assert_array_equal(rows["rgb"], rgb.numpy())


def test_points_open_elsewhere(tmp_path: Path):
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed (extra mesh)")
    position = torch.rand(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    write_points(tmp_path / "points.ply", position, torch.full((5, 3), 9))
    cloud = trimesh.load(tmp_path / "points.ply")
    np.testing.assert_array_equal(cloud.vertices, position.numpy())
    assert (np.asarray(cloud.colors)[:, :3] == 9).all()


def test_a_place_that_cannot_be_written_to(tmp_path: Path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match=r"cannot be written"):
        write_points(tmp_path / "file" / "points.ply", torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.uint8))

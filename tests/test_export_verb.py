"""`rayprior export`: what a run leaves with opens again, elsewhere and here; every mistake has one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rayprior import cli
from rayprior.errors import UserError
from rayprior.evaluation.export import read_picture
from rayprior.evaluation.mesh_files import MESH_FORMATS
from rayprior.evaluation.trajectories import read_camera_path
from rayprior.maths.poses import rotation_angle_deg
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.open import describe, load_scene
from rayprior.verbs.export import WHAT, box_of

Cli = Callable[..., tuple[int, str, str]]
FAINT = "0.0025"  # a level that some of a field of 60 steps is above


@pytest.fixture
def rayprior(rayprior: Cli) -> Cli:
    """`rayprior("export", ...)` -> (exit status, stdout, stderr), in a folder with a run of `my-capture`, `runs/a`."""
    trained = rayprior("train", "grid", "my-capture", "--size", "small", "--steps", "60", "--out", "runs/a")
    assert trained[0] == 0, trained
    return rayprior


def last(result: tuple[int, str, str]) -> str:
    assert result[0] == 0, result[2]
    return result[1].splitlines()[-1]


def assert_same_cameras(a: Cameras, b: Cameras, tolerance: float = 1e-6) -> None:
    assert float((a.origins - b.origins).abs().max()) < tolerance
    assert float(torch.deg2rad(rotation_angle_deg(a.c2w[:, :, :3], b.c2w[:, :, :3])).max()) < tolerance
    torch.testing.assert_close(a.focal_px, b.focal_px, atol=tolerance, rtol=0)
    torch.testing.assert_close(a.centre_px, b.centre_px, atol=tolerance, rtol=0)
    assert torch.equal(a.size, b.size)


# -- the capture -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["nerfstudio", "colmap", "llff"])
def test_a_capture_is_read_back(rayprior: Cli, form: str):
    """Poses, photos to the byte, masks, and for nerfstudio the split, through the house's own reader."""
    folder = last(rayprior("export", "runs/a", form))
    assert folder == f"runs/a/export/{form}"
    (found, how), (own, _) = describe(folder), describe("my-capture")
    assert how[0].startswith(f"read as {form}")
    assert found.names == own.names
    assert_same_cameras(found.cameras, own.cameras)
    for photo, original in zip(found.photos, own.photos, strict=True):
        assert isinstance(photo, Path)
        assert isinstance(original, Path)
        assert photo.read_bytes() == original.read_bytes()
    again, scene = load_scene(folder), load_scene("my-capture")
    assert again.split == scene.split if form != "nerfstudio" else again.split.train == scene.split.train
    assert again.masks is not None
    assert scene.masks is not None
    assert torch.equal(again.masks.values, scene.masks.values)


def test_an_embedded_scene_has_points(rayprior: Cli):
    """Without files of its own; its points go along. Both forms, and pycolmap."""
    rayprior("train", "grid", "synthetic:still-life", "--size", "small", "--steps", "2", "--out", "runs/b")
    own, _ = describe("synthetic:still-life")
    assert own.points is not None
    folder = last(rayprior("export", "runs/b", "colmap"))
    found, _ = describe(folder)
    order = [own.names.index(name) for name in found.names]
    assert_same_cameras(found.cameras, own.cameras[order])
    assert found.points is not None
    torch.testing.assert_close(found.points.position, own.points.position.double(), atol=1e-6, rtol=0)
    assert len(found.points.track_point) == len(own.points.track_point)
    splats = last(rayprior("export", "runs/b", "nerfstudio"))
    content = json.loads(Path(splats, "transforms.json").read_text())
    assert content["ply_file_path"] == "sparse.ply"
    assert f"element vertex {len(own.points)}".encode() in Path(splats, "sparse.ply").read_bytes()
    again, _ = describe(splats)
    assert_same_cameras(again.cameras, own.cameras)
    assert set(again.lists) == {"train", "val", "test"}
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (extra sfm)")
    model = pycolmap.Reconstruction(Path(folder) / "sparse" / "0")
    assert (len(model.images), len(model.points3D)) == (len(own.names), len(own.points))
    for key, image in model.images.items():
        index = own.names.index(Path(image.name).with_suffix("").as_posix())
        centre = image.projection_center()
        np.testing.assert_allclose(centre, own.cameras.origins[index].numpy(), atol=1e-6, err_msg=str(key))
        k = image.camera.calibration_matrix()
        np.testing.assert_allclose([k[0, 0], k[1, 1]], own.cameras.focal_px[index].numpy(), atol=1e-6)


def test_poses_are_a_camera_path_with_names(rayprior: Cli):
    file = Path(last(rayprior("export", "runs/a", "poses")))
    scene = load_scene("my-capture")
    entries = json.loads(file.read_text())["camera_path"]
    assert [entry["name"] for entry in entries] == list(scene.names)
    assert entries[0]["fl_x"] == scene.cameras.focal_px[0, 0]
    assert_same_cameras(read_camera_path(file, scene), scene.cameras)


# -- the field ---------------------------------------------------------------------------------------------------------


def test_a_mesh_with_its_quality(rayprior: Cli):
    """The format is typed, or the suffix of --out."""
    pytest.importorskip("skimage", reason="scikit-image is not installed (extra mesh)")
    quick = ("export", "runs/a", "mesh", "--resolution", "12", "--level", FAINT)
    result = rayprior(*quick)
    assert last(result) == "runs/a/export/mesh.glb"
    assert result[1].startswith("mesh: ")
    assert "faces" in result[1].splitlines()[0]
    for format in MESH_FORMATS:
        assert last(rayprior(*quick, "--format", format)) == f"runs/a/export/mesh.{format}"
        assert Path(f"runs/a/export/mesh.{format}").stat().st_size > 1000
    assert last(rayprior(*quick, "--box=-1,-1,-1,1,1,1", "--out", "it.obj")) == "it.obj"
    assert Path("it.obj").read_text().startswith("v ")
    assert last(rayprior(*quick, "--format", "ply", "--out", "it")) == "it.ply"
    status, _, err = rayprior("export", "runs/a", "mesh", "--resolution", "12")
    assert (status, "no surface: the field is empty here" in err) == (2, True)


def test_points_depth_and_video(rayprior: Cli):
    result = rayprior("export", "runs/a", "points", "--count", "300")
    if result[0] == 0:  # a field of 60 steps may be too thin to end a ray
        assert last(result) == "runs/a/export/points.ply"
    else:
        assert "the field is empty: of 300 training pixels" in result[2]
    folder = Path(last(rayprior("export", "runs/a", "depth", "--frames", "2")))
    assert sorted(file.name for file in folder.iterdir()) == ["0000.png", "0001.png", "depth", "poses.json"]
    with np.load(folder / "depth" / "0001.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"distance", "z", "opacity"}
    assert read_picture(folder / "0000.png").shape == (24, 24, 3)
    film = last(rayprior("export", "runs/a", "video", "--frames", "2", "--format", "webp"))
    assert film == "runs/a/export/video.webp"
    assert Path(film).read_bytes()[:4] == b"RIFF"


def test_depth_of_own_views_has_their_names(rayprior: Cli):
    folder = Path(last(rayprior("export", "runs/a", "depth")))
    scene = load_scene("my-capture")
    names = [entry["name"] for entry in json.loads((folder / "poses.json").read_text())["camera_path"]]
    assert names == [scene.names[i] for i in scene.split.train]
    assert len(list((folder / "depth").glob("*.npz"))) == len(names)


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_an_earlier_export_is_replaced_and_nothing_else(rayprior: Cli):
    assert rayprior("export", "runs/a", "colmap")[0] == 0
    Path("runs/a/export/colmap/images/old.png").write_bytes(b"old")
    assert rayprior("export", "runs/a", "colmap")[0] == 0
    assert not Path("runs/a/export/colmap/images/old.png").exists()
    Path("mine").mkdir()
    assert rayprior("export", "runs/a", "colmap", "--out", "mine")[0] == 0
    before = Path("mine/sparse/0/images.bin").read_bytes()
    status, _, err = rayprior("export", "runs/a", "nerfstudio", "--out", "mine")
    assert (status, err) == (
        2,
        "rayprior: --out mine: there is a folder that is not empty already, which is not touched; remove it or choose"
        " another\n",
    )
    assert Path("mine/sparse/0/images.bin").read_bytes() == before
    Path("mine.json").write_text("mine")
    status, _, err = rayprior("export", "runs/a", "poses", "--out", "mine.json")
    assert status == 2
    assert "--out mine.json: there is a file already" in err
    assert Path("mine.json").read_text() == "mine"


def test_a_place_that_cannot_be_written_to(rayprior: Cli):
    Path("file").write_text("here")
    for what in ("poses", "colmap"):
        status, _, err = rayprior("export", "runs/a", what, "--out", "file/within")
        assert status == 2
        assert "file/within" in err
        assert "cannot be written" in err


def test_mistakes_are_told(rayprior: Cli):
    for words, message in [
        (["mehs"], "nothing named 'mehs' to export; did you mean 'mesh'?"),
        (["splat"], "nothing named 'splat' to export; choices: colmap, depth, llff, mesh, nerfstudio, points, poses"),
        (["mesh", "--format", "gbl"], "--format gbl: mesh has no such format; did you mean 'glb'?"),
        (["mesh", "--out", "it.stl"], "--out it.stl: mesh is written as .glb or .ply or .obj; rename it"),
        (["mesh", "--out", "it.ply", "--format", "obj"], "they name two formats; leave one of them out"),
        (["points", "--level", "0.3"], "export points with --level: that says nothing about points; its options are"),
        (["colmap", "--count", "3"], "export colmap with --count: that says nothing about colmap; it has no options"),
        (["mesh", "--box", "1,2,3"], "--box 1,2,3: expected two corners, x,y,z,x,y,z"),
        (["mesh", "--box", "0,0,0,1,1,0"], "--box 0,0,0,1,1,0: has no volume"),
        (["mesh", "--level", "2"], "--level 2: expected an opacity above 0 and below 1"),
        (["video", "--path", "obrit"], "no camera path named 'obrit'; did you mean 'orbit'?"),
    ]:
        status, out, err = rayprior("export", "runs/a", *words)
        assert (status, out) == (2, "")
        assert message in err
    assert not Path("runs/a/export").exists()


def test_no_run(rayprior: Cli):
    assert "not a run" in rayprior("export", "my-capture", "mesh")[2]


def test_llff_of_many_lenses(rayprior: Cli):
    """Refused before a photo is copied."""
    content = json.loads(Path("my-capture/transforms.json").read_text())
    Path("my-capture/transforms.json").write_text(json.dumps({**content, "camera_model": "OPENCV_FISHEYE", "k1": 0.1}))
    status, _, err = rayprior("export", "runs/a", "llff")
    assert status == 2
    assert "LLFF knows pinhole cameras alone, these have a fisheye lens; export nerfstudio or colmap" in err
    assert not Path("runs/a/export/llff").exists()


def test_a_box_is_two_corners():
    assert box_of("-1,0,2,1,2,2.5").high == (1.0, 2.0, 2.5)
    for text in ("", "1,1,1,0,2,2", "a,0,0,1,1,1", "0,0,0,1,1,inf", "0,0,0,1,1,nan"):
        with pytest.raises(UserError, match="--box"):
            box_of(text)


def test_every_kind_is_in_the_help():
    assert "|".join(WHAT) in Path(cli.__file__).read_text()

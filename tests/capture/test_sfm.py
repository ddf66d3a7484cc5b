"""Photos in, posed scene out: accuracy on a painted corner, what resumes, what is refused, what is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from corner import corner_cameras, paint, photograph, write_corner
from PIL import ExifTags, Image

from rayprior import cli
from rayprior.capture.capture import CaptureOptions, capture
from rayprior.capture.features import exhaustive_pairs, extract, match, read_matches
from rayprior.capture.folds import contradicted, keep_one_side, keep_pairs, neighbours
from rayprior.capture.posed import cameras_for, lenses_of
from rayprior.capture.scene_folder import Captured
from rayprior.capture.sfm import Model, ladder, why_not_registered
from rayprior.errors import UserError
from rayprior.maths.poses import rotation_angle_deg, umeyama
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.formats.colmap import describe_colmap
from rayprior.scenes.formats.nerfstudio import describe_nerfstudio
from rayprior.scenes.formats.photos import read_photo
from rayprior.scenes.open import load_scene
from rayprior.scenes.writing import write_transforms

colmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (pip install 'rayprior[sfm]')")
STEPS = ("photos", "features-usual", "matches-exhaustive-usual", "map-exhaustive-usual-incremental", "model")


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cameras, Captured]:
    """(folder that holds photos/ and scene/, the true cameras, what was captured). One photo is stored lying."""
    root = tmp_path_factory.mktemp("corner")
    truth = write_corner(root / "photos", 5, names=[f"wall {i}.png" for i in range(5)])
    turned = Image.open(root / "photos" / "wall 3.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees clockwise to be shown
    turned.save(root / "photos" / "wall 3.png", exif=exif)
    return root, truth, capture(root / "photos", root / "scene")


def aligned_error(found: torch.Tensor, true: torch.Tensor) -> tuple[float, float]:
    """Medians of the distance of centres, as a share of the diagonal of their box, and of the angle, in degrees."""
    scale, rotation, translation = umeyama(found[:, :, 3], true[:, :, 3])
    centres = scale * found[:, :, 3] @ rotation.T + translation
    diagonal = (true[:, :, 3].amax(dim=0) - true[:, :, 3].amin(dim=0)).norm()
    angle = rotation_angle_deg(rotation @ found[:, :, :3], true[:, :, :3])
    return float((centres - true[:, :, 3]).norm(dim=1).median() / diagonal), float(angle.median())


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_poses_are_those_that_took_the_photos(corner: tuple[Path, Cameras, Captured]):
    root, truth, captured = corner
    assert len(captured.registered) == 5
    assert captured.error_px < 0.3
    assert captured.points > 300
    position, angle = aligned_error(describe_colmap(root / "scene").cameras.c2w, truth.c2w)
    assert position < 0.003
    assert angle < 0.3


def test_the_scene_opens_and_keeps_the_names(corner: tuple[Path, Cameras, Captured]):
    root, _, _ = corner
    scene = load_scene(root / "scene")
    assert scene.format == "colmap"
    assert scene.names == tuple(f"wall {i}" for i in range(5))
    assert scene.points is not None
    assert len(scene.keypoints) > 200
    description = describe_nerfstudio(root / "scene")
    colmap_own = describe_colmap(root / "scene")
    assert [Path(str(p)).name for p in description.photos] == [f"wall {i}.png" for i in range(5)]
    assert torch.allclose(description.cameras.c2w, colmap_own.cameras.c2w, atol=1e-9)
    assert torch.allclose(description.cameras.focal_px, colmap_own.cameras.focal_px)


def test_a_photo_that_lies_is_turned_for_all_that_read_it(corner: tuple[Path, Cameras, Captured]):
    root, truth, captured = corner
    assert [photo["turned_upright"] for photo in captured.photos] == [False, False, False, True, False]
    assert (read_photo(root / "scene" / "images" / "wall 3.png") == photograph(truth, 3)).all()
    assert colmap.Bitmap.read(root / "scene" / "images" / "wall 3.png", as_rgb=True).width == 320


def test_the_command_line(corner: tuple[Path, Cameras, Captured], capsys: pytest.CaptureFixture[str]):
    root, _, _ = corner
    cli.main(["capture", str(root / "photos"), "--out", str(root / "scene")])
    said = capsys.readouterr().out
    assert "5 of 5 photos have a place" in said
    assert said.splitlines()[-1] == str(root / "scene")
    with pytest.raises(SystemExit) as stop:
        cli.main(["capture", str(root / "nowhere"), "--out", str(root / "other")])
    assert stop.value.code == cli.MISTAKE
    assert "expected a folder of photos, or a video" in capsys.readouterr().err


def test_a_film(tmp_path: Path):
    av = pytest.importorskip("av", reason="PyAV is not installed (pip install 'rayprior[video]')")
    cameras = corner_cameras(10)
    with av.open(str(tmp_path / "walk.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = 320, 240, "yuv420p", {"crf": "10"}
        for i in range(10):
            for packet in stream.encode(av.VideoFrame.from_ndarray(photograph(cameras, i), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    captured = capture(tmp_path / "walk.mp4", tmp_path / "scene", CaptureOptions(frames=5))
    assert len(captured.registered) == 5
    assert captured.attempts[0].startswith("sequential")
    rows = [int(name[6:12]) for name in captured.registered]
    position, _ = aligned_error(describe_colmap(tmp_path / "scene").cameras.c2w, cameras.c2w[rows])
    assert position < 0.01


def test_capture_json_knows_every_photo(corner: tuple[Path, Cameras, Captured]):
    root, _, captured = corner
    report = json.loads((root / "scene" / "capture.json").read_text())
    assert report["registered"] == report["photos_given"] == 5
    assert report["points"] == captured.points
    for photo in report["photos"]:
        assert photo["registered"]
        assert photo["why_not"] is None
        assert photo["matches"] > 100
        assert photo["partners"] == 4
        assert photo["points"] > 100
        assert 0 < photo["reprojection_error_px"] < 1
        assert 0.5 < photo["sharpness"] < 2
        assert 0.2 < photo["brightness"] < 0.8
        assert 0 < photo["bounds"]["near"] < photo["bounds"]["far"]
    assert report["cameras"][0]["photos"] == 5


def test_points_come_with_sigma_by_photo(corner: tuple[Path, Cameras, Captured]):
    root, _, _ = corner
    with np.load(root / "scene" / "points.npz", allow_pickle=False) as points:
        photo, distance, std = points["photo"], points["distance"], points["distance_std"]
        assert set(points["names"]) == {f"wall {i}.png" for i in range(5)}
        assert set(photo) == set(range(5))
    assert len(distance) == len(std) > 500
    assert (std > 0).all()
    assert np.median(std / distance) < 0.02


def test_a_second_call_does_nothing_again(corner: tuple[Path, Cameras, Captured]):
    root, _, first = corner
    before = {p: p.stat().st_mtime_ns for p in (root / "scene" / "steps").glob("*/step.json")}
    assert {p.parent.name for p in before} == set(STEPS)
    again = capture(root / "photos", root / "scene")
    assert before == {p: p.stat().st_mtime_ns for p in (root / "scene" / "steps").glob("*/step.json")}
    assert again.registered == first.registered
    assert again.points == first.points


def test_undistorted_photos_on_request(corner: tuple[Path, Cameras, Captured], tmp_path: Path):
    root, _, _ = corner
    shutil.copytree(root / "scene", tmp_path / "scene")
    capture(root / "photos", tmp_path / "scene", CaptureOptions(undistort=True))
    description = describe_colmap(tmp_path / "scene" / "undistorted")
    assert len(description.names) == 5
    assert description.cameras.distortion is None


def test_a_photo_of_something_else_is_left_out_and_said(tmp_path: Path):
    write_corner(tmp_path / "photos", 4)
    Image.fromarray(np.uint8(255 * paint(99)[:240, :320])).save(tmp_path / "photos" / "zz.png")
    captured = capture(tmp_path / "photos", tmp_path / "scene", CaptureOptions(attempts=1))
    assert "zz.png" not in captured.registered
    assert len(captured.registered) == 4
    assert "matches no other photo" in captured.photos[4]["why_not"]
    assert load_scene(tmp_path / "scene").names == ("00", "01", "02", "03")


def test_two_models_the_largest_is_kept_and_the_other_named(tmp_path: Path):
    write_corner(tmp_path / "photos", 5)
    write_corner(tmp_path / "photos", 4, seed=1, names=["w.png", "x.png", "y.png", "z.png"])
    captured = capture(tmp_path / "photos", tmp_path / "scene", CaptureOptions(attempts=1))
    assert captured.registered == ("00.png", "01.png", "02.png", "03.png", "04.png")
    report = json.loads((tmp_path / "scene" / "capture.json").read_text())
    assert report["models_left_out"][0]["photos"] == ["w.png", "x.png", "y.png", "z.png"]
    assert "model 2 of 2" in captured.notes[-1]
    assert "w.png, x.png, y.png, z.png" in captured.notes[-1]
    assert all("model 2" in photo["why_not"] for photo in report["photos"] if not photo["registered"])


# -- known poses -------------------------------------------------------------------------------------------------------


def test_points_of_known_poses_lie_on_the_walls(tmp_path: Path):
    truth = write_corner(tmp_path / "photos", 4)
    (tmp_path / "robot").mkdir()
    photos = [tmp_path / "robot" / f"{i:02d}.png" for i in range(4)]
    for photo in photos:
        shutil.copy(tmp_path / "photos" / photo.name, photo)
    write_transforms(tmp_path / "robot" / "transforms.json", ["00", "01", "02", "03"], photos, truth)
    captured = capture(tmp_path / "photos", tmp_path / "scene", CaptureOptions(poses=str(tmp_path / "robot")))
    assert captured.points > 300
    description = describe_colmap(tmp_path / "scene")
    assert torch.allclose(description.cameras.c2w, truth.c2w, atol=1e-9), "poses stay as they are"
    assert description.points is not None
    off = description.points.position.abs().amin(dim=1)  # the walls are where a coordinate is 0
    assert float(off.median()) < 0.01


def test_poses_without_these_photos_are_refused(tmp_path: Path):
    truth = write_corner(tmp_path / "photos", 3)
    write_corner(tmp_path / "robot" / "images", 3, names=["a.png", "b.png", "c.png"])
    photos = sorted((tmp_path / "robot" / "images").iterdir())
    write_transforms(tmp_path / "robot" / "transforms.json", ["a", "b", "c"], photos, truth)
    with pytest.raises(UserError, match="cameras for 0 of the 3 photos"):
        capture(tmp_path / "photos", tmp_path / "scene", CaptureOptions(poses=str(tmp_path / "robot")))


def test_lenses_of_known_cameras_are_colmaps():
    cameras = corner_cameras(3)
    assert [lens.model for lens, _ in lenses_of(cameras, ["a", "b", "c"])] == ["PINHOLE"]
    k = torch.zeros(3, 5, dtype=torch.float64)
    k[1, 0], k[2, 4] = 0.1, 0.2
    bent = Cameras(cameras.c2w, cameras.focal_px, cameras.centre_px, cameras.size, "opencv", k)
    lenses = lenses_of(bent, ["a", "b", "c"])
    assert [lens.model for lens, _ in lenses] == ["OPENCV", "OPENCV", "FULL_OPENCV"]
    for lens, _ in lenses:
        made = colmap.Camera(model=lens.model, width=320, height=240, params=list(lens.parameters or ()))
        assert made.verify_params()


# -- folds -------------------------------------------------------------------------------------------------------------


def test_a_camera_on_the_wrong_side_is_contradicted_by_its_neighbours(
    corner: tuple[Path, Cameras, Captured], tmp_path: Path
):
    root, _, _ = corner
    steps = root / "scene" / "steps"
    database = steps / "matches-exhaustive-usual" / "database.db"
    assert contradicted(steps / "model", database) == []
    content = colmap.Reconstruction(steps / "model")
    image = next(image for image in content.images.values() if image.name == "wall 2.png")
    turned = image.cam_from_world() * colmap.Rigid3d(np.array([[-1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0]]))
    content.frame(image.frame_id).set_cam_from_world(image.camera_id, turned)
    content.write_binary(tmp_path)
    assert contradicted(tmp_path, database) == [("wall 1.png", "wall 2.png"), ("wall 2.png", "wall 3.png")]
    copy = tmp_path / "database.db"
    shutil.copy(database, copy)
    assert keep_one_side(tmp_path, copy) == 4, "all pairs with the camera that looks the other way"
    assert len(read_matches(copy)) == 6
    keep_pairs(copy, [("wall 0.png", "wall 1.png")])
    assert list(read_matches(copy)) == [("wall 0.png", "wall 1.png")]


def test_neighbours():
    assert neighbours(["a", "b", "c", "d"], 2) == [("a", "b"), ("a", "c"), ("b", "c"), ("b", "d"), ("c", "d")]


# -- the ladder, and why not -------------------------------------------------------------------------------------------


def test_the_ladder_widens():
    rungs = ladder(50, ordered=False)
    assert [rung.mapper for rung in rungs] == ["incremental", "patient", "patient", "global"]
    assert [rung.wide for rung in rungs] == [False, False, True, True]
    assert len({rung.seed for rung in rungs}) == 4
    assert ladder(50, ordered=True)[0].matching == "sequential"
    assert ladder(1000, ordered=False)[0].matching == "far"


@pytest.mark.slow
def test_the_wide_rungs_work(corner: tuple[Path, Cameras, Captured], tmp_path: Path):
    from rayprior.capture.sfm import map_photos

    root, _, _ = corner
    names = sorted(p.name for p in (root / "photos").iterdir())
    names = names[:4]
    for rung in ladder(4, ordered=False)[2:]:
        out = tmp_path / rung.mapper
        out.mkdir()
        extract(out / "database.db", root / "photos", names, effort=rung.effort)
        match(out / "database.db", exhaustive_pairs(names), effort=rung.effort)
        models = map_photos(out / "database.db", root / "photos", out, rung)
        assert len(models[0].photos) == 4, str(rung)
        assert models[0].error_px < 1.5


def test_why_not():
    features = {"a": 5, "b": 500, "c": 500, "d": 500, "e": 500}
    matches = {("b", "c"): 40, ("d", "x"): 20}
    other = Model(Path(), ("e", "f", "g"), 10, 0.5)

    def why(name: str) -> str:
        return why_not_registered(name, features, matches, ["x", "y"], [other])

    assert why("a").startswith("only 5 features")
    assert "model 2" in why("e")
    assert "none of which has a place" in why("b")
    assert "best x: 20" in why("d")
    assert "matches no other" in why_not_registered("b", features, {}, [], [])
    assert "never looked at" in why("nobody")


# -- bad input ---------------------------------------------------------------------------------------------------------


def refused(tmp_path: Path, photos: Path | None = None, **options) -> str:
    with pytest.raises(UserError) as caught:
        capture(photos or tmp_path / "photos", tmp_path / "scene", CaptureOptions(**options))
    assert not (tmp_path / "scene" / "capture.json").exists()
    return str(caught.value)


def test_photos_of_nothing(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    for i in range(4):
        grey = np.full((120, 160, 3), 90 + i, np.uint8)
        grey[:, :, 0] += np.arange(160, dtype=np.uint8)[None] // (3 + i)
        Image.fromarray(grey).save(tmp_path / "photos" / f"{i}.png")
    assert "show nothing that can be recognised" in refused(tmp_path)


def test_photos_of_different_things(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(np.uint8(255 * paint(200 + i)[:160, :160])).save(tmp_path / "photos" / f"{i}.png")
    message = refused(tmp_path, attempts=1)
    assert "0 of 3 pairs match" in message
    assert "different things" in message


def test_photos_from_one_spot(tmp_path: Path):
    cameras = corner_cameras(4, turn_only=True)
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.fromarray(photograph(cameras, i)).save(tmp_path / "photos" / f"{i}.png")
    message = refused(tmp_path, attempts=1)
    assert "photos from one spot" in message
    assert "walk around" in message


def test_a_place_that_is_taken(tmp_path: Path):
    write_corner(tmp_path / "photos", 3)
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "mine.txt").write_text("precious")
    assert "not empty" in refused(tmp_path)
    (tmp_path / "scene" / "mine.txt").unlink()
    (tmp_path / "scene").rmdir()
    (tmp_path / "scene").write_text("")
    with pytest.raises(UserError, match="there is a file of that name"):
        capture(tmp_path / "photos", tmp_path / "scene")


@pytest.mark.parametrize(
    ("source", "out"), [("photos", "photos"), ("photos", "photos/scene"), ("photos/images", "photos"), ("photos", ".")]
)
def test_photos_and_scene_do_not_lie_in_each_other(tmp_path: Path, source: str, out: str):
    """Not even where a capture was made before, and not by way of a link."""
    write_corner(tmp_path / "photos" / "images", 3)
    (tmp_path / "link").symlink_to(tmp_path / out, target_is_directory=True)
    (tmp_path / "photos" / "capture.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path / out, tmp_path / "photos" / ".." / out, tmp_path / "link"):
        with pytest.raises(UserError, match=r"--out .*: the scene would lie among its photos, or they in it"):
            capture(tmp_path / source, path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_called_steps_makes_no_capture(tmp_path: Path):
    write_corner(tmp_path / "photos", 3)
    (tmp_path / "scene" / "steps").mkdir(parents=True)
    (tmp_path / "scene" / "steps" / "mine.txt").write_text("precious")
    assert "not from `rayprior capture`" in refused(tmp_path)


def test_a_refusal_can_be_followed_by_another(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    for _ in range(2):
        assert "no photos here" in refused(tmp_path)
    write_corner(tmp_path / "photos", 1)
    for _ in range(2):
        assert "1 photos that can be used" in refused(tmp_path)


def test_steps_may_be_removed_and_out_may_climb(corner: tuple[Path, Cameras, Captured], tmp_path: Path):
    root, _, first = corner
    shutil.copytree(root / "scene", tmp_path / "scene")
    shutil.rmtree(tmp_path / "scene" / "steps")
    (tmp_path / "sub").mkdir()
    again = capture(root / "photos", tmp_path / "sub" / ".." / "scene")
    assert again.registered == first.registered
    assert load_scene(tmp_path / "scene").names == load_scene(root / "scene").names


def test_options_that_cannot_be(tmp_path: Path):
    assert "did you mean 'OPENCV'" in refused(tmp_path, lens="OPENVC")
    assert "--frames 1" in refused(tmp_path, frames=1)
    assert "--attempts 0" in refused(tmp_path, attempts=0)
    assert "no such folder" in refused(tmp_path, tmp_path / "nowhere")


def test_one_photo_by_name(tmp_path: Path):
    write_corner(tmp_path / "photos", 1)
    assert "one photo" in refused(tmp_path, tmp_path / "photos" / "00.png")


def test_a_turntable_needs_masks(tmp_path: Path):
    write_corner(tmp_path / "photos", 3)
    assert "--masks DIR" in refused(tmp_path, turntable=True)


def test_a_turntable_needs_the_masks_of_all_photos(tmp_path: Path):
    write_corner(tmp_path / "photos", 4)
    (tmp_path / "keep").mkdir()
    for i in (1, 3):
        Image.new("L", (320, 240), 255).save(tmp_path / "keep" / f"{i:02d}.png")
    message = refused(tmp_path, turntable=True, masks=tmp_path / "keep")
    assert "2 of 4 photos have no mask" in message
    assert "(00.png, 02.png)" in message


def test_masks_of_an_earlier_call_do_not_stay_and_those_of_others_do(
    corner: tuple[Path, Cameras, Captured], tmp_path: Path
):
    root, _, _ = corner
    scene, keep = tmp_path / "scene", tmp_path / "keep"
    shutil.copytree(root / "scene", scene)
    keep.mkdir()
    for i in range(5):
        Image.new("L", (320, 240), 255).save(keep / f"wall {i}.png")
    capture(root / "photos", scene, CaptureOptions(masks=keep))
    assert len(list((scene / "masks").iterdir())) == 5
    capture(root / "photos", scene)
    assert not (scene / "masks").exists()
    assert load_scene(scene).masks is None
    capture(root / "photos", scene, CaptureOptions(masks=keep))
    shutil.copy(keep / "wall 0.png", scene / "masks" / "wall 0.png")
    capture(root / "photos", scene)
    assert [p.name for p in (scene / "masks").iterdir()] == ["wall 0.png"]


def test_masks_that_change_places_are_noticed(tmp_path: Path):
    """Two files of one name, size and time in two folders."""
    from rayprior.capture.capture import _photos

    written = []
    for grey, side in ((255, "left"), (0, "right")):
        write_corner(tmp_path / "photos" / side, 2, seed=grey)
        (tmp_path / "keep" / side).mkdir(parents=True)
        Image.new("L", (320, 240), grey).save(tmp_path / "keep" / side / "00.png")
        os.utime(tmp_path / "keep" / side / "00.png", (1e9, 1e9))
    for _ in range(2):
        options = CaptureOptions(masks=tmp_path / "keep")
        source = tmp_path / "photos"
        done = _photos(source, tmp_path / "steps", options, None, source, lambda what, done, count: None)
        written.append((done.fresh, (done.folder / "masks/left/00.png.png").read_bytes()))
        (tmp_path / "keep/left").rename(tmp_path / "keep/away")
        (tmp_path / "keep/right").rename(tmp_path / "keep/left")
        (tmp_path / "keep/away").rename(tmp_path / "keep/right")
    assert [fresh for fresh, _ in written] == [True, True]
    assert written[0][1] != written[1][1]


def test_masks_enter_matching_with_turntable_alone(corner: tuple[Path, Cameras, Captured], tmp_path: Path):
    root, _, whole = corner
    half = np.zeros((240, 320), np.uint8)
    half[:, :200] = 255
    (tmp_path / "keep").mkdir()
    for i in range(5):
        Image.fromarray(half).save(tmp_path / "keep" / f"wall {i}.png")
    masked = CaptureOptions(masks=tmp_path / "keep", turntable=True)
    captured = capture(root / "photos", tmp_path / "scene", masked)
    assert load_scene(tmp_path / "scene").masks is not None
    assert all(photo["mask"] for photo in captured.photos)
    for photo, before in zip(captured.photos, whole.photos):
        assert photo["features"] < 0.85 * before["features"]


def test_masks_do_not_change_the_matches_of_whole_photographs(
    corner: tuple[Path, Cameras, Captured], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from rayprior.capture import capture as module

    root, _, _ = corner
    asked: list[Path | None] = []

    def stop(*arguments, masks: Path | None, **options) -> None:
        asked.append(masks)
        raise UserError("enough")

    monkeypatch.setattr(module, "extract", stop)
    (tmp_path / "keep").mkdir()
    for i in range(5):
        Image.new("L", (320, 240), 255 * (i % 2)).save(tmp_path / "keep" / f"wall {i}.png")
    with pytest.raises(UserError, match="enough"):
        capture(root / "photos", tmp_path / "scene", CaptureOptions(masks=tmp_path / "keep"))
    assert asked == [None]


# -- a kill ------------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import rayprior.capture.scene_folder as scene_folder
import rayprior.capture.steps as steps
from rayprior.capture.capture import capture
photos, out, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
write = steps.write_json
def kill_in(path, content):
    if path.parent.name in (f".{name}.working", name):
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
steps.write_json = scene_folder.write_json = kill_in
capture(photos, out)
"""


def kill_and_go_on(corner: tuple[Path, Cameras, Captured], tmp_path: Path, names: list[str]) -> None:
    """One process a step, each killed when its step is all but done; then the rest is made, and nothing twice."""
    root, _, first = corner
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    made: dict[Path, int] = {}
    for name in names:
        command = [sys.executable, "-c", KILLED, str(root / "photos"), str(tmp_path / "scene"), name]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert not (tmp_path / "scene" / "steps" / name).exists()
        assert not (tmp_path / "scene" / "capture.json").exists()
        made |= {p: p.stat().st_mtime_ns for p in (tmp_path / "scene" / "steps").glob("[!.]*/step.json")}
    captured = capture(root / "photos", tmp_path / "scene")
    assert captured.registered == first.registered
    assert made == {p: p.stat().st_mtime_ns for p in made}
    assert [p.name for p in (tmp_path / "scene" / "steps").glob(".*")] == []


def test_a_kill_while_mapping(corner: tuple[Path, Cameras, Captured], tmp_path: Path):
    kill_and_go_on(corner, tmp_path, [STEPS[3]])


@pytest.mark.slow
def test_a_kill_in_each_step(corner: tuple[Path, Cameras, Captured], tmp_path: Path):
    kill_and_go_on(corner, tmp_path, [*STEPS, "scene"])


# -- real photos -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_fountain_by_laser(data_dir, tmp_path: Path):
    from rayprior.scenes.open import describe

    truth, _ = describe(data_dir("strecha_fountain"))
    captured = capture(data_dir("strecha_fountain"), tmp_path / "scene")
    assert len(captured.registered) == 11
    position, angle = aligned_error(describe_colmap(tmp_path / "scene").cameras.c2w, truth.cameras.c2w)
    assert position < 0.001
    assert angle < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("count", "points"), [(6, 150), (10, 500)])
def test_few_photos_with_known_poses(data_dir, tmp_path: Path, count: int, points: int):
    fox = data_dir("ngp_fox")
    photos = sorted((fox / "images").iterdir())
    (tmp_path / "photos").mkdir()
    for i in np.linspace(0, len(photos) - 1, count).round().astype(int):
        shutil.copy(photos[i], tmp_path / "photos")
    captured = capture(tmp_path / "photos", tmp_path / "scene", CaptureOptions(poses=str(fox)))
    assert captured.points >= points
    assert len(captured.registered) == count


def test_cameras_of_another_size_are_scaled():
    from rayprior.capture.intake import Photo

    cameras = corner_cameras(2)

    def photo(name: str, size: tuple[int, int]) -> Photo:
        return Photo(name, name, size, True, "", None, 1.0, 0.5, 0.0, False, name, name)

    from rayprior.scenes.description import Description

    posed = Description("x", Path("x"), ("a", "b"), (Path("a.png"), Path("b.png")), cameras)
    names, scaled = cameras_for([photo("b.jpg", (640, 480)), photo("a.png", (640, 480))], posed)
    assert names == ["b.jpg", "a.png"]
    assert torch.allclose(scaled.focal_px, 2 * cameras.focal_px)
    assert torch.equal(scaled.c2w, cameras.c2w[[1, 0]])
    with pytest.raises(UserError, match="cropped or turned"):
        cameras_for([photo("a.png", (480, 640)), photo("b.png", (480, 640))], posed)


def test_cameras_of_one_name_in_two_folders_are_told_apart():
    """Left and right of a rig; by stems alone where a photo was converted, and never one camera for two photos."""
    from rayprior.capture.intake import Photo
    from rayprior.scenes.description import Description

    cameras = corner_cameras(3)

    def photo(name: str, source: str | None = None) -> Photo:
        return Photo(name, source or name, (320, 240), True, "", None, 1.0, 0.5, 0.0, False, name, name)

    files = tuple(Path("x/images") / name for name in ("left/1.png", "right/1.png", "right/2.webp"))
    posed = Description("x", Path("x"), ("left/1", "right/1", "right/2"), files, cameras)
    photos = [photo("right/1.jpg"), photo("left/1.jpg"), photo("right/2.webp.png", "right/2.webp")]
    names, found = cameras_for(photos, posed)
    assert names == [p.name for p in photos]
    assert torch.equal(found.c2w, cameras.c2w[[1, 0, 2]])
    flat = Description("x", Path("x"), ("1", "2", "3"), tuple(Path(f"x/{i}.png") for i in (1, 2, 3)), cameras)
    names, _ = cameras_for([*photos, photo("left/3.jpg")], flat)
    assert names == ["right/2.webp.png", "left/3.jpg"]

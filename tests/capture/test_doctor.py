"""The doctor names what is planted in a capture, by its own name, and nothing else; a capture without fault passes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import radians
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from rayprior import cli
from rayprior.capture.doctor import Finding, checkup, examine
from rayprior.capture.doctor.distances import check_points, triangulate
from rayprior.capture.doctor.epipolar import Matches
from rayprior.capture.doctor.matching import choose_pairs, match_photos
from rayprior.capture.doctor.pictures import Look
from rayprior.capture.doctor.pictures import look_at as look_at_photos
from rayprior.capture.doctor.poses import Evidence
from rayprior.errors import UserError
from rayprior.maths.poses import look_at, opencv_from_opengl, rotation_from_vector
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Points
from rayprior.scenes.open import describe
from rayprior.scenes.synthetic import Cuboid, Lighting, Marble, Material, Object, Sky, Sphere, World, photograph

pytest.importorskip("pycolmap", reason="matches come from pycolmap (extra: sfm)")

SIZE, VIEWS = 160, 14
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
Plant = Callable[[Path], dict | None]  # changes a capture's folder; returns options to open it with


# -- a capture without fault -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded room as transforms.json with photos and exact depth (z, in the unit of the poses)."""
    folder = tmp_path_factory.mktemp("doctor") / "sound"
    write(folder, walk())
    return folder


def room() -> World:
    """Marble everywhere: features on whatever is seen, none like another."""
    dark, light = (0.08, 0.10, 0.20), (0.95, 0.90, 0.80)

    def marble(scale: float) -> Material:
        return Material(Marble(dark, light, scale))

    objects = (
        Object("walls", Cuboid((2.0, 2.0, 1.2)), marble(7.0), (0, 0, 0.9), backdrop=True),
        Object("floor", Cuboid((2.0, 2.0, 0.01)), marble(13.0), (0, 0, -0.29), backdrop=True),
        Object("ball", Sphere(0.22), marble(29.0), (-0.18, -0.14, -0.06)),
        Object("box", Cuboid((0.15, 0.15, 0.15)), marble(23.0), (0.22, 0.16, -0.13), (0, 0, 28)),
    )
    return World(objects, Lighting((), Sky((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), ambient=0.9)), background=None)


def walk() -> Cameras:
    """A walk around the table, 7 degrees a step, up and down on the way."""
    angle = torch.arange(VIEWS) * radians(7.0)
    height = 0.35 + 0.15 * torch.sin(2.3 * angle)
    origins = torch.stack([0.9 * angle.cos(), 0.9 * angle.sin(), height], dim=1).double()
    return Cameras(
        c2w=look_at(origins, torch.tensor([0.0, 0.0, -0.1]).double(), torch.tensor([0.0, 0.0, 1.0]).double()),
        focal_px=torch.full((VIEWS, 2), 0.85 * SIZE, dtype=torch.float64),
        centre_px=torch.full((VIEWS, 2), SIZE / 2, dtype=torch.float64),
        size=torch.full((VIEWS, 2), SIZE),
    )


def write(folder: Path, cameras: Cameras) -> None:
    """Photographs of the room as a nerfstudio capture."""
    (folder / "images").mkdir(parents=True)
    world, frames = room(), []
    poses = opencv_from_opengl(cameras.c2w)
    for i in range(len(cameras)):
        view, name = photograph(world, cameras, i, supersample=2), f"{i:03d}"
        Image.fromarray((view.rgba[..., :3] * 255).round().numpy().astype(np.uint8)).save(
            folder / "images" / f"{name}.png"
        )
        cosine = cameras.axis_cosine(torch.full((SIZE * SIZE,), i), cameras.pixel_grid(i)).view(SIZE, SIZE)
        np.save(folder / f"{name}.npy", (view.distance * cosine).numpy().astype(np.float32))
        pose = [*poses[i].tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": f"images/{name}.png", "depth_file_path": f"{name}.npy", "transform_matrix": pose})
    focal, centre = cameras.focal_px[0].tolist(), cameras.centre_px[0].tolist()
    intrinsics = {"fl_x": focal[0], "fl_y": focal[1], "cx": centre[0], "cy": centre[1], "w": SIZE, "h": SIZE}
    write_json(folder, {**intrinsics, "depth_unit_scale_factor": 1.0, "frames": frames})


def write_json(folder: Path, content: dict) -> None:
    (folder / "transforms.json").write_text(json.dumps(content))


def read_json(folder: Path) -> dict:
    return json.loads((folder / "transforms.json").read_text())


def changed(change: Callable[[dict], object]) -> Plant:
    """What a change of the JSON alone plants."""

    def plant(folder: Path) -> None:
        content = read_json(folder)
        change(content)
        write_json(folder, content)

    return plant


def posed(change: Callable[[np.ndarray, int], np.ndarray]) -> Plant:
    """What a change of every pose plants: (matrix 4x4 as the file has it, its row) -> another."""

    def change_all(content: dict) -> None:
        for row, frame in enumerate(content["frames"]):
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"]), row).tolist()

    return changed(change_all)


def pictured(rows: tuple[int, ...], change: Callable[[Image.Image], Image.Image]) -> Plant:
    """What a change of some photos plants."""

    def plant(folder: Path) -> None:
        for row in rows:
            file = folder / "images" / f"{row:03d}.png"
            change(Image.open(file).convert("RGB")).save(file)

    return plant


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two photos are matched once; whoever asks for them again is told what was found then."""

    def look_up(looks: list[Look], pairs: list[tuple[int, int]], on_progress: object = None):
        prints = [hashlib.sha256(look.grey.tobytes()).hexdigest() + str(look.size) for look in looks]
        new = [(i, j) for i, j in pairs if (prints[i], prints[j]) not in MATCHED]
        if new:
            used = sorted({i for pair in new for i in pair})
            place = {i: at for at, i in enumerate(used)}
            found, _ = match_photos([looks[i] for i in used], [(place[i], place[j]) for i, j in new])
            rows = {(used[a], used[b]): row for row, (a, b) in enumerate(found.pair.tolist())}
            for pair in new:
                row = rows.get(pair)
                MATCHED[prints[pair[0]], prints[pair[1]]] = (
                    None if row is None else (found.pixel[row], found.count[row])
                )
        known = {pair: MATCHED[prints[pair[0]], prints[pair[1]]] for pair in pairs}
        there = {pair: row for pair, row in known.items() if row is not None}
        if not there:
            return Matches(torch.zeros(0, 2).long(), torch.zeros(0, 2, 1, 2).double(), torch.zeros(0)), [0] * len(looks)
        pixel, count = (torch.stack([row[part] for row in there.values()]) for part in (0, 1))
        return Matches(torch.tensor(list(there)), pixel, count), [500] * len(looks)

    monkeypatch.setattr("rayprior.capture.doctor.checkup.match_photos", look_up)


MATCHED: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor] | None] = {}  # by what two photos show


def alarms(folder: Path, options: dict | None = None) -> tuple[Finding, ...]:
    """The findings that are more than notes."""
    report = examine(folder, options).report
    assert json.dumps(report.to_plain(), allow_nan=False)
    return tuple(finding for finding in report.findings if finding.grade != "note")


def test_a_sound_capture_passes(sound: Path):
    checkup = examine(sound)
    assert checkup.report.findings == ()
    assert checkup.report.skipped == ()
    assert (checkup.report.verdict, checkup.report.exit_status) == ("usable", 0)
    assert checkup.scene is not None
    assert len(checkup.scene) == VIEWS


# -- planted faults ----------------------------------------------------------------------------------------------------


def turned(degrees: float, row: int) -> Plant:
    turn = np.eye(4)
    axis = torch.tensor([[0.3, 0.9, 0.2]], dtype=torch.float64)
    turn[:3, :3] = rotation_from_vector(axis / axis.norm() * radians(degrees))[0].numpy()
    return posed(lambda pose, i: pose @ turn if i == row else pose)


def transposed(pose: np.ndarray, _: int) -> np.ndarray:
    pose = pose.copy()
    pose[:3, :3] = pose[:3, :3].T
    return pose


def resized(folder: Path) -> None:
    """Photos half as large; the JSON keeps the focal length and the centre, and says no size."""
    pictured(tuple(range(VIEWS)), lambda photo: photo.resize((SIZE // 2, SIZE // 2), Image.Resampling.BOX))(folder)
    changed(lambda content: (content.pop("w"), content.pop("h")))(folder)


def shuffled(content: dict) -> None:
    poses = [frame["transform_matrix"] for frame in content["frames"]]
    for frame, pose in zip(content["frames"], poses[5:] + poses[:5]):
        frame["transform_matrix"] = pose


def duplicated(folder: Path) -> None:
    content = read_json(folder)
    for row in (2, 7):
        name = f"images/copy-of-{row}.png"
        shutil.copy(folder / content["frames"][row]["file_path"], folder / name)
        content["frames"].append({**content["frames"][row], "file_path": name})
    write_json(folder, content)


def masked(keep_middle: bool) -> Plant:
    def plant(folder: Path) -> None:
        (folder / "masks").mkdir()
        v, u = np.mgrid[:SIZE, :SIZE]
        middle = np.hypot(u - SIZE / 2, v - SIZE / 2) < 0.3 * SIZE
        for row in range(VIEWS):
            mask = np.where(middle == keep_middle, 255, 0).astype(np.uint8)
            Image.fromarray(mask).save(folder / "masks" / f"{row:03d}.png")

    return plant


def distances_for_z(folder: Path) -> None:
    cameras = describe(folder)[0].cameras
    for row in range(VIEWS):
        cosine = cameras.axis_cosine(torch.full((SIZE * SIZE,), row), cameras.pixel_grid(row)).view(SIZE, SIZE)
        file = folder / f"{row:03d}.npy"
        np.save(file, (np.load(file, allow_pickle=False) / cosine.numpy()).astype(np.float32))


def without(rows: range) -> Plant:
    def plant(folder: Path) -> None:
        for row in rows:
            (folder / "images" / f"{row:03d}.png").unlink()

    return plant


def options(**given: float) -> Plant:
    return lambda folder: given


def cut_short(folder: Path) -> None:
    file = folder / "images" / "004.png"
    file.write_bytes(file.read_bytes()[:500])


PLANTED: dict[str, tuple[Plant, str, str, str]] = {  # name -> plant, check, grade, words that it says
    "y and z flipped": (posed(lambda p, _: p @ FLIP), "convention", "unusable", "negate columns y and z"),
    "w2c for c2w": (posed(lambda p, _: np.linalg.inv(p)), "convention", "unusable", "world-to-camera"),
    "w2c of OpenCV": (posed(lambda p, _: np.linalg.inv(p @ FLIP)), "convention", "unusable", "world-to-camera"),
    "rotation transposed": (posed(transposed), "convention", "unusable", "rotations are transposed"),
    "LLFF axes": (
        posed(lambda p, _: np.concatenate([-p[:, 1:2], p[:, 0:1], p[:, 2:]], axis=1)),
        "convention",
        "unusable",
        "LLFF's (down, right, backward) where OpenGL's are expected",
    ),
    "focal x 1.25": (
        changed(lambda c: c.update(fl_x=1.25 * c["fl_x"], fl_y=1.25 * c["fl_y"])),
        "focal",
        "doubtful",
        "x the stated ones fit better",
    ),
    "photos resized, intrinsics not": (resized, "size", "unusable", f"about {SIZE}x{SIZE}, the photos are 80x80"),
    "principal point off": (changed(lambda c: c.update(cx=0.8 * c["cx"])), "size", "doubtful", "principal point"),
    "one pose turned by 5 degrees": (turned(5.0, 6), "poses", "doubtful", "1 of 14 poses"),
    "photos in another order": (changed(shuffled), "poses", "unusable", "no other convention"),
    "photos twice": (duplicated, "duplicates", "doubtful", "copy-of-2 = 002"),
    "photos blurred": (
        pictured((3, 8), lambda photo: photo.filter(ImageFilter.GaussianBlur(4))),
        "blur",
        "doubtful",
        "2 of 14",
    ),
    "exposure jumps": (
        pictured((1, 5, 9), lambda photo: photo.point(lambda value: value * 0.68)),
        "exposure",
        "doubtful",
        "3 of 14 photos",
    ),
    "masks inverted": (masked(keep_middle=False), "masks", "unusable", "inverted"),
    "depth in mm": (
        changed(lambda c: c.update(depth_unit_scale_factor=1000.0)),
        "depth",
        "unusable",
        "thousandths (mm for m)",
    ),
    "depth in m of poses in mm": (
        changed(lambda c: c.update(depth_unit_scale_factor=0.001)),
        "depth",
        "unusable",
        "a thousand times",
    ),
    "distance for z": (distances_for_z, "depth", "doubtful", "hold distance along the ray, but are read as z"),
    "photos missing": (without(range(2, 5)), "files", "doubtful", "3 of 14 listed photos do not exist"),
    "most photos missing": (without(range(2, VIEWS)), "files", "unusable", "12 of 14"),
    "near cuts": (options(near=1.2, far=50.0), "bounds", "unusable", "nearer than near"),
    "far cuts": (options(near=0.05, far=1.3), "bounds", "unusable", "beyond far"),
    "a photo cut short": (cut_short, "files", "unusable", "cut short or broken"),
    "one photo of another size": (
        pictured((4,), lambda photo: photo.resize((100, 160))),
        "size",
        "unusable",
        "100x160",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found_and_nothing_else(name: str, sound: Path, tmp_path: Path):
    plant, check, grade, words = PLANTED[name]
    folder = tmp_path / "capture"
    shutil.copytree(sound, folder)
    found = alarms(folder, plant(folder))
    assert [(finding.check, finding.grade) for finding in found] == [(check, grade)], found
    assert words in found[0].says, found[0].says
    assert found[0].remedy


def test_points_of_another_scene_are_found(sound: Path):
    description, _ = describe(sound)
    g = torch.Generator().manual_seed(0)
    track_point, track_camera = torch.arange(300).repeat(3), torch.randint(VIEWS, (900,), generator=g)
    known = known_of(sound)
    where = known.position[torch.randint(len(known), (300,), generator=g)]

    def pointed(position: torch.Tensor):
        pixel, _, _ = description.cameras.project(position[track_point], track_camera)
        grey = torch.full((300, 3), 128)
        points = Points(position, grey, torch.ones(300), track_point, track_camera, pixel)
        return check_points(replace(description, points=points), known)

    here, _, hold = pointed(where)
    elsewhere, fact, strange = pointed(torch.rand(300, 3, generator=g).double() * 40 - 20)
    assert hold
    assert not [finding for finding in here if finding.grade != "note"]
    assert not strange
    assert [(finding.check, finding.grade) for finding in elsewhere] == [("points", "unusable")], fact


def known_of(folder: Path):
    """What is triangulated of a sound capture."""
    description, _ = describe(folder)
    looks = look_at_photos(description)[0]
    cameras = description.cameras
    pairs = choose_pairs(cameras.origins, cameras.forward, list(looks.values()))
    matches, _ = checkup.match_photos(list(looks.values()), pairs)
    return triangulate(Evidence.of(description.names, cameras, matches))


def test_a_camera_that_only_turned_is_found(tmp_path: Path):
    """Photos from one place, with poses that claim otherwise; and with poses that are honest about it."""
    turn = torch.arange(VIEWS) * radians(9.0)
    c2w = walk().c2w[:1].repeat(VIEWS, 1, 1)
    yaw = rotation_from_vector(torch.stack([0 * turn, 0 * turn, turn], dim=1).double())
    c2w = torch.cat([yaw @ c2w[:, :, :3], c2w[:, :, 3:]], dim=2)
    still = replace(walk(), c2w=c2w)
    write(tmp_path / "capture", still)
    (honest,) = alarms(tmp_path / "capture")
    assert (honest.check, honest.grade) == ("motion", "unusable")
    drift = 0.05 * torch.randn(VIEWS, 3, generator=torch.Generator().manual_seed(1))

    def moved(pose: np.ndarray, row: int) -> np.ndarray:
        pose[:3, 3] += drift[row].numpy()
        return pose

    posed(moved)(tmp_path / "capture")
    (found,) = alarms(tmp_path / "capture")
    assert (found.check, found.grade) == ("motion", "unusable")
    assert "only turned" in found.says


# -- what can't be looked at -------------------------------------------------------------------------------------------


def test_a_path_without_capture_is_a_mistake_in_typing(tmp_path: Path):
    with pytest.raises(UserError, match="no such folder or file"):
        examine(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"format": "nosuch"}, "no format named 'nosuch'"),
        ({"format": "llff"}, "poses_bounds.npy"),
        ({"split": "nosuch"}, "no split named 'nosuch'"),
        ({"depth": Path("nowhere")}, "--depth nowhere: no such folder"),
        ({"downscale": 0}, "--downscale 0: expected a whole number"),
        ({"near": 3.0, "far": 2.0}, "--near 3 --far 2: no range"),
        ({"near": -1.0}, "--near -1: no range"),
    ],
)
def test_mistakes_in_typing_are_no_verdict(sound: Path, options: dict, told: str):
    with pytest.raises(UserError, match=told):
        examine(sound, options)


def test_a_broken_description_is_a_finding(sound: Path, tmp_path: Path):
    (tmp_path / "transforms.json").write_text('{"frames": [')
    (found,) = alarms(tmp_path)
    assert (found.check, found.grade) == ("description", "unusable")
    assert "broken JSON" in found.says
    assert examine(tmp_path, {"format": "nerfstudio"}).report.verdict == "unusable"


def test_a_pose_that_is_no_pose_is_a_finding(sound: Path, tmp_path: Path):
    shutil.copytree(sound, tmp_path / "capture")
    posed(lambda pose, row: 2 * pose if row == 3 else pose)(tmp_path / "capture")
    content = read_json(tmp_path / "capture")
    content["frames"][3]["transform_matrix"][3] = [0, 0, 0, 1]
    write_json(tmp_path / "capture", content)
    found = alarms(tmp_path / "capture")
    assert [finding.check for finding in found][-1] == "opening"
    assert "not rigid" in found[-1].says


def test_one_photo_is_no_capture(sound: Path, tmp_path: Path):
    shutil.copytree(sound, tmp_path / "capture")
    changed(lambda content: content.update(frames=content["frames"][:1]))(tmp_path / "capture")
    others, found = alarms(tmp_path / "capture")
    assert others.check == "registered"
    assert found.grade == "unusable"
    assert "at least 2" in found.says


def test_identical_photos_are_told_as_duplicates(sound: Path, tmp_path: Path):
    shutil.copytree(sound, tmp_path / "capture")
    images = tmp_path / "capture" / "images"
    for row in range(1, VIEWS):
        shutil.copy(images / "000.png", images / f"{row:03d}.png")
    assert "duplicates" in {finding.check for finding in alarms(tmp_path / "capture")}


def test_photos_of_nothing_are_not_judged_by_matches(sound: Path, tmp_path: Path):
    shutil.copytree(sound, tmp_path / "capture")
    for row in range(VIEWS):
        Image.new("RGB", (SIZE, SIZE), (90 + 5 * row, 80, 70)).save(tmp_path / "capture" / "images" / f"{row:03d}.png")
    report = examine(tmp_path / "capture").report
    assert any("too few to judge poses by" in reason for reason in report.skipped)
    assert not {"poses", "convention", "focal"} & {finding.check for finding in report.findings}


def test_without_pycolmap_the_other_checks_are_made_and_it_is_said(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def missing(*_: object, **__: object):
        raise UserError("structure from motion needs pycolmap, which is not installed; pip install 'rayprior[sfm]'")

    monkeypatch.setattr("rayprior.capture.doctor.checkup.match_photos", missing)
    report = examine(sound).report
    assert report.verdict == "usable"
    assert any("pip install 'rayprior[sfm]'" in reason for reason in report.skipped)
    shutil.copytree(sound, tmp_path / "capture")
    changed(lambda content: content.update(depth_unit_scale_factor=1000.0))(tmp_path / "capture")
    (found,) = alarms(tmp_path / "capture")
    assert found.check == "depth"
    assert "mm for m" in found.says


# -- real captures -----------------------------------------------------------------------------------------------------


def test_a_real_capture_passes_and_a_small_focal_error_in_it_does_not(data_dir, tmp_path: Path):
    fox = tmp_path / "fox"
    shutil.copytree(data_dir("ngp_fox"), fox)
    changed(lambda content: content.update(frames=content["frames"][:14]))(fox)
    for row in (tmp_path / "fox" / "images").iterdir():
        if f"images/{row.name}" not in {frame["file_path"].removeprefix("./") for frame in read_json(fox)["frames"]}:
            row.unlink()
    assert alarms(fox) == ()
    changed(lambda content: content.update(fl_x=1.1 * content["fl_x"], fl_y=1.1 * content["fl_y"]))(fox)
    (found,) = alarms(fox)
    assert found.check == "focal"
    assert float(found.evidence["factor"]) == pytest.approx(1 / 1.1, abs=0.04)


# -- the verb ----------------------------------------------------------------------------------------------------------


def test_the_verb_exits_with_the_verdict_and_writes_it_for_programs(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("rayprior.verbs.doctor.cores", lambda: 1)
    shutil.copytree(sound, tmp_path / "capture")
    said = []
    for plant in (None, "photos missing", "depth in mm"):
        if plant is not None:
            PLANTED[plant][0](tmp_path / "capture")
        file = tmp_path / "out" / "verdict.json"
        said.append((status_of(["doctor", str(tmp_path / "capture"), "--json", str(file)]), capsys.readouterr().out))
        verdict = json.loads(file.read_text())
        assert verdict["exit_status"] == said[-1][0]
        assert verdict["training"] is None or verdict["training"]["memory_bytes"] > 1e6
    assert [status for status, _ in said] == [0, 3, 4]
    assert "capture: usable" in said[0][1]
    assert "about" in next(line for line in said[0][1].splitlines() if "recipe grid: time" in line)
    assert "--skip-missing" in said[1][1]
    assert status_of(["doctor", str(tmp_path / "nowhere")]) == 2


def status_of(words: list[str]) -> int:
    try:
        cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0

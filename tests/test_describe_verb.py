"""`rayprior describe`: what is printed and written by each of its commands, and each mistake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rayprior.descriptors.pairs import Pairs
from rayprior.descriptors.pairs_file import write_pairs
from rayprior.descriptors.photographs import Source
from rayprior.evaluation import onnx_export
from rayprior.files import write_json
from rayprior.maths.space import Similarity
from rayprior.networks.descriptor import Small
from rayprior.scenes.rays import Rays
from rayprior.scenes.scene import Scene
from rayprior.training.budget import Budget
from rayprior.training.describer import Describer, train_descriptors
from rayprior.training.describing import Describing
from rayprior.verbs.describe import Target
from rayprior.verbs.keypoints import _distances_around
from tiny import tiny_scene

Cli = Callable[..., tuple[int, str, str]]
SCENE = "synthetic:shapes"  # 24 x 24
QUICK = ("--steps", "2", "--set", "net.width=8", "--set", "matches=16", "--threads", "1", "--device", "cpu")
TRAIN = ("describe", "train", SCENE, "--labels", "exact", "--count", "64", *QUICK, "--out", "d")
VIEWS = ",".join(f"train-{view:03d}" for view in range(8))
EVAL = ("describe", "eval", "d", "--count", "20", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A describer after two steps on pixels that match themselves in another view."""
    scene = replace(tiny_scene("shapes"), path=Path(SCENE))  # as load_scene names it
    path = tmp_path_factory.mktemp("trained") / "d"
    how = Describing(net=Small(width=8), matches=16)
    train_descriptors(
        [Source(scene, pairs_of(scene, *scene.split.train[:2]))], how, path, budget=Budget(2), threads=1, device="cpu"
    )
    asked = {"target": SCENE, "labels": "exact", "pairs": None, "cycle": None, "count": 64, "seed": 0}
    write_json(path / "asked.json", [asked])
    return path


@pytest.fixture
def house(rayprior: Cli, trained: Path) -> Cli:
    """A house with a describer `d` in it, and a folder `photos` with three held-out pictures."""
    shutil.copytree(trained, "d")
    scene = tiny_scene("shapes")
    Path("photos").mkdir()
    for view in scene.split.train[:3]:
        colours = (scene.picture(view).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(colours).save(f"photos/{scene.names[view]}.png")
    return rayprior


def pairs_of(scene: Scene, view_s: int, view_t: int) -> Pairs:
    pixel = torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 24
    views = [torch.full((30,), view) for view in (view_s, view_t)]
    return Pairs(*views, pixel, pixel, torch.ones(30, dtype=torch.float64))


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def refused(cli: Cli, *words: str) -> str:
    status, _, err = cli(*words)
    assert status == 2
    assert err.startswith("rayprior: ")
    return err


# -- train and eval ----------------------------------------------------------------------------------------------------


def test_train_then_the_same_command_goes_on(rayprior: Cli):
    status, out, err = rayprior(*TRAIN)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "synthetic:shapes: 64 pairs by 'exact' between 8 views"
    assert "  64 kept" in lines
    assert "training d: Small, descriptors of 3 numbers" in lines
    assert "  synthetic:shapes: 64 pairs, its masks tell the object" in lines
    assert lines[-2:] == ["measure it: rayprior describe eval d", "d"]
    assert read("d/asked.json")[0] == {
        "target": SCENE, "labels": "exact", "pairs": None, "cycle": None, "count": 64, "seed": 0
    }  # fmt: skip
    pool = read("d/pairs-0.json")
    assert (len(pool["pairs"]), pool["source"]) == (64, "exact")

    log = Path("d/log.jsonl").read_text()
    status, out, err = rayprior(*TRAIN)
    assert (status, err) == (0, "")
    assert "going on with d" in out
    assert "kept" not in out, "its pairs are not drawn again"
    assert Path("d/log.jsonl").read_text() == log
    more = ["3" if word == "2" else word for word in TRAIN]
    assert rayprior(*more)[0] == 0
    assert len(Path("d/log.jsonl").read_text().splitlines()) == 3

    told = refused(rayprior, *TRAIN, "--cycle", "2")
    assert "holds a describer whose pairs came from synthetic:shapes (labels exact, 64 pairs, seed 0)" in told
    assert "asked for are synthetic:shapes (labels exact, cycle 2 px, 64 pairs, seed 0)" in told
    assert "holds descriptors of dimension 3, and 4 is asked for" in refused(rayprior, *TRAIN, "--dimension", "4")


def test_train_on_pairs_of_a_file(rayprior: Cli):
    scene = tiny_scene("shapes")
    write_pairs(Path("mine.json"), pairs_of(scene, *scene.split.train[:2]), scene, "by hand")
    command = ("describe", "train", SCENE, "--pairs", "mine.json", *QUICK, "--out", "d")
    status, out, err = rayprior(*command)
    assert (status, err) == (0, "")
    assert "synthetic:shapes: 30 pairs of " in out
    assert read("d/asked.json")[0]["pairs"] == str(Path("mine.json").absolute())
    assert rayprior(*EVAL[:3], "--pairs", "mine.json", "--threads", "1")[0] == 0


def test_train_on_a_run_takes_labels_of_its_field(rayprior: Cli, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []

    def stop(name: str, scene: Scene, model: object, **options: object) -> None:
        seen.append(name)
        assert model is not None
        raise KeyboardInterrupt

    monkeypatch.setattr("rayprior.verbs.describe.labels_of", stop)
    rayprior("train", "grid", SCENE, "--size", "small", "--steps", "1", "--out", "runs/a")
    assert rayprior("describe", "train", "runs/a", *QUICK)[0] == 130
    assert seen == ["median"]


def test_eval_writes_the_table_and_the_numbers(house: Cli):
    assert "--views 1: could be any of train-001, " in refused(house, *EVAL, "--views", "train-000,1")
    status, out, err = house(*EVAL, "--sift", "--views", VIEWS)
    assert (status, err) == (0, "")
    assert "AEPE, px" in out
    assert "PCK 1 % of width" in out
    assert "truth: labels 'exact', 20 drawn between 8 views with seed 0" in out
    assert "pairs lead into views that the describer was trained on" in out
    assert out.splitlines()[-1] == "d/eval/000002/metrics.json"
    found = read("d/eval/000002/metrics.json")
    assert list(found["scores"]) == ["descriptors", "descriptors, masked", "SIFT", "SIFT, masked"]
    assert found["protocol"]["dimension"] == 3
    assert found["scores"]["SIFT"]["protocol"]["dimension"] == 128
    for one in found["scores"].values():
        assert one["protocol"]["pairs"] == len(one["pairs"]["error_px"]) == 20
        assert one["mean"]["error_3d"] is not None
    again = house(*EVAL, "--views", VIEWS, "--out", "m.json")
    assert again[0] == 0
    assert read("m.json")["scores"]["descriptors"] == found["scores"]["descriptors"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("train",), "describe train needs a run, or a capture"),
        (("train", SCENE), "a capture has no field to take labels from; say which ones, --labels exact|depth|points"),
        (("train", SCENE, "--labels", "exat"), "--labels exat: no such labels; did you mean 'exact'?"),
        (("train", SCENE, "--labels", "draw"), "labels 'draw' are read from a field"),
        (("train", SCENE, "--pairs", "a.json", "--labels", "exact"), "--pairs with --labels"),
        (("train", SCENE, SCENE, "--pairs", "a.json"), "2 captures or runs and 1 times --pairs"),
        (("train", SCENE, "--pairs", "a.json"), "a.json: cannot be read"),
        (("train", SCENE, "--labels", "exact", "--count", "0"), "0 pairs of pixels: expected at least 1"),
        (("train", SCENE, "--labels", "exact", "--dimension", "0"), "--dimension 0: net.dimension=0"),
        (("train", SCENE, "--labels", "exact", "--recipe", "don"), "no describer named 'don'"),
        (("train", SCENE, "--labels", "exact", "--mode", "class", "--count", "16"), "mode=class learns from several"),
        (("eval", "nowhere"), "nowhere: no describer, no such folder"),
        (("eval", "d", "--labels", "stereo"), "--labels stereo: nothing to measure against"),
        (("eval", "d", "--views", "test-000"), "1 view is named, and pairs are between two"),
        (("eval", "d", "--views", ","), "--views ',': names no view"),
        (("eval", "d", "--views", "nine,test-000"), "--views nine: no view of synthetic:shapes has this name"),
        (("eval", "d", "--pairs", "a.json", "--count", "3"), "--pairs with --count"),
    ],
)
def test_mistakes_of_train_and_eval(house: Cli, words: tuple[str, ...], told: str):
    assert told in refused(house, "describe", *words)


def test_pairs_of_other_pictures_are_refused(house: Cli):
    scene = tiny_scene("shapes")
    write_pairs(Path("mine.json"), pairs_of(scene, *scene.split.train[:2]), scene, "by hand")
    text = Path("mine.json").read_text()
    Path("mine.json").write_text(text.replace("train-001", "IMG_12"))
    assert "picture 'IMG_12' is none of synthetic:shapes" in refused(house, *EVAL[:3], "--pairs", "mine.json")


# -- match and track ---------------------------------------------------------------------------------------------------


def test_match(house: Cli):
    pixel = centre()[1]
    match = ("describe", "match", "d", "photos/train-000.png", pixel)
    status, out, err = house(*match, "photos/train-000.png", "photos/train-001.png", "--threads", "1")
    assert (status, err) == (0, "")
    assert out.startswith("photos/train-000.png: ")
    assert out.splitlines()[-1] == "d/match/match.json"
    found = read("d/match/match.json")
    assert found["query"]["pixel"] == [float(x) for x in pixel.split(",")]
    assert len(found["query"]["descriptor"]) == 3
    itself, other = found["matches"]
    assert itself["pixel"] == found["query"]["pixel"]
    assert itself["distance"] == 0
    assert other["picture"] == "photos/train-001.png"
    picture = Image.open(Path("d/match") / other["heat_map"])
    assert picture.width >= 512

    status, out, _ = house(*match, "train-001", "--scene", SCENE, "--out", "m")
    assert status == 0
    (by_name,) = read("m/match.json")["matches"]
    assert by_name["pixel"] == other["pixel"], "a view by name is the same picture"


def test_track_through_a_folder(house: Cli):
    track = ("describe", "track", "d", "photos/train-000.png", "12,10")
    status, out, err = house(*track, "photos", "--threads", "1")
    assert (status, err) == (0, "")
    assert "3 pictures; the best match's descriptor is " in out
    found = read("d/track/track.json")
    assert [row["picture"] for row in found["pictures"]] == ["train-000.png", "train-001.png", "train-002.png"]
    assert all(0 < x < 24 for row in found["pictures"] for x in row["pixel"])
    assert Image.open("d/track/track.webp").n_frames == 3
    assert Path("d/track/track.png").is_file()
    assert "all pictures of a folder are looked at" in refused(house, *track, "photos", "--frames", "2")
    assert "--frames 0: expected at least 1" in refused(house, *track, "photos", "--frames", "0")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("photos/train-000.png", "24,3", "photos/train-001.png"),
            "24,3: no pixel of photos/train-000.png",
        ),
        (("photos/train-000.png", "nan,3", "photos/train-001.png"), "nan,3: no pixel"),
        (("photos/train-000.png", "3", "photos/train-001.png"), "3: expected a pixel as U,V"),
        (("photos/none.png", "3,3", "photos/train-001.png"), "photos/none.png"),
        (("photos/train-000.png", "3,3", "photos/none.png"), "photos/none.png"),
        (("photos/train-000.png", "3,3"), "describe match needs a picture to search"),
        (("photos/train-000.png", "3,3", "nine", "--scene", SCENE), "picture nine: no view of synthetic:shapes"),
    ],
)
def test_mistakes_of_match(house: Cli, words: tuple[str, ...], told: str):
    assert told in refused(house, "describe", "match", "d", *words)


# -- keypoint ----------------------------------------------------------------------------------------------------------

KEYPOINT = ("describe", "keypoint", "d", "--scene", SCENE, "--threads", "1", "--device", "cpu")


def centre() -> tuple[Scene, str]:
    """The embedded scene, and a pixel of train-000 that shows the object."""
    scene = tiny_scene("shapes")
    mask = scene.object_mask(scene.split.train[0])
    assert mask is not None
    rows, columns = mask.nonzero().unbind(dim=1)
    middle = (torch.hypot(rows - 12.0, columns - 12.0)).argmin()
    return scene, f"{int(columns[middle]) + 0.5},{int(rows[middle]) + 0.5}"


def test_a_point_of_one_view_is_where_its_depth_says(house: Cli):
    scene, pixel = centre()
    assert scene.depth is not None
    status, out, err = house(*KEYPOINT, "--views", "train-000", "--at", f"train-000:{pixel}")
    assert (status, err) == (0, "")
    found = json.loads(out)
    view = scene.names.index("train-000")
    u, v = map(float, pixel.split(","))
    where = torch.tensor([[u, v]], dtype=torch.float64)
    direction = scene.cameras.directions(torch.tensor([view]), where)[0]
    expected = scene.cameras.origins[view] + float(scene.depth[view][int(v), int(u), 0]) * direction
    torch.testing.assert_close(torch.tensor(found["frames"]["scene"]["point"]).double(), expected, atol=1e-6, rtol=0)
    assert found["unit"] == "the capture's own"
    assert found["from"] == "one view, its depth map"
    assert set(found["frames"]) == {"scene", "camera"}
    assert found["frames"]["camera"]["point"][2] > 0


def test_metres_and_the_robots_frame(house: Cli):
    _, pixel = centre()
    hand = [[0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]]
    Path("hand.json").write_text(json.dumps(hand))
    command = (*KEYPOINT, "--views", "train-000", "--at", f"train-000:{pixel}")
    own = json.loads(house(*command)[1])["frames"]["camera"]
    status, out, err = house(*command, "--scale", "0.01", "--hand-eye", "hand.json", "--out", "k.json")
    assert (status, out, err) == (0, "k.json\n", "")
    found = read("k.json")
    assert found["unit"] == "metre"
    x, y, z = (0.01 * c for c in own["point"])
    assert found["frames"]["camera"]["point"] == pytest.approx([x, y, z])
    assert found["frames"]["robot"]["point"] == pytest.approx([z + 0.5, -x, -y + 1])
    nx, ny, nz = own["normal"]
    assert found["frames"]["robot"]["normal"] == pytest.approx([nz, -nx, -ny])
    for words in (("--metres",), ("--hand-eye", "hand.json")):
        told = refused(house, *command, *words)
        assert "has no distance units" in told
        assert "--scale X" in told


def test_a_point_of_two_views_is_that_of_their_rays(house: Cli, monkeypatch: pytest.MonkeyPatch):
    """With descriptors that are the point itself, matches are right to half a pixel, and so is the point."""
    scene, pixel = centre()

    def describe(self: Describer, picture: torch.Tensor) -> torch.Tensor:
        views = [v for v in range(len(scene)) if torch.equal(scene.picture(v), picture)]
        assert scene.depth is not None
        distance = scene.depth[views[0]][:, :, 0].double().reshape(-1, 1)
        rays = scene.cameras.directions(torch.full((576,), views[0]), scene.cameras.pixel_grid(views[0]))
        points = scene.cameras.origins[views[0]] + distance * rays
        return points.nan_to_num(1e3).view(24, 24, 3).float()

    monkeypatch.setattr(Describer, "describe", describe)
    command = (*KEYPOINT, "--at", f"train-000:{pixel}", "--views")
    one = json.loads(house(*command, "train-000")[1])
    status, out, err = house(*command, "train-000,train-001,train-002")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["from"] == "rays of 3 views"
    assert [row["view"] for row in found["views"]] == ["train-000", "train-001", "train-002"]
    away = torch.tensor(found["frames"]["scene"]["point"]) - torch.tensor(one["frames"]["scene"]["point"])
    assert float(away.norm()) < 0.3
    assert max(row["reprojection_px"] for row in found["views"]) < 3


def test_a_field_tells_distances_where_no_map_does():
    """A stand-in for a field whose rays all end at 3 working units; two of them are one of the capture's."""
    scene = replace(tiny_scene("shapes"), depth=None, similarity=Similarity(scale=2.0))

    class Wall:
        def __init__(self, opacity: float) -> None:
            self.opacity = opacity

        def render_in_chunks(self, rays: Rays) -> list[SimpleNamespace]:
            return [SimpleNamespace(opacity=torch.full((len(rays),), self.opacity), distance=3 * torch.ones(len(rays)))]

    pixel = torch.tensor([0.5, 12.5], dtype=torch.float64)
    distance, whose = _distances_around(Target("runs/a", scene, Wall(0.9)), 0, pixel)  # type: ignore[arg-type]
    assert distance is not None
    assert whose == "the field of runs/a"
    assert (distance[10:15, 0:3] == 1.5).all()
    assert int(distance.isfinite().sum()) == 15, "at the border fewer pixels are around"
    assert _distances_around(Target("runs/a", scene, Wall(0.4)), 0, pixel)[0] is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--views", "train-000", "--at", "train-000"), "--at train-000: expected PICTURE:U,V"),
        (("--views", "train-000", "--at", "train-000:30,2"), "30,2: no pixel of train-000, which is 24x24"),
        (("--views", "train-000", "--at", "train-0:3,2"), "picture train-0: no view of synthetic:shapes"),
        (("--views", "x", "--at", "train-000:3,2"), "--views x: no view of synthetic:shapes"),
        (("--views", "train-000", "--at", "train-000:0.5,0.5"), "1 view, 'train-000', and no depth at its pixel"),
        (("--views", "train-000", "--at", "train-000:3,2", "--scale", "0"), "--scale 0: expected the metres"),
        (("--views", "train-000", "--at", "train-000:3,2", "--hand-eye", "none.json"), "none.json: can't be read"),
    ],
)
def test_mistakes_of_keypoint(house: Cli, words: tuple[str, ...], told: str):
    assert told in refused(house, *KEYPOINT, *words)


# -- export ------------------------------------------------------------------------------------------------------------


def test_onnx_gives_the_same_descriptors(house: Cli):
    onnxruntime = pytest.importorskip("onnxruntime")
    status, out, err = house("describe", "export", "d", "--onnx", "net.onnx")
    assert (status, err) == (0, "")
    assert "largest difference from torch's" in out
    assert out.splitlines()[-1] == "net.onnx"
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    picture = torch.rand(1, 3, 31, 57, generator=torch.Generator().manual_seed(3))
    (found,) = session.run(None, {"picture": picture.numpy()})
    with torch.no_grad():
        expected = Describer.open(Path("d")).network()(picture)[0]
    torch.testing.assert_close(torch.from_numpy(found[0]), expected, atol=1e-4, rtol=0)
    assert "expected a file that ends in .onnx" in refused(house, "describe", "export", "d", "--onnx", "net")


def test_an_onnx_file_that_differs_is_not_written(house: Cli, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_export, "LARGEST_DIFFERENCE", -1.0)
    assert "not written: the descriptors of the ONNX file differ" in refused(
        house, "describe", "export", "d", "--onnx", "net.onnx"
    )
    assert not Path("net.onnx").exists()

"""`rayprior refine`, and `--refiner` of eval, render and view: what is printed and written, each mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayprior.errors import UserError
from rayprior.scenes.scene import Background
from rayprior.training.refining import RefinerRun
from rayprior.training.run import load_run
from rayprior.viewer.painter import Look, Painter, View

Cli = Callable[..., tuple[int, str, str]]
SCENE = "synthetic:shapes"
TRAIN = ("train", "grid", SCENE, "--size", "small", "--steps", "4", "--out", "runs/a")
QUICK = ("--steps", "3", "--set", "batch=2", "--set", "net.width=4", "--device", "cpu")
EVAL = ("eval", "runs/a", "--lpips", "none")


def metrics(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def test_refine_then_eval(rayprior: Cli):
    rayprior(*TRAIN)
    status, out, err = rayprior("refine", "runs/a", *QUICK)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "refining runs/a, step 4: 8 training views"
    assert "2 crops of 24 px a step; adversarial x 0.01, l1 x 1, perceptual x 0.1; critic: small" in out
    assert "perceptual: " in out
    assert lines[-2:] == ["measure it: rayprior eval runs/a --refiner runs/a/refiner", "runs/a/refiner"]
    assert json.loads(Path("runs/a/refiner/refiner.json").read_text())["source"]["step"] == 4

    rayprior(*EVAL)
    status, out, err = rayprior(*EVAL, "--refiner", "runs/a/refiner")
    assert (status, err) == (0, "")
    assert ", refined, 2 held-out views" in out
    assert out.splitlines()[-1] == "runs/a/refiner/eval/000003/metrics.json"
    plain, refined = (metrics(f"runs/a/{p}/metrics.json") for p in ("eval/000004", "refiner/eval/000003"))
    assert "refiner" not in plain["protocol"]
    assert refined["protocol"].pop("refiner").startswith("residual refiner, step 3, of 8 training views")
    assert refined["protocol"] == plain["protocol"]
    assert refined["mean"]["psnr"] != plain["mean"]["psnr"]
    for key in ("distance_abs_rel", "floater_share"):
        assert refined["mean"][key] == plain["mean"][key], "depth and opacity are the field's"


def test_the_same_command_goes_on(rayprior: Cli):
    rayprior(*TRAIN)
    rayprior("refine", "runs/a", *QUICK, "--out", "r")
    before = Path("r/log.jsonl").read_text()
    assert rayprior("refine", "runs/a", *QUICK, "--out", "r")[0] == 0
    assert Path("r/log.jsonl").read_text() == before
    assert rayprior("refine", "runs/a", "--steps", "5", *QUICK[2:], "--out", "r")[0] == 0
    assert len(Path("r/log.jsonl").read_text().splitlines()) == 5


def test_fewer_pictures_than_a_batch_are_said(rayprior: Cli):
    rayprior(*TRAIN, "--fewshot", "3")
    status, out, err = rayprior("refine", "runs/a", *QUICK, "--set", "batch=4", "--shuffled")
    assert (status, err) == (0, "")
    assert "3 pictures are fewer than a batch of 4: some are drawn twice in a step" in out
    assert "a control: every rendering is shown the photograph of another view" in out
    out = rayprior(*EVAL, "--refiner", "runs/a/refiner")[1]
    assert "a control: trained on shuffled pairs" in out


def test_bicubic_stands_beside_what_enlarges(rayprior: Cli):
    rayprior(*TRAIN)
    assert rayprior("refine", "runs/a", *QUICK, "--scale", "2")[0] == 0
    status, out, err = rayprior(*EVAL, "--refiner", "runs/a/refiner")
    assert (status, err) == (0, "")
    assert ", refined, " in out
    assert ", bicubic, " in out
    folder = "runs/a/refiner/eval/000003"
    assert (
        "1/2 of the size, enlarged bicubic; no refiner"
        in metrics(f"{folder}/metrics-bicubic.json")["protocol"]["refiner"]
    )
    assert "enlarged bicubic, refined" in metrics(f"{folder}/metrics.json")["protocol"]["refiner"]


def test_photographs_with_a_light_of_their_own(rayprior: Cli):
    """Codes are fitted to left halves as without a refiner, and right halves are scored."""
    rayprior(*TRAIN, "--set", "codes.affine=true")
    rayprior("refine", "runs/a", *QUICK)
    rayprior(*EVAL)
    assert rayprior(*EVAL, "--refiner", "runs/a/refiner")[0] == 0
    plain, refined = (metrics(f"runs/a/{p}/metrics.json") for p in ("eval/000004", "refiner/eval/000003"))
    assert refined["protocol"]["appearance"] == plain["protocol"]["appearance"]
    assert abs(refined["mean"]["psnr"] - plain["mean"]["psnr"]) < 1.0


def test_render(rayprior: Cli):
    from PIL import Image

    rayprior(*TRAIN)
    rayprior("refine", "runs/a", *QUICK)
    words = ("render", "runs/a", "--path", "test", "--format", "png", "--show", "rgb,depth")
    assert rayprior(*words)[0] == 0
    status, out, err = rayprior(*words, "--refiner", "runs/a/refiner")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "runs/a/refiner/renders/test"
    plain, refined = (np.asarray(Image.open(f"runs/a/{p}renders/test/0000.png")) for p in ("", "refiner/"))
    assert (plain[:, :24] != refined[:, :24]).any()
    assert (plain[:, 24:] == refined[:, 24:]).all()


MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "no run": ("refine nowhere", ("nowhere", "no such folder")),
    "not a run": ("refine my-capture", ("my-capture", "not a run")),
    "no steps": ("refine runs/a --steps 0", ("positive", "--steps N")),
    "two budgets": ("refine runs/a --steps 4 --seconds 4", ("--steps N or --seconds S",)),
    "unknown recipe": ("refine runs/a --recipe refinr", ("'refinr'", "did you mean 'refiner'")),
    "unknown scale": ("refine runs/a --scale 3", ("--scale", "3")),
    "unknown key": ("refine runs/a --set l2=1", ("unknown key 'l2'",)),
    "a typed crop that does not fit": ("refine runs/a --set crop=64", ("crop=64", "smallest side is 24 px")),
    "a typed tile that does not fit": ("refine runs/a --set tile=32", ("tile=32", "expected 24 or less")),
    "negative weight": ("refine runs/a --set r1=-1", ("r1=-1", "at least 0")),
    "out holds something else": ("refine runs/a --out my-capture", ("my-capture", "something else than a refiner")),
    "no refiner to measure": ("eval runs/a --refiner nowhere", ("nowhere", "no such folder", "rayprior refine runs/a")),
    "a run is no refiner": ("eval runs/a --refiner runs/a", ("not a refiner", "refiner.json")),
    "no refiner to render": ("render runs/a --refiner my-capture", ("not a refiner",)),
    "another size": ("render runs/a --refiner r --size 48x48", ("another size, 24x24", "48x48", "leave --size out")),
    "a film of the training": ("render runs/a --refiner r --snapshots", ("--refiner", "--snapshots")),
    "a capture to look at": ("view my-capture --refiner r", ("my-capture is a capture", "leave it out")),
}


def test_mistakes_are_one_message(rayprior: Cli):
    rayprior(*TRAIN)
    rayprior("refine", "runs/a", *QUICK, "--out", "r")
    for mistake, (typed, fragments) in MISTAKES.items():
        before = set(Path().rglob("*"))
        status, _, err = rayprior(*typed.split())
        assert status == 2, f"{mistake}: {err}"
        assert "Traceback" not in err
        for fragment in fragments:
            assert fragment in err, mistake
        assert set(Path().rglob("*")) == before, f"{mistake} leaves something behind"


def test_whose_refiner_it_is(rayprior: Cli):
    rayprior(*TRAIN)
    rayprior("refine", "runs/a", *QUICK, "--out", "r")
    rayprior("train", "grid", "synthetic:still-life", *TRAIN[3:-1], "runs/scene")
    rayprior(*TRAIN[:-1], "runs/recipe", "--prior", "distortion")
    rayprior(*TRAIN[:-1], "runs/seed", "--seed", "1")
    for run, said in (("scene", "another scene, shapes"), ("recipe", "another recipe"), ("seed", "another training")):
        for verb in ("eval", "render"):
            status, _, err = rayprior(verb, f"runs/{run}", "--refiner", "r")
            assert status == 2
            assert said in err
            assert f"rayprior refine {Path.cwd() / 'runs' / run} --out DIR" in err
    rayprior("train", "--resume", "runs/a", "--steps", "6")
    assert "another step, 4" in rayprior("eval", "runs/a", "--refiner", "r")[2]


def test_the_viewer_shows_refined_colours(rayprior: Cli, monkeypatch: pytest.MonkeyPatch):
    """At any size, and colours alone; a refiner that enlarges is refused."""
    rayprior(*TRAIN)
    rayprior("refine", "runs/a", *QUICK, "--out", "r")
    rayprior("refine", "runs/a", *QUICK, "--scale", "2", "--out", "large")
    run = load_run("runs/a")
    scene = run.reopen()
    refined = RefinerRun.open(Path("r"), run).at_any_size(scene)
    monkeypatch.setattr(refined, "network", lambda picture: picture / 2)
    view = View(scene.cameras.c2w[0], 45.0, 4 / 3)
    for shown in (scene, scene.with_background(Background("none"))):  # of the second all rays meet something
        painters = Painter(run.model, shown), Painter(refined, shown)
        for layer in ("colour", "depth"):
            plain, halved = (painter.paint(view, (20, 15), Look(layer)) for painter in painters)
            assert plain is not None
            assert halved is not None
            wanted = plain.rgb // 2 if layer == "colour" else plain.rgb
            assert np.abs(halved.rgb.astype(int) - wanted).max() <= (layer == "colour")
            assert (halved.depth == plain.depth).all()
    with pytest.raises(UserError, match="large: this refiner enlarges"):
        RefinerRun.open(Path("large"), run).at_any_size(scene)

"""The command line's promises: exit status 0, 1, 2, 130; one message for a mistake; nothing half-written or ignored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rayprior import methods
from rayprior.training.run import load_run
from rayprior.training.tasks import FitScene

SCENE = "synthetic:shapes"
QUICK = ("train", "grid", SCENE, "--size", "small", "--steps", "4")
Cli = Callable[..., tuple[int, str, str]]


def files(folder: Path = Path()) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


# -- 0 done ------------------------------------------------------------------------------------------------------------


def test_done(rayprior: Cli):
    status, out, err = rayprior(*QUICK, "--out", "runs/a")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "report: runs/a/report.html"
    assert load_run("runs/a").latest == 4
    assert (Path("runs/a") / "report.html").is_file()
    assert "runs/a" in rayprior("eval", "runs/a", "--lpips", "none")[1].splitlines()[-1]
    metrics = json.loads(Path("runs/a/eval/000004/metrics.json").read_text())
    assert metrics["mean"]["psnr"] > 0
    assert len(metrics["views"]) == 2


def test_what_is_not_typed_is_the_recipe_as_it_is(rayprior: Cli):
    """Options that may be left out change nothing when they are."""
    assert rayprior("train", "grid", SCENE, "--steps", "1", "--out", "runs/a")[0] == 0
    run, grid = load_run("runs/a"), methods.grid
    assert run.recipe.optimiser == grid.optimiser
    assert (run.recipe.field.levels, run.recipe.field.log2_entries) == (grid.field.levels, 16)  # 16: settled by a box
    assert run.recipe.photo.rays == 1024
    assert (run.conditions.seed, run.opening.options) == (0, {})


def test_what_is_typed_arrives(rayprior: Cli):
    typed = ("--fewshot", "3", "--fewshot-seed", "5", "--near", "1", "--far", "6", "--seed", "7", "--threads", "1")
    assert rayprior(*QUICK, *typed, "--downscale", "2", "--masks", "background", "--out", "runs/a")[0] == 0
    run = load_run("runs/a")
    wanted = {"fewshot": 3, "fewshot_seed": 5, "near": 1.0, "far": 6.0, "downscale": 2, "masks": "background"}
    assert run.opening.options == wanted
    assert (run.conditions.seed, run.conditions.threads, run.recipe.photo.rays) == (7, 1, 128)


def test_the_table_fits_a_terminal(rayprior: Cli, monkeypatch: pytest.MonkeyPatch):
    """At 80 columns numbers are whole."""
    monkeypatch.setenv("COLUMNS", "80")
    out = rayprior(*QUICK)[1]
    assert "floater_share" in out
    assert "…" not in out


# -- 2 the user's mistake ----------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "nothing to train": ("train", ("a recipe and a scene", "--resume")),
    "no scene": ("train grid", ("needs a scene",)),
    "unknown recipe": (f"train grd {SCENE}", ("'grd'", "did you mean 'grid'")),
    "unknown prior": (f"train grid {SCENE} --prior distortoin", ("did you mean 'distortion'",)),
    "unknown option of a prior": (f"train grid {SCENE} --prior distortion:wieght=1", ("'wieght'", "weight=0.001")),
    "value of a prior": (f"train grid {SCENE} --prior distortion:weight=lots", ("weight", "lots")),
    "prior twice": (f"train grid {SCENE} --prior distortion --prior distortion", ("twice",)),
    "no such prior file": (f"train grid {SCENE} --prior sky.py:EmptySky", ("sky.py", "cannot be read")),
    "unknown verb": ("tarin", ("tarin",)),
    "unknown option": (f"train grid {SCENE} --frobnicate", ("--frobnicate",)),
    "not a number": (f"train grid {SCENE} --steps many", ("--steps", "many")),
    "no scene there": ("train grid nowhere", ("nowhere", "no such folder")),
    "unknown embedded scene": ("train grid synthetic:shaps", ("did you mean 'shapes'",)),
    "a folder without cameras": ("train grid empty", ("empty", "transforms.json")),
    "unknown format": ("inspect my-capture --format nerfstduio", ("did you mean 'nerfstudio'",)),
    "another format": ("inspect my-capture --format llff", ("poses_bounds.npy",)),
    "unknown split": (f"train grid {SCENE} --split blender/infonrf-4", ("did you mean 'blender/infonerf-4'",)),
    "split of other frames": ("train grid my-capture --split blender/full", ("'train' list", "--split every-8th")),
    "more few-shot views than there are": (f"train grid {SCENE} --fewshot 100", ("--fewshot 100", "1 to 8")),
    "no few-shot views": (f"train grid {SCENE} --fewshot 0", ("--fewshot 0",)),
    "views that are not there": (f"train grid {SCENE} --views 0,77", ("77",)),
    "views and few-shot": (f"train grid {SCENE} --views 0,1 --fewshot 2", ("--views", "--fewshot")),
    "empty test split": ("train grid all-train", ("no test view", "--split")),
    "near beyond far": (f"train grid {SCENE} --near 5 --far 1", ("near", "far", "0 <= near < far")),
    "downscale": ("train grid my-capture --downscale 0", ("--downscale 0",)),
    "unknown key": (f"train grid {SCENE} --set field.levls=3", ("field.levls", "did you mean 'levels'")),
    "a value of another kind": (f"train grid {SCENE} --set field.levels=many", ("field.levels", "many")),
    "no assignment": (f"train grid {SCENE} --set field.levels", ("KEY=VALUE",)),
    "unknown size": (f"train grid {SCENE} --size huge", ("--size", "huge")),
    "quality of an mlp": (f"train nerf {SCENE} --quality draft", ("--quality", "nerf")),
    "unknown device": (f"train grid {SCENE} --device tpu", ("--device tpu", "cpu, cuda")),
    "a device that is not here": (f"train grid {SCENE} --device cuda:77", ("cuda:77", "--device cpu")),
    "two budgets": (f"train grid {SCENE} --steps 5 --seconds 5", ("--steps N or --seconds S",)),
    "no budget": (f"train grid {SCENE} --steps 0", ("positive",)),
    "more than there is memory": (f"train grid {SCENE} --set photo.rays=1000000000", ("memory", "--set photo.rays=")),
    "out is another folder": (f"train grid {SCENE} --out my-capture", ("my-capture", "something else than a run")),
    "out is a file": (f"train grid {SCENE} --out note.txt", ("note.txt", "is a file")),
    "out is inside a file": (f"train grid {SCENE} --out note.txt/run", ("note.txt", "somewhere else")),
    "no such run": ("eval nowhere", ("nowhere", "no such folder")),
    "eval of something else": ("eval my-capture", ("my-capture", "not a run")),
    "render of something else": ("render my-capture", ("my-capture", "not a run")),
    "resume of something else": ("train --resume my-capture", ("my-capture", "not a run")),
    "a recipe's file that is not there": (f"train mine.json {SCENE}", ("mine.json",)),
    "a recipe's file that is none": ("train my-capture/transforms.json " + SCENE, ("transforms.json", "format")),
    "unknown recipe to print": ("recipe gird", ("did you mean 'grid'",)),
}


@pytest.fixture
def with_odd_files(quick_house: Path) -> None:
    (quick_house / "empty").mkdir()
    (quick_house / "note.txt").write_text("mine")
    content = json.loads((quick_house / "my-capture" / "transforms.json").read_text())
    listed = [frame["file_path"] for frame in content["frames"]]
    content |= {"train_filenames": listed, "test_filenames": []}
    (quick_house / "all-train").mkdir()
    (quick_house / "all-train" / "images").symlink_to(quick_house / "my-capture" / "images")
    (quick_house / "all-train" / "transforms.json").write_text(json.dumps(content))


@pytest.mark.usefixtures("with_odd_files")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message(mistake: str, rayprior: Cli):
    typed, fragments = MISTAKES[mistake]
    before = files()
    status, _, err = rayprior(*typed.split())
    assert status == 2, err
    assert "Traceback" not in err
    assert err.startswith(("rayprior: ", "╭", "+", " ")), err
    assert err.count("rayprior: ") <= 1
    for fragment in fragments:
        assert fragment in err
    assert files() == before, "a mistake leaves nothing behind"


RENDER_MISTAKES = {
    "--size 5": "--size 5",
    "--size 0x5": "--size 0x5",
    "--path orbt": "did you mean 'orbit'",
    "--path mine.json": "mine.json",
    "--show rgbb": "did you mean 'rgb'",
    "--show ,": "nothing to show",
    "--frames 0": "--frames 0",
    "--format avi": "avi",
    "--snapshots": "--snapshots N",
    "--device tpu": "--device tpu",
    "--appearance mean": "one light for all photographs",
}


def test_mistakes_about_a_run(rayprior: Cli):
    assert rayprior(*QUICK, "--out", "runs/a")[0] == 0
    before = files()
    for typed, fragment in RENDER_MISTAKES.items():
        status, _, err = rayprior("render", "runs/a", *typed.split())
        assert (status, "Traceback" in err) == (2, False), err
        assert fragment in err
    for word, fragment in (("runs/a", "--resume runs/a"), ("runs/a/log.jsonl", "is a file")):
        status, _, err = rayprior(*QUICK, "--out", word)
        assert status == 2
        assert fragment in err
    assert files() == before


APPEARANCE_MISTAKES = {
    "train-0000": "did you mean 'train-000'",
    "moon": "expected mean, or the name of a training photograph",
    "test-000": "training did not see this photograph",
    "train-000 --snapshots": "a film of the training is in the mean light",
}


def test_a_film_in_the_light_of_a_photograph(rayprior: Cli, monkeypatch: pytest.MonkeyPatch):
    """Each photograph's code makes other frames; `eval` says whose light it scored."""
    monkeypatch.setattr("rayprior.evaluation.appearance.RAYS", 16)
    settings = ("--set", "codes.affine=true", "--set", "optimiser.lr=0.1", "--steps", "30")
    assert rayprior("train", "grid", SCENE, "--size", "small", *settings, "--out", "runs/a")[0] == 0
    film = ("render", "runs/a", "--frames", "1", "--size", "8x8", "--format", "png")
    for name, typed in (("none", ()), ("mean", ("--appearance", "mean")), ("first", ("--appearance", "train-000"))):
        status, out, err = rayprior(*film, "--out", name, *typed)
        assert (status, out.strip()) == (0, name), err
    frames = {name: (Path(name) / "0000.png").read_bytes() for name in ("none", "mean", "first")}
    assert frames["none"] == frames["mean"] != frames["first"]
    before = files()
    for typed, fragment in APPEARANCE_MISTAKES.items():
        status, _, err = rayprior(*film, "--appearance", *typed.split())
        assert (status, "Traceback" in err) == (2, False), err
        assert fragment in err
    assert files() == before
    assert "appearance: half-image: codes fitted to the left half" in rayprior("eval", "runs/a", "--lpips", "none")[1]


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "rayprior.cli", "train", "grd", SCENE], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == "rayprior: no recipe named 'grd'; did you mean 'grid'?\n"


# -- --resume ----------------------------------------------------------------------------------------------------------

IGNORED = (
    "--out runs/b", "--split every-8th", "--views 0,1", "--fewshot 2", "--fewshot-seed 0", "--downscale 1", "--seed 0",
    "--threads 1", "--device cpu", "--format npz", "--skip-missing", "--near 1", "--far 6", "--masks ignore",
    "--field grid", "--size small", "--quality draft", "--prior distortion", "--set field.levels=4",
)  # fmt: skip


def test_resume(rayprior: Cli):
    assert rayprior(*QUICK, "--out", "runs/a")[0] == 0
    before = files()
    for typed in IGNORED:  # what would do nothing is refused, even where it happens to agree
        status, _, err = rayprior("train", "--resume", "runs/a", *typed.split())
        assert status == 2, typed
        assert typed.split()[0] in err
        assert "--steps" in err
    for typed, fragment in (
        (("grid", SCENE, "--size", "small", "--set", "field.levels=4"), "not the one of this run"),
        (("nerf",), "not the one of this run"),
        (("grid", "my-capture", "--size", "small"), "this run is of synthetic:shapes"),
        (("--steps", "2"), "only a larger budget"),
        (("--seconds", "9"), "same unit"),
    ):
        status, _, err = rayprior("train", *typed, "--resume", "runs/a")
        assert status == 2, typed
        assert fragment in err
    assert files() == before
    assert load_run("runs/a").latest == 4
    assert rayprior("train", "--resume", "runs/a")[0] == 0  # a finished run has nothing to do
    assert load_run("runs/a").latest == 4
    assert rayprior("train", "grid", SCENE, "--size", "small", "--resume", "runs/a", "--steps", "7")[0] == 0
    assert load_run("runs/a").latest == 7


def test_a_users_prior_is_resumed_from_the_runs_copy(rayprior: Cli):
    Path("sky.py").write_text(PRIOR)
    assert rayprior(*QUICK, "--prior", "sky.py:Mine", "--out", "runs/a")[0] == 0
    Path("sky.py").write_text("this is no Python")
    status, out, _ = rayprior("train", "--resume", "runs/a", "--steps", "6")
    assert status == 0
    said = [line for line in out.splitlines() if "own copy" in line]
    assert len(said) == 1
    assert "'Mine'" in said[0]
    assert rayprior("render", "runs/a", "--frames", "1")[0] == 0  # which imports nobody's priors


# -- mistakes in a user's own prior ------------------------------------------------------------------------------------

PRIOR = """from dataclasses import dataclass
from rayprior import Prior


@dataclass(frozen=True)
class Mine(Prior):
    def query(self, scene, generator):
        return scene.unseen_rays(8, generator)

    def loss(self, seen, known):
        return seen.opacity.mean()
"""
LOSS, QUERY = "return seen.opacity.mean()", "return scene.unseen_rays(8, generator)"


@pytest.mark.parametrize(
    ("line", "instead", "fragments"),
    [
        (LOSS, "return seen.opactiy.mean()", ("sky.py, line 11", "opactiy")),
        (LOSS, "return known['rgb'].mean()", ("sky.py, line 11", "KeyError", "rgb")),
        (LOSS, "return seen.opacity", ("sky.py", "'Mine'", "shape (8,)", ".mean()")),
        (LOSS, "return 0.0", ("sky.py", "'Mine'", "float")),
        (QUERY, "return scene.unseen_rays(8, generator, 'sideways')", ("sky.py, line 8", "sideways")),
        (QUERY, "return scene.unseen_rays(8, generator).rays", ("sky.py", "'Mine'", "Rays", "Query")),
        (QUERY, "return scene.sky_rays(8)", ("sky.py, line 8", "sky_rays")),
    ],
)
def test_a_mistake_in_a_users_prior_shows_its_line(line: str, instead: str, fragments: tuple[str, ...], rayprior: Cli):
    Path("sky.py").write_text(PRIOR.replace(line, instead))
    status, _, err = rayprior(*QUICK, "--prior", "sky.py:Mine", "--out", "runs/a")
    assert status == 2, err
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in err
    Path("sky.py").write_text(PRIOR)
    assert rayprior(*QUICK, "--prior", "sky.py:Mine", "--out", "runs/a")[0] == 0  # mended, the same words go on


# -- 1 a fault of ours, 130 interrupted --------------------------------------------------------------------------------


def test_a_fault_is_ours(rayprior: Cli, monkeypatch: pytest.MonkeyPatch):
    def broken() -> None:
        raise RuntimeError("the table fell down")

    monkeypatch.setattr("rayprior.verbs.lists.show_methods", broken)
    status, _, err = rayprior("methods")
    assert status == 1
    assert "the table fell down" in err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("rayprior: this is a fault of ours")


def test_a_fault_inside_a_step_is_ours_too(rayprior: Cli, monkeypatch: pytest.MonkeyPatch):
    def broken(self: object, seen: object, known: object) -> None:
        raise RuntimeError("a sign is wrong")

    monkeypatch.setattr("rayprior.priors.distortion.Distortion.loss", broken)
    assert rayprior(*QUICK)[0] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_the_state(number: int, rayprior: Cli, monkeypatch: pytest.MonkeyPatch):
    taken = FitScene.step
    count = 0

    def step(self: FitScene) -> None:
        nonlocal count
        taken(self)
        count += 1
        if count == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(FitScene, "step", step)
    status, _, err = rayprior(*QUICK[:-1], "6", "--out", "runs/a")
    assert status == 130
    assert err == "rayprior: interrupted at step 3; go on with: rayprior train --resume runs/a\n"
    assert load_run("runs/a").latest == 3
    assert rayprior("train", "--resume", "runs/a")[0] == 0
    assert load_run("runs/a").latest == 6


def test_an_interrupt_before_training(rayprior: Cli, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rayprior.verbs.train.load_scene", interrupted)
    status, _, err = rayprior(*QUICK, "--out", "runs/a")
    assert (status, err) == (130, "rayprior: interrupted\n")
    assert not Path("runs").exists()

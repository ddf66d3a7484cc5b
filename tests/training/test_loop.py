"""Training goes on from wherever it was stopped as if it had not been: to the same bits, Ctrl-C or kill -9."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule
from rayprior.methods import grid, nerf
from rayprior.priors.term import Prior
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.budget import Budget
from rayprior.training.fit import fit, go_on
from rayprior.training.loop import Progress
from rayprior.training.recipe import Adam, Photo, Recipe
from rayprior.training.run import Run

STEPS = 60
SCENE = synthetic_scene("shapes", size=24, views=8, test_views=1, supersample=1)
RECIPES = {
    "grid": replace(
        grid,
        field=Grid(levels=4, coarsest=4, finest=32, log2_entries=10),
        sampler=DensityGrid(resolution=12, bins=32, samples=8, test_samples=8, refresh_every=8),
        photo=Photo(rays=64),
    ),
    "nerf": replace(
        nerf,
        field=Mlp(depth=2, width=16, skip=0, octaves=3, density="relu", noise_std=Schedule(((0, 1.0), (40, 0.0)))),
        sampler=CoarseField(coarse=6, fine=6),
        space=Space("free"),
        photo=Photo(rays=32, crop=Schedule(((0, 0.5), (30, 1.0))), one_picture=True),
        optimiser=Adam(lr=Schedule(((0, 3e-2), (60, 3e-3)), shape="log")),
    ),
}


@dataclass(frozen=True)
class Poison(Prior):
    """Not a number where `below` is more than rgb can be."""

    below: float | Schedule = -1.0

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        assert isinstance(self.below, float)
        return (seen.rgb.mean() - self.below).sqrt()


def nobody(progress: Progress) -> None:
    """Watches nothing."""


def trained(recipe: Recipe, out: Path, watch: Callable[[Progress], None] = nobody, steps: int = STEPS, **more) -> Run:
    return fit(recipe, SCENE, steps=steps, out=out, seed=3, threads=1, device="cpu", watch=watch, **more)


def stop_at(step: int, how: signal.Signals) -> Callable[[Progress], None]:
    """A Ctrl-C, or the system's polite request, just after this step."""

    def watch(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), how)

    return watch


def without_times(value: Any) -> Any:
    """Log rows and states but for what clocks said."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key != "seconds"}
    return [without_times(item) for item in value] if isinstance(value, list | tuple) else value


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, tensors inside dicts and lists too."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def assert_equal_runs(a: Run, b: Run) -> None:
    """Weights by their bytes; optimiser, the rest of the state and the log by their values."""
    assert a.latest == b.latest
    assert a.latest is not None
    one, two = (run.checkpoint_folder(run.latest or 0) for run in (a, b))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    states = [without_times(torch.load(folder / "state.pt", weights_only=True)) for folder in (one, two)]
    assert states[0]["state"]["task"]["optimiser"]["state"]
    assert same(*states)
    rows = [without_times(run.read_log()) for run in (a, b)]
    assert rows[0][-1]["step"] == a.latest
    assert rows[0] == rows[1]


@pytest.fixture(scope="module", params=RECIPES)
def whole(request, tmp_path_factory) -> Run:
    """A run that nobody interrupts."""
    return trained(RECIPES[request.param], tmp_path_factory.mktemp("whole") / request.param)


# -- interrupted and resumed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stops", "how"),
    [((23,), signal.SIGINT), ((1, 24, 59), signal.SIGTERM), ((60,), signal.SIGINT)],
    ids=["once", "often", "at-the-end"],
)
def test_an_interrupted_run_ends_as_the_whole_one(whole, stops, how, tmp_path):
    """Between checkpoints, at a refresh of the density grid, after the first step and before the last."""
    with pytest.raises(KeyboardInterrupt):
        trained(whole.recipe, tmp_path / "run", stop_at(stops[0], how))
    for here, following in zip(stops, (*stops[1:], None), strict=True):
        run = Run.open(tmp_path / "run")
        assert run.latest == here  # what was done is kept
        if following is None:
            go_on(run, SCENE)
        else:
            with pytest.raises(KeyboardInterrupt):
                go_on(run, SCENE, watch=stop_at(following, how))
    assert_equal_runs(Run.open(tmp_path / "run"), whole)


def test_resumed_from_an_old_checkpoint_the_log_is_cut(whole, tmp_path):
    """As after a kill -9: rows past the checkpoint are written again, not twice."""
    with pytest.raises(KeyboardInterrupt):
        trained(whole.recipe, tmp_path / "run", stop_at(17, signal.SIGINT))
    run = Run.open(tmp_path / "run")
    with run.log_path.open("a") as file:
        file.write('{"step": 18, "seconds": 1.0, "psnr": 0.0}\n{"step": 19, "se')
    assert_equal_runs(go_on(run, SCENE), whole)


def test_another_seed_is_another_run(whole, tmp_path):
    """That equality above means something."""
    other = fit(whole.recipe, SCENE, steps=STEPS, out=tmp_path / "other", seed=4, threads=1, device="cpu")
    with pytest.raises(AssertionError):
        assert_equal_runs(other, whole)


def test_a_finished_run_has_nothing_to_do(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*") if path.name != "log.jsonl"}
    rows = whole.read_log()
    steps: list[int] = []
    go_on(whole, SCENE, watch=lambda progress: steps.append(progress.step))
    assert not steps
    assert whole.read_log() == rows
    assert {path: path.stat().st_mtime_ns for path in before if path.is_file()} == {
        path: at for path, at in before.items() if path.is_file()
    }


def test_a_larger_budget_goes_on(tmp_path):
    """Schedules stay at their last value: they follow the budget that the run began with."""
    run = trained(RECIPES["grid"], tmp_path / "run", steps=20)
    go_on(run.extend(Budget(30)), SCENE)
    run = Run.open(tmp_path / "run")
    assert run.latest == 30
    state = torch.load(run.checkpoint_folder(30) / "state.pt", weights_only=True)["state"]["task"]["optimiser"]
    rates = sorted(group["lr"] for group in state["param_groups"])
    assert rates == pytest.approx([3e-4, 3e-3])


# -- what a run does on its way ----------------------------------------------------------------------------------------


def test_checkpoints_stand_at_every_tenth(tmp_path, monkeypatch):
    saved: list[int] = []
    save = Run.save_checkpoint

    def watched(self: Run, step: int, *rest: Any) -> None:
        saved.append(step)
        save(self, step, *rest)

    monkeypatch.setattr(Run, "save_checkpoint", watched)
    trained(RECIPES["grid"], tmp_path / "run")
    assert saved == list(range(0, STEPS + 1, STEPS // 10))


def test_a_run_learns_and_says_so(whole):
    rows = whole.read_log()
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["psnr"] > rows[0]["psnr"] + 1
    assert all(row["losses"].keys() == whole.recipe.terms.keys() for row in rows)
    assert all(row["rays"] == {"photo": whole.recipe.photo.rays} for row in rows)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


def test_the_last_step_is_logged(tmp_path):
    """Where the lines are many steps apart too."""
    rows = trained(RECIPES["grid"], tmp_path / "run", steps=401).read_log()
    assert [row["step"] for row in rows[:2]] == [2, 4]
    assert rows[-1]["step"] == 401


def test_snapshots_are_early_and_progress_is_told(tmp_path):
    told: list[Progress] = []
    mirrored: list[Run] = []
    run = trained(RECIPES["grid"], tmp_path / "run", told.append, snapshots=3, events=mirrored.append)
    assert run.snapshots == [7, 27, 60]  # shares 1/9, 4/9, 1
    assert mirrored == [run] * 50
    assert [progress.step for progress in told] == list(range(1, STEPS + 1))
    assert [progress.share for progress in told] == pytest.approx([step / STEPS for step in range(1, STEPS + 1)])
    assert told[-1].seconds_left == 0
    assert told[-1].rays_per_second == pytest.approx(64 * STEPS / told[-1].seconds)


def test_a_budget_in_seconds_ends(tmp_path):
    """It counts the loop's own time: a slow onlooker costs nothing. Schedules follow it to their end."""

    def slow(progress: Progress) -> None:
        if progress.step == 1:
            time.sleep(0.5)

    run = fit(RECIPES["grid"], SCENE, seconds=0.4, out=tmp_path / "run", threads=1, device="cpu", watch=slow)
    last = run.read_log()[-1]
    assert last["step"] == run.latest
    assert last["step"] > 5
    assert 0.4 <= last["seconds"] < 0.9
    state = torch.load(run.checkpoint_folder(run.latest or 0) / "state.pt", weights_only=True)["state"]
    assert min(group["lr"] for group in state["task"]["optimiser"]["param_groups"]) < 4e-4


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_named_and_the_state_saved(tmp_path):
    poison = Poison(below=Schedule(((0, -1.0), (9, -1.0), (10, 2.0))))
    recipe = replace(RECIPES["grid"], terms={**RECIPES["grid"].terms, "poison": poison})
    with pytest.raises(UserError) as error:
        trained(recipe, tmp_path / "run")
    assert str(error.value).startswith("step 10: the loss of 'poison' (nan) is not finite")
    assert str(tmp_path / "run") in str(error.value)
    run = Run.open(tmp_path / "run")
    assert run.latest == 10
    assert [row["step"] for row in run.read_log()] == list(range(1, 11))
    assert all(value.isfinite().all() for value in run.model.state_dict().values())


def test_an_infinite_weight_is_named_too(tmp_path):
    """And of several terms only the one that is to blame."""
    terms = RECIPES["grid"].terms
    blown = replace(terms["distortion"], weight=Schedule(((0, 1.0), (4, 1.0), (5, 1e300))))
    with pytest.raises(UserError, match=r"step 5: the loss of 'distortion' \(inf\)") as error:
        trained(replace(RECIPES["grid"], terms={**terms, "distortion": blown}), tmp_path / "run")
    assert "photometric" not in str(error.value)


# -- kill -9 -----------------------------------------------------------------------------------------------------------

KILLS, LONG = 10, 600
COMMAND = [sys.executable, "-m", "rayprior.cli", "train"]
NEW = ["grid", "synthetic:shapes", "--downscale", "4", "--steps", str(LONG), "--seed", "3", "--threads", "1"]
SMALL = ["field.log2_entries=12", "field.levels=4", "sampler.resolution=32", "photo.rays=128"]


def started(arguments: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(arguments: Sequence[str]) -> None:
    process = started(arguments)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


def kill_when(process: subprocess.Popen[str], moment: Callable[[], bool], patience: float = 120) -> None:
    """kill -9 as soon as the moment has come; an error where the training ends before it."""
    until = time.monotonic() + patience
    while not moment():
        assert process.poll() is None, f"it ended too soon:\n{process.communicate()[0]}"
        assert time.monotonic() < until, "the moment never came"
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def logged(run: Path) -> int:
    """The last step that the log has a whole line of; 0 before there is one."""
    try:
        lines = (run / "log.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0


def writing(run: Path) -> bool:
    """Whether a checkpoint is being written just now."""
    try:
        return any(name.endswith(".tmp") for name in os.listdir(run / "checkpoints"))
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_killed_ten_times_the_run_ends_as_the_whole_one(tmp_path):
    """The real command line, killed at random steps and moments; every third time while a checkpoint is written."""
    settings = [word for value in SMALL for word in ("--set", value)]
    finished([*NEW, *settings, "--out", str(tmp_path / "whole")])
    run, chance = tmp_path / "killed", random.Random(0)
    arguments = [*NEW, *settings, "--out", str(run)]
    for count, step in enumerate(sorted(chance.sample(range(2, LONG - 70), KILLS))):
        in_writing = count % 3 == 0
        kill_when(started(arguments), lambda: logged(run) >= step and (writing(run) or not in_writing))  # noqa: B023
        arguments = ["--resume", str(run)]
    finished(arguments)
    assert_equal_runs(Run.open(run), Run.open(tmp_path / "whole"))

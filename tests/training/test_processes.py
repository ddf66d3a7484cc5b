"""Several processes train as one with the same batch; the first alone writes, and any number goes on from there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from families import balls
from rayprior.errors import UserError
from rayprior.fields.codes import Codes
from rayprior.fields.scene_function import SceneFunction
from rayprior.methods import METHODS
from rayprior.networks.encoder import Encoder
from rayprior.networks.refinement import Refinement
from rayprior.priors.spec import parse_priors
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.inference import Inference
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training import processes
from rayprior.training.fit import fit, go_on
from rayprior.training.loop import Progress
from rayprior.training.recipe import Episodes, Photo, Recipe
from rayprior.training.run import Run

STEPS, KILLED = 10, 5
BALLS = balls(size=8)
RECIPE = replace(
    METHODS["nerf-vae"],
    field=SceneFunction(width=8, octaves=2, view_octaves=1),
    sampler=CoarseField(coarse=6, fine=6),
    terms={**METHODS["nerf-vae"].terms, **parse_priors(("entropy:rays=14,per=rays",))},
    codes=Codes(latent=4),
    inference=Inference(Encoder(side=4, hidden=8), Refinement(hidden=8), refinements=1, rays=6),
    episodes=Episodes(scenes=5, accumulate=2),
    photo=Photo(rays=30),
)


def trained(out: Path, recipe: Recipe = RECIPE, watch: Callable[[Progress], None] = lambda now: None) -> Run:
    return fit(recipe, BALLS, steps=STEPS, out=out, seed=3, threads=1, device="cpu", watch=watch)


def die(now: Progress) -> None:
    """As a kill -9 in the middle of a run would; the checkpoint of this step stands."""
    if now.step == KILLED + 1:
        os._exit(9)


def work(folder: Path) -> None:
    """What each of the processes does: a whole run, then one whose first process dies."""
    run = trained(folder / "two")
    (folder / f"seen-{processes.number()}").write_text(str(run.latest))
    trained(folder / "killed", watch=die)


def launch(count: int, folder: Path) -> list[int]:
    """Start processes as torchrun does, and say how they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    tests = Path(__file__).parents[1]
    code = f"import test_processes as t; from pathlib import Path; t.work(Path({str(folder)!r}))"
    known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tests), str(tests / "training")])}
    ours = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**known, **{k: str(v) for k, v in about.items()}, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=60)[0] for process in ours]
    finally:
        for process in ours:
            process.kill()
    assert (folder / "two" / "latest").exists(), "\n".join(said)
    return [process.returncode for process in ours]


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory) -> tuple[Run, Run, Run]:
    """A run of one process; the same of two; and one of two that was killed."""
    folder = tmp_path_factory.mktemp("runs")
    ended = launch(2, folder)
    assert ended[0] == 9
    assert ended[1] != 0  # it does not wait for the dead
    assert [(folder / f"seen-{rank}").read_text() for rank in (0, 1)] == [str(STEPS)] * 2
    return trained(folder / "one"), Run.open(folder / "two"), Run.open(folder / "killed")


def weights(run: Run, step: int) -> dict[str, torch.Tensor]:
    model = run.build(step)
    run.load_weights(model, step)
    return {name: value.detach() for name, value in model.state_dict().items()}


def test_two_processes_take_the_steps_of_one(one_and_two):
    """Every step's losses, error and rays, though scenes, parts and a prior's own rays are shared unevenly."""
    one, two, _ = one_and_two
    rows = [run.read_log() for run in (one, two)]
    assert len(rows[0]) == len(rows[1]) == STEPS
    for a, b in zip(*rows, strict=True):
        assert a["rays"] == b["rays"] == {"photo": 30, "entropy": 14}
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-5, abs=1e-5)
        assert a["psnr"] == pytest.approx(b["psnr"], abs=1e-3)
    for name, value in weights(one, STEPS).items():
        torch.testing.assert_close(value, weights(two, STEPS)[name], rtol=1e-3, atol=1e-4)


def test_killed_and_resumed_in_one_process(one_and_two, tmp_path):
    """What was saved is there to the bit, and the steps after it are those of the whole run."""
    _, two, killed = one_and_two
    assert killed.latest == KILLED + 1 or killed.latest == KILLED
    step = killed.latest
    saved = weights(killed, step)
    seen: list[dict[str, torch.Tensor]] = []
    load = Run.load_checkpoint

    def watched(self, model, *rest):
        found = load(self, model, *rest)
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "load_checkpoint", watched)
        go_on(killed, BALLS)
    assert seen[0].keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in seen[0].items())
    for a, b in zip(killed.read_log(), two.read_log(), strict=True):
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-5, abs=1e-5)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_one_scene_is_fitted_in_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    scene = synthetic_scene("shapes", size=24, views=4, test_views=1, supersample=1)
    with pytest.raises(UserError, match="recipe 'grid' trains in one process, and 2 were started; leave torchrun out"):
        fit(METHODS["grid"], scene, steps=2, out=tmp_path / "run")


def test_more_processes_than_scenes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"5 scenes a step are too few for 3 processes with 2 parts each"):
        trained(tmp_path / "run")


def test_one_process_adds_nothing():
    values = torch.ones(3)
    assert processes.added(values) is values
    assert processes.largest(2.5) == 2.5
    assert processes.first()
    assert (processes.count(), processes.number()) == (1, 0)
    assert processes.meet(torch.device("cpu")) == torch.device("cpu")

"""`rayprior sample`: scenes of the prior, and the way between two inferred ones; every mistake in one message."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.trained_family import family_folder, family_run

from rayprior.evaluation.export import read_picture

Cli = Callable[..., tuple[int, str, str]]
ONE = ("--threads", "1")


@pytest.fixture
def house(rayprior: Cli) -> Cli:
    """With a run, and no family: what is sampled needs none."""
    shutil.copytree(family_run(lr=5e-3), "trained")  # fast enough that scenes differ by more than 8 bits hide
    return rayprior


def test_new_scenes(house: Cli):
    status, out, err = house("sample", "trained", "--n", "3", "--frames", "2", "--out", "new", *ONE)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "new/samples.png"
    wanted = ["000.png", "000.webp", "001.png", "001.webp", "002.png", "002.webp", "samples.png"]
    assert sorted(file.name for file in Path("new").iterdir()) == wanted
    pictures = [read_picture(Path(f"new/00{number}.png")) for number in range(3)]
    assert all(picture.shape == (16, 16, 3) for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])
    with Image.open("new/000.webp") as film:
        assert getattr(film, "n_frames", 1) == 2


def test_a_seed_gives_the_same_scenes_and_a_size_larger_pictures(house: Cli):
    for name, more in (("a", ()), ("b", ()), ("c", ("--seed", "1")), ("d", ("--size", "24"))):
        status, _, err = house("sample", "trained", "--n", "1", "--frames", "1", "--out", name, *more, *ONE)
        assert (status, err) == (0, "")
    a, b, c, d = (read_picture(Path(name) / "000.png") for name in "abcd")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert d.shape == (24, 24, 3)


def test_from_one_inferred_scene_to_another(house: Cli):
    for name, scene in (("a", "7@0"), ("b", "8@0,1")):
        words = ("infer", "trained", f"{family_folder()}/{scene}", "--samples", "0", "--out", name)
        assert house(*words, *ONE)[0] == 0
    status, out, err = house("sample", "trained", "--between", "a", "b", "--frames", "5", "--out", "way", *ONE)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "way/between.webp"
    with Image.open("way/between.webp") as film:
        assert film.size == (128, 128)
    assert read_picture(Path("way/between.png")).shape == (128, 5 * 128, 3)


def test_without_a_prior_there_is_nothing_to_draw_from(house: Cli):
    shutil.copytree(family_run(beta=0.0), "autoencoder")
    status, _, err = house("sample", "autoencoder", "--n", "1", "--out", "new", *ONE)
    assert status == 2
    assert "autoencoder: was trained with beta = 0" in err
    assert not Path("new").exists()


MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "none": ("sample trained --n 0 --out new", ("--n 0", "at least 1")),
    "no frame": ("sample trained --frames 0 --out new", ("--frames 0", "at least 1")),
    "a film and scenes": ("sample trained --n 2 --between a b --out new", ("--between with --n", "leave one out")),
    "occupied": ("sample trained --out my-capture", ("my-capture: is there already", "another --out")),
    "not inferred": ("sample trained --between my-capture my-capture --out new", ("posterior.json", "rayprior infer")),
    "no such run": ("sample nowhere --out new", ("nowhere: no such folder",)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(house: Cli, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("rayprior.verbs.infer.DEMO_FOLDER", tmp_path / "nowhere")
    command, words = MISTAKES[name]
    status, _, err = house(*command.split(), *ONE)
    assert status == 2, err
    for word in words:
        assert word in err


def test_latents_of_another_model_are_refused(house: Cli):
    shutil.copytree(family_run(beta=0.0), "other")
    scene = f"{family_folder()}/7@0"
    for name, run in (("a", "trained"), ("b", "other")):
        assert house("infer", run, scene, "--samples", "0", "--out", name, *ONE)[0] == 0
    status, _, err = house("sample", "trained", "--between", "a", "b", "--out", "way", *ONE)
    assert status == 2
    assert "b: was inferred by another model" in err

"""`rayprior family make` at a terminal: what it prints and writes, that it goes on, each mistake in one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rayprior.scenes.family import open_family

Cli = Callable[..., tuple[int, str, str]]
MAKE = ("family", "make", "rooms", "--scenes", "20", "--views", "3", "--size", "8")


def test_make(rayprior: Cli):
    status, out, err = rayprior(*MAKE, "--seed", "4", "--test", "5", "--out", "families/rooms")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("20 scenes made in ")
    assert lines[1] == "rooms: 20 scenes of 3 views, 8x8; 15 train, 5 test"
    assert lines[-1] == "families/rooms"
    family = open_family("families/rooms")
    assert (len(family), family.views, family.size, len(family.split.test)) == (20, 3, (8, 8), 5)


def test_the_same_command_goes_on(rayprior: Cli):
    rayprior(*MAKE, "--out", "f")
    Path("f/poses-0001.npy").unlink()
    Path("f/pictures-0000.npy").write_bytes(b"")
    out = rayprior(*MAKE, "--out", "f")[1]
    assert "shards that were damaged are made again: 0" in out
    assert "20 scenes made in" in out
    assert rayprior(*MAKE, "--out", "f")[1].splitlines()[0] == "0 scenes made, 20 were there already"


def test_shift_and_exposure_arrive(rayprior: Cli):
    shifts = ("--shift", "height=0.3,roll=10", "--shift", "yaw=20", "--exposure", "0.2")
    out = rayprior(*MAKE, *shifts, "--out", "f")[1]
    assert "; height +0.3; roll +10; yaw +20" in out
    index = json.loads(Path("f/index.json").read_text())
    assert index["shift"] == {"height": 0.3, "roll": 10.0, "yaw": 20.0}
    assert index["exposure"] == 0.2


def test_every_verb_that_takes_a_scene_takes_one_of_a_family(rayprior: Cli):
    rayprior(*MAKE, "--out", "f")
    assert "scene 7 of 20, family rooms" in rayprior("inspect", "f/7")[1]
    train = ("train", "grid", "f/7@0,2", "--steps", "3", "--out", "runs/a")
    status, _, err = rayprior(*train)
    assert (status, err) == (0, "")
    status, _, err = rayprior("eval", "runs/a", "--lpips", "none")
    assert (status, err) == (0, "")
    metrics = json.loads(Path("runs/a/eval/000003/metrics.json").read_text())
    assert [view["name"] for view in metrics["views"]] == ["001"]


MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown kind": ("make romos --out f", ("'romos'", "did you mean 'rooms'")),
    "unknown action": ("mkae rooms --out f", ("mkae",)),
    "no out": ("make rooms", ("--out",)),
    "unknown shift": ("make rooms --out f --shift tilt=3", ("'tilt'", "height", "yaw")),
    "a shift without a number": ("make rooms --out f --shift yaw", ("--shift yaw", "yaw=20")),
    "a shift below the ground": ("make rooms --out f --shift height=-2", ("below the ground", "smaller shift")),
    "too few views": ("make rooms --out f --views 2", ("--views 2", "expected 3")),
    "too small": ("make rooms --out f --size 2", ("--size 2", "expected 8 to 1024")),
    "no scene": ("make rooms --out f --scenes 0", ("--scenes 0",)),
    "all held out": ("make rooms --out f --scenes 10 --test 10", ("--test 10", "expected 0 to 9")),
    "no worker": ("make rooms --out f --workers 0", ("--workers 0", "at least 1")),
    "out holds something else": ("make rooms --out my-capture", ("my-capture", "something else than a family")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message(mistake: str, rayprior: Cli):
    typed, fragments = MISTAKES[mistake]
    before = set(Path().rglob("*"))
    status, _, err = rayprior("family", *typed.split())
    assert status == 2, err
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in err
    assert set(Path().rglob("*")) == before, "a mistake leaves nothing behind"


@pytest.mark.usefixtures("quick_house")
def test_other_mistakes(rayprior: Cli):
    rayprior(*MAKE, "--out", "f")
    for words, fragments in (
        ((*MAKE, "--seed", "2", "--out", "f"), ("f: holds a family with seed 0, and 2 is asked for",)),
        (("inspect", "f"), ("a family of 20 scenes", "f/0 to f/19")),
        (("inspect", "f/20"), ("no scene 20", "0 to 19")),
        (("train", "grid", "f/3@0,1,2"), ("leaves no test view",)),
    ):
        status, _, err = rayprior(*words)
        assert status == 2, err
        for fragment in fragments:
            assert fragment in err

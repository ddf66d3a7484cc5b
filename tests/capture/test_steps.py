"""Steps: skipped while nothing has changed, whole or not there, and a kill loses no more than the step it came in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rayprior.capture.steps import RECORD, Step, facts_of_file, remove_unfinished, step
from rayprior.errors import UserError


def write(text: str, result: Mapping[str, Any] | None = None):
    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "file").write_text(text)
        return result or {"length": len(text)}

    return make


def chain(root: Path, size: int = 1, word: str = "b") -> list[Step]:
    first = step(root, "first", {"size": size}, (), write("a" * size))
    return [first, step(root, "second", {"word": word}, (first,), write(word))]


def test_made_once_and_then_read(tmp_path: Path):
    first, second = chain(tmp_path)
    assert first.fresh
    assert second.fresh
    assert (second.folder / "file").read_text() == "b"
    again, after = chain(tmp_path)
    assert not again.fresh
    assert not after.fresh
    assert again.result == {"length": 1}
    assert again.digest == first.digest


def test_an_option_makes_anew_what_comes_after_it(tmp_path: Path):
    chain(tmp_path)
    first, second = chain(tmp_path, word="c")
    assert not first.fresh
    assert second.fresh
    first, second = chain(tmp_path, size=2, word="c")
    assert first.fresh
    assert second.fresh


def test_what_fails_leaves_nothing_that_counts(tmp_path: Path):
    def fail(folder: Path) -> Mapping[str, Any]:
        (folder / "half").write_text("...")
        raise UserError("no")

    with pytest.raises(UserError):
        step(tmp_path, "first", {}, (), fail)
    assert not (tmp_path / "first").exists()
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_record_is_made_anew(tmp_path: Path):
    chain(tmp_path)
    (tmp_path / "first" / RECORD).write_text('{"digest": ')
    first, second = chain(tmp_path)
    assert first.fresh
    assert not second.fresh, "the second was made from the same"


def test_facts_of_a_file_change_with_it(tmp_path: Path):
    (tmp_path / "f").write_text("a")
    before = facts_of_file(tmp_path / "f")
    os.utime(tmp_path / "f", (1, 1))
    assert facts_of_file(tmp_path / "f") != before
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert facts_of_file(tmp_path / "link") == ["link"]


def test_a_place_that_is_a_file_is_said(tmp_path: Path):
    (tmp_path / "steps").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        step(tmp_path / "steps", "first", {}, (), write("a"))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_steps import step, write
def make(folder):
    (folder / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
makes = {"first": write("a"), "second": write("b"), sys.argv[2]: make}
first = step(Path(sys.argv[1]), "first", {"size": 1}, (), makes["first"])
step(Path(sys.argv[1]), "second", {"word": "b"}, (first,), makes["second"])
"""


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_kill_loses_the_step_that_it_came_in(tmp_path: Path, name: str):
    command = [sys.executable, "-c", KILLED, str(tmp_path), name, str(Path(__file__).parent)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / name).exists()
    first, second = chain(tmp_path)
    assert first.fresh == (name == "first")
    assert second.fresh
    assert (first.folder / "file").read_text() == "a"
    assert (second.folder / "file").read_text() == "b"

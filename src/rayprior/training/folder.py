"""Folder: checkpoints and the log of a training, whatever is trained. Written whole or not at all, and read back with
every mistake named.

log.jsonl     one row a line      latest   the name of the checkpoint to go on from
checkpoints/step-000400/{model.safetensors,state.pt}     snapshots/   weights alone
"""

from __future__ import annotations

import io
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rayprior.errors import UserError
from rayprior.files import append_line, finish_replacing, remove, write_atomically, write_folder_atomically, write_text
from rayprior.plain import parse_json
from rayprior.training.recipe_json import FORMAT, checked_format

MODEL, STATE = "model.safetensors", "state.pt"
KEPT = 2  # checkpoints: the latest, and the one before it in case that is damaged


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stood: its step, and what else it goes on from (optimiser, seconds, ...)."""

    step: int
    state: dict[str, Any]


class Folder(ABC):
    """What a training loop writes and goes on from. Every method that reads raises UserError naming the file, what is
    wrong, what to do."""

    path: Path

    @property
    @abstractmethod
    def digest(self) -> str:
        """What is trained, how and from what, as a hash: checkpoints carry it, and are of use to nothing else."""

    @property
    @abstractmethod
    def described_in(self) -> str:
        """The name of the file that says what the digest is of."""

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> list[int]:
        """The steps at which a checkpoint stands, ascending."""
        folders = (self.path / "checkpoints").glob("step-*")
        return sorted(int(m[1]) for f in folders if (m := re.fullmatch(r"step-(\d+)", f.name)))

    @property
    def latest(self) -> int | None:
        """The step to go on from; None before the first checkpoint."""
        pointer = self.path / "latest"
        if not pointer.exists():
            return None
        try:
            text = pointer.read_text().strip()
        except (OSError, UnicodeDecodeError):
            text = ""
        match = re.fullmatch(r"step-(\d+)", text)
        if match:
            finish_replacing(self.checkpoint_folder(int(match[1])))
        if not match or int(match[1]) not in self.checkpoints:
            there = ", ".join(_step_name(step) for step in self.checkpoints) or "none"
            raise UserError(
                f"{pointer}: says {text!r}, which is no checkpoint of this run; there are: {there}. "
                "Write the name of one of them into that file"
            )
        return int(match[1])

    def checkpoint_folder(self, step: int) -> Path:
        return self.path / "checkpoints" / _step_name(step)

    def save_checkpoint(self, step: int, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Weights and state at once, then `latest`. The one before it stays, older ones and later ones go.

        `state` holds tensors, numbers, texts, None, and dicts, lists and tuples of these: it is never unpickled.
        """
        buffer = io.BytesIO()  # in memory first: torch's own writer does not say 'disk full'
        torch.save({"format": FORMAT, "recipe": self.digest, "step": step, "state": dict(state)}, buffer)
        folder = self.checkpoint_folder(step)
        write_folder_atomically(folder, {MODEL: self._weights(model), STATE: buffer.getvalue()})
        write_text(self.path / "latest", _step_name(step) + "\n")
        kept = [other for other in self.checkpoints if other <= step][-KEPT:]
        for other in folder.parent.iterdir():  # also what a kill left half-written
            if other.name not in map(_step_name, kept):
                remove(other)

    def load_checkpoint(self, model: nn.Module, step: int | None = None) -> Checkpoint:
        """Fill the model's weights and return the rest, of the latest checkpoint or of the one at `step`."""
        step = self._step(step)
        state = self._read_state(step)
        self.load_weights(model, step)
        return Checkpoint(step, state)

    def load_weights(self, model: nn.Module, step: int | None = None) -> int:
        """Fill the model's weights alone, and return their step."""
        step = self._step(step)
        self.fill(model, self.checkpoint_folder(step) / MODEL)
        return step

    def save_snapshot(self, step: int, model: nn.Module) -> None:
        """Weights alone, kept for good: pictures of how the training went."""
        content = self._weights(model)
        write_atomically(self.snapshot_path(step), lambda file: file.write(content))

    def snapshot_path(self, step: int) -> Path:
        """Where those of a step stand."""
        return self.path / "snapshots" / f"{_step_name(step)}.safetensors"

    @property
    def snapshots(self) -> list[int]:
        files = (self.path / "snapshots").glob("step-*.safetensors")
        return sorted(int(m[1]) for f in files if (m := re.fullmatch(r"step-(\d+)", f.stem)))

    @property
    def metrics_path(self) -> Path:
        """Where numbers of the latest checkpoint stand."""
        return self.path / "eval" / f"{self.latest or 0:06d}" / "metrics.json"

    # -- log -----------------------------------------------------------------------------------------------------------

    @property
    def log_path(self) -> Path:
        return self.path / "log.jsonl"

    def log(self, row: Mapping[str, Any]) -> None:
        """One row more; it has its `step`. Numbers that are not finite are written as null."""
        if type(row.get("step")) is not int:
            raise ValueError(f"a row of the log has its step, got {dict(row)}")
        append_line(self.log_path, json.dumps(_finite(dict(row)), allow_nan=False))

    def read_log(self) -> list[dict[str, Any]]:
        """All rows. A last line without its end, left by a kill, is not a row."""
        return [row for _, row in self._log_lines()]

    def cut_log(self, step: int) -> None:
        """Drop the rows past this step: a resumed training writes them again."""
        kept = [line for line, row in self._log_lines() if row["step"] <= step]
        write_text(self.log_path, "".join(line + "\n" for line in kept))

    # ------------------------------------------------------------------------------------------------------------------

    def _weights(self, model: nn.Module) -> bytes:
        """safetensors of weights and recipe alone, the same bytes for the same of both."""
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
        about = json.dumps({"format": FORMAT, "recipe": self.digest})
        return safetensors.torch.save(tensors, {"rayprior": about})  # one key: several are written in a random order

    def _step(self, step: int | None) -> int:
        found = self.latest if step is None else step
        if found is None:
            raise UserError(f"{self.path}: this run has no checkpoint yet; train it anew with --out {self.path}")
        if found not in self.checkpoints:
            there = ", ".join(str(other) for other in self.checkpoints) or "none"
            raise UserError(f"{self.path}: no checkpoint at step {found}; there are: {there}")
        return found

    def fill(self, model: nn.Module, path: Path) -> None:
        """Copy a file's weights into the model, once names, shapes and types are seen to be the model's."""
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, ValueError) as error:
            raise self._damaged(path, _reason(error)) from None
        try:
            about = parse_json(about.get("rayprior", ""), str(path))
        except UserError:
            about = None
        self._check(about, path)
        wanted = model.state_dict()
        self._compare(tensors, wanted, path)
        model.load_state_dict(tensors)

    def _read_state(self, step: int) -> dict[str, Any]:
        path = self.checkpoint_folder(step) / STATE
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle, key and runtime errors alike: nothing here is ours
            raise self._damaged(path, _reason(error)) from None
        self._check(found, path)
        if found.get("step") != step or not isinstance(found.get("state"), dict):
            raise self._damaged(path, f"it is of step {found.get('step')}")
        return found["state"]

    def _check(self, about: Any, path: Path) -> None:
        """That a checkpoint's file is ours, of a format that is known, and of this recipe."""
        if not isinstance(about, dict) or type(about.get("format")) is not int or "recipe" not in about:
            raise UserError(f"{path}: not written by rayprior; {self._advice(path)}")
        checked_format(about, str(path))
        if about["recipe"] != self.digest:
            known = self.described_in
            raise UserError(
                f"{path}: a checkpoint of another recipe (hash {str(about['recipe'])[:12]}, that of {known} is "
                f"{self.digest[:12]}); put the {known} back that this run was trained with, or start a new run"
            )

    def _compare(self, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
        wrong = [f"'{name}' is missing" for name in wanted if name not in found]
        wrong += [f"'{name}' is not of this model" for name in found if name not in wanted]
        for name in (name for name in wanted if name in found):
            (a, b) = (f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in (found[name], wanted[name]))
            if a != b:
                wrong.append(f"'{name}' is {a}, this model's is {b}")
        if wrong:
            more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UserError(f"{path}: weights of another model: {', '.join(wrong[:3])}{more}; {self._advice(path)}")

    def _damaged(self, path: Path, reason: str) -> UserError:
        if not path.exists():
            return UserError(f"{path}: missing from this checkpoint; {self._advice(path)}")
        return UserError(f"{path}: cannot be read, is it cut short or from elsewhere? ({reason}); {self._advice(path)}")

    def _advice(self, path: Path) -> str:
        """What to do about a file of a checkpoint that is of no use."""
        others = [_step_name(s) for s in self.checkpoints if _step_name(s) not in (path.parent.name, path.stem)]
        if not others:
            return "put the file back that was there, or train anew with another --out"
        return f"go on from {others[-1]} by writing that name into {self.path / 'latest'}"

    def _log_lines(self) -> list[tuple[str, dict[str, Any]]]:
        try:
            lines = self.log_path.read_text(errors="replace").split("\n")
        except FileNotFoundError:
            return []
        rows = []
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last line's end is cut short, or empty
            where = f"{self.log_path}, line {number}"
            row = parse_json(line, where)
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise UserError(f"{where}: not a row of the log, it has no step; remove the line")
            rows.append((line, row))
        return rows


def _step_name(step: int) -> str:
    return f"step-{step:06d}"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return {key: _finite(item) for key, item in value.items()} if isinstance(value, dict) else value

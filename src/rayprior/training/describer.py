"""Describer: the folder of one training of descriptors, and what trains it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from shlex import join
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayprior.descriptors.photographs import Learned, Mode, Photographs, Source
from rayprior.errors import UserError
from rayprior.files import write_json, write_text
from rayprior.kernels.threads import keep_freed_memory, set_threads
from rayprior.networks.descriptor import DescriptorNet
from rayprior.plain import Reader, to_plain
from rayprior.training.budget import Budget
from rayprior.training.describing import KINDS, Describing, TrainDescriptors
from rayprior.training.fit import cores, device_named
from rayprior.training.folder import Folder
from rayprior.training.loop import Progress, train
from rayprior.training.recipe_json import FORMAT, checked_format, read_json
from rayprior.training.run import Conditions, versions

ABOUT = "describer.json"


@dataclass(frozen=True)
class Describer(Folder):
    """The folder of one training of descriptors.

    describer.json   what it is, what it learned from, under which conditions
    checkpoints/, latest, log.jsonl, command.txt   as in any run's folder; of the log's `psnr` see `TrainDescriptors`:
                     it is -10 log10 of the squared distance of matches in the space of descriptors
    """

    path: Path
    describing: Describing
    mode: Mode
    learned: tuple[Learned, ...]
    conditions: Conditions

    @staticmethod
    def open(path: Path) -> Describer:
        """UserError where there is none, or it is broken."""
        about = path / ABOUT
        if not about.is_file():
            found = f"there is no {ABOUT} in it" if path.is_dir() else "no such folder"
            raise UserError(f"{path}: no describer, {found}; expected the folder that rayprior describe train made")
        plain = read_json(about)
        reader = Reader(str(about), KINDS)
        if not isinstance(plain, dict):
            raise reader.error(plain, dict[str, Any], "")
        rest = checked_format(plain, str(about))[1]
        parts: dict[str, Any] = {
            "describing": Describing,
            "mode": Mode,
            "learned": tuple[Learned, ...],
            "conditions": Conditions,
        }
        for name in parts:
            if name not in rest:
                raise UserError(f"{about}: '{name}' is missing; put the file back, or train anew with another --out")
        return Describer(path, **{name: reader.read(rest[name], cls, name) for name, cls in parts.items()})

    def write(self) -> None:
        """describer.json."""
        parts = {f.name: to_plain(getattr(self, f.name), KINDS) for f in fields(self) if f.name != "path"}
        write_json(self.path / ABOUT, {"format": FORMAT, **parts, "versions": versions()})

    @property
    def digest(self) -> str:
        about = [to_plain(part, KINDS) for part in (replace(self.describing, steps=1), self.mode, self.learned)]
        return hashlib.sha256(json.dumps(about, separators=(",", ":")).encode()).hexdigest()

    @property
    def described_in(self) -> str:
        return ABOUT

    @property
    def dimension(self) -> int:
        """Of a descriptor."""
        return self.describing.net.dimension

    @property
    def step(self) -> int:
        """Of its latest checkpoint. UserError where there is none."""
        step = self.latest
        if step is None:
            raise UserError(f"{self.path}: this describer has no checkpoint yet; train it, rayprior describe train")
        return step

    @property
    def budget(self) -> Budget:
        return self.conditions.extended or self.conditions.budget

    def network(self) -> DescriptorNet:
        """The network at its latest checkpoint."""
        network = self.describing.net.build(pretrained=False).requires_grad_(False)
        self.load_weights(network, self.step)
        return network.eval()

    @cached_property
    def _network(self) -> DescriptorNet:
        return self.network()

    def describe(self, picture: Float[Tensor, "h w 3"]) -> Float[Tensor, "h w d"]:
        """Descriptors of a picture with colours in [0, 1].

        The network knows things at one scale: a picture that is about k times as large as those that it learned from is
        described at 1/k of its size, and descriptors are bilinear between those pixels.
        """
        height, width = picture.shape[:2]
        planes = picture.float().movedim(2, 0)[None]
        factor = max(1, round(max(height, width) / max(one.side for one in self.learned)))
        with torch.no_grad():
            if factor > 1:
                small = (max(1, height // factor), max(1, width // factor))
                planes = F.interpolate(planes, small, mode="area")
            found = self._network(planes)
            if factor > 1:
                found = F.interpolate(found, (height, width), mode="bilinear")
        return found[0].permute(1, 2, 0).contiguous()

    def check_dimension(self, descriptors: Float[Tensor, "... d"], where: str) -> None:
        """UserError where descriptors from elsewhere cannot be compared with this one's."""
        if descriptors.shape[-1] != self.dimension:
            raise UserError(
                f"{where}: descriptors of dimension {descriptors.shape[-1]}, and those of {self.path} have"
                f" {self.dimension}; compare descriptors of one describer alone"
            )


def train_descriptors(
    sources: Sequence[Source],
    how: Describing,
    out: Path,
    *,
    mode: Mode = "single",
    budget: Budget | None = None,
    seed: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Describer:
    """Learn descriptors from matching pixels, or go on with the describer that stands in `out`.

    mode    single: one object, one source; class: several of one kind, matched within each alone; instance: several
            that are to be told apart
    budget  None: how.steps, or that of the describer that is there; only a larger one may change
    watch   called after every step; of its `psnr` see `Describer`

    Raises UserError for whatever the user can mend; KeyboardInterrupt after an interrupt, with the state saved.
    """
    if not sources:
        raise UserError("no source is given; descriptors are learned from at least one scene and its pairs of pixels")
    photographs = [Photographs(source) for source in sources]
    of = _begun(out, how, mode, tuple(each.learned for each in photographs), budget, seed, threads, device)
    where = device_named(of.conditions.device)
    set_threads(of.conditions.threads)
    keep_freed_memory()
    task = TrainDescriptors(how, photographs, mode, of.conditions.seed, where)
    of.write()
    try:
        train(task, of, of.conditions.budget, of.budget, watch)
    except KeyboardInterrupt:
        at_step = of.latest or 0
        raise KeyboardInterrupt(f"at step {at_step:,}; go on with the same command, --out {out}") from None
    return of


def _begun(
    path: Path,
    how: Describing,
    mode: Mode,
    learned: tuple[Learned, ...],
    budget: Budget | None,
    seed: int | None,
    threads: int | None,
    device: str,
) -> Describer:
    """The describer that stands there, if it is this one; else a new one, not written yet."""
    if (path / ABOUT).is_file():
        of = Describer.open(path)
        _check_same(of, how, mode, learned)
        if seed is not None and seed != of.conditions.seed:
            raise UserError(f"{path}: this describer was begun with --seed {of.conditions.seed}; choose another --out")
        if budget is None or budget == of.budget:
            return of
        if not budget.extends(of.budget):
            raise UserError(
                f"{path}: this describer's budget is {of.budget}, {budget} was asked for; only a larger one of the same"
                " unit may change. Choose another --out for a shorter training"
            )
        return replace(of, conditions=replace(of.conditions, extended=budget))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: holds something else than a describer; choose another --out, or empty it")
    conditions = Conditions(budget or Budget(how.steps), seed or 0, threads or cores(), str(device_named(device)))
    of = Describer(path, how, mode, learned, conditions)
    write_text(path / "command.txt", join(sys.argv) + "\n")
    return of


def _check_same(of: Describer, how: Describing, mode: Mode, learned: tuple[Learned, ...]) -> None:
    """UserError naming what is another in the describer that stands there."""
    if how.net.dimension != of.dimension:
        raise UserError(
            f"{of.path}: holds descriptors of dimension {of.dimension}, and {how.net.dimension} is asked for; choose"
            " another --out"
        )
    pairs = [(f.name, getattr(of.describing, f.name), getattr(how, f.name)) for f in fields(Describing)]
    for name, mine, asked in [*pairs, ("mode", of.mode, mode)]:
        if mine != asked and name != "steps":
            shown = [json.dumps(to_plain(value, KINDS)) for value in (mine, asked)]
            raise UserError(
                f"{of.path}: holds a describer with {name}={shown[0]}, and {shown[1]} is asked for; choose another"
                " --out, or remove the folder"
            )
    if of.learned != learned:
        before, now = (
            ", ".join(f"{one.scene} ({one.pairs:,} pairs, {one.digest[:8]})" for one in each)
            for each in (of.learned, learned)
        )
        raise UserError(
            f"{of.path}: learned from {before}, and {now} is given; put the pairs and pictures back as they were, or"
            " choose another --out"
        )

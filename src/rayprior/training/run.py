"""Run: the folder of one training. What is in it, written whole or not at all, and read back with every mistake named.

recipe.json   the whole recipe       scene.json   how the scene was opened       system.json  seed, budget, versions
command.txt   what was typed         priors/      copies of users' files         log.jsonl    one row a line
checkpoints/step-000400/{model.safetensors,state.pt}   latest   its name         snapshots/   weights alone
"""

from __future__ import annotations

import json
import math
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rayprior.errors import UserError
from rayprior.files import remove, write_atomically, write_json, write_text
from rayprior.maths.schedules import resolve
from rayprior.networks.gqn import Gqn, GqnModel
from rayprior.plain import Reader, to_plain
from rayprior.priors.spec import UserFile, user_file
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family, open_family
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene
from rayprior.training.budget import Budget
from rayprior.training.folder import Folder
from rayprior.training.recipe import Recipe
from rayprior.training.recipe_json import (
    FORMAT,
    checked_format,
    read_json,
    read_recipe,
    recipe_hash,
    recipe_to_plain,
)

OWN = ("recipe.json", "scene.json", "command.txt", "log.jsonl", "latest", "priors", "checkpoints", "snapshots")
PACKAGES = ("rayprior", "torch", "numpy", "numba", "safetensors")
POSES_KEPT = 24  # of a family's cameras: from where its scenes are looked at without it


@dataclass(frozen=True)
class Opening:
    """How the scene was opened: `load_scene(path, **options)` opens it again; a family, `open_family(path)`.

    protocol  what numbers of it rest on; of a family its `digest`, its split by scene, and some of its cameras
    """

    path: str
    options: Mapping[str, Any]
    protocol: Mapping[str, Any]

    @staticmethod
    def of(scene: Scene | Family) -> Opening:
        if isinstance(scene, Family):
            return Opening(str(scene.path), {}, _protocol_of(scene))
        return Opening(str(scene.path), scene.opened, scene.protocol)


@dataclass(frozen=True)
class Conditions:
    """Under which a run trains. `extended` is the larger budget of a later --resume; schedules follow `budget`."""

    budget: Budget
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    extended: Budget | None = None


@dataclass(frozen=True)
class Run(Folder):
    """An existing run's folder."""

    path: Path
    recipe: Recipe
    opening: Opening
    conditions: Conditions

    @staticmethod
    def create(
        path: Path, recipe: Recipe, opening: Opening, conditions: Conditions, command: Sequence[str] = ()
    ) -> Run:
        """A new run. An existing folder must be empty, or a run without a checkpoint, which is then started anew."""
        _refuse_occupied(path)
        sources = _user_files(recipe)
        for name in OWN if path.exists() else ():
            remove(path / name)
        run = Run(path, recipe, opening, conditions)
        run._write_system()  # first: it marks the folder as a run, so that one killed here can be started anew
        for source in sources:
            write_atomically(path / "priors" / source.path.name, lambda file, text=source.text: file.write(text))
        write_text(path / "command.txt", shlex.join(command) + "\n")
        write_json(path / "scene.json", {"format": FORMAT, **to_plain(opening)})
        write_json(path / "recipe.json", recipe_to_plain(recipe))
        return run

    @staticmethod
    def open(path: Path, *, import_priors: bool = False) -> Run:
        """A run that exists. Its users' priors are imported only if asked, from its own copies, if unchanged."""
        if not is_run(path):
            found = "no such folder" if not path.exists() else "not a run, there is no system.json in it"
            raise UserError(f"{path}: {found}; expected the folder of a run that `rayprior train` made")
        for name in ("recipe.json", "scene.json"):
            if not (path / name).is_file():
                raise UserError(
                    f"{path}: {name} is missing from this run, which was interrupted at its start or lost it; "
                    f"train anew with --out {path}, or put the file back"
                )
        recipe = read_recipe(path / "recipe.json", import_priors=import_priors)
        system = _read(path / "system.json", {"versions", "machine"}, Conditions)
        return Run(path, recipe, _read(path / "scene.json", set(), Opening), system)

    @cached_property
    def recipe_hash(self) -> str:
        """What its checkpoints carry: a run keeps the hash that it was started with, in an older format too."""
        written = read_json(self.path / "recipe.json")
        return recipe_hash(self.recipe if written["format"] == FORMAT else written)

    @property
    def digest(self) -> str:
        return self.recipe_hash

    @property
    def described_in(self) -> str:
        return "recipe.json"

    @property
    def budget(self) -> Budget:
        """How long the run lasts: the larger budget of a --resume, if there was one."""
        return self.conditions.extended or self.conditions.budget

    def extend(self, budget: Budget) -> Run:
        """The same run with a larger budget, written. UserError for a smaller one or one of another unit."""
        if not budget.extends(self.budget):
            raise UserError(
                f"{self.path}: this run's budget is {self.budget}, {budget} was asked for; only a larger budget of the "
                "same unit may change on --resume. For anything else start a new run"
            )
        if budget == self.budget:
            return self
        run = replace(self, conditions=replace(self.conditions, extended=budget))
        run._write_system(self.versions)
        return run

    @property
    def of_family(self) -> bool:
        """Whether it learned from many scenes, and holds none of them."""
        return "digest" in self.opening.protocol

    def check_one_scene(self) -> None:
        """UserError for a run of a family."""
        if self.of_family:
            family = self.opening.path
            raise UserError(
                f"{self.path}: learned from the {self.opening.protocol['scenes']} scenes of {family}, and holds none of"
                f" them; infer one, as in rayprior infer {self.path} {family}/0 --views 0,1 --out DIR, and give DIR"
            )

    def reopen(self, **otherwise: Any) -> Scene:
        """The scene as it was opened, but for these options of `load_scene`.

        UserError where it has other views than when the run began: numbers would be of views that were trained on, and
        what is known of a photograph would be taken for another's. UserError for a run of a family.
        """
        self.check_one_scene()
        scene = load_scene(self.opening.path, **{**self.opening.options, **otherwise})
        for part in ("train", "test"):
            before, now = self.opening.protocol.get(part), [scene.names[i] for i in getattr(scene.split, part)]
            if before is not None and before != now:
                changed = next((name for name in [*now, *before] if (name in now) != (name in before)), now[0])
                raise UserError(
                    f"{self.path}: {self.opening.path} has other {part} views than when this run was trained"
                    f" ({len(before)} then, {len(now)} now; '{changed}' for one); put the capture back as it was, or"
                    " train anew"
                )
        return scene

    def reopen_family(self) -> Family:
        """The family as it was opened. UserError where it is another now, and for a run of one scene."""
        if not self.of_family:
            raise UserError(f"{self.path}: a run of one scene, {self.opening.path}; expected one of a family of scenes")
        family = open_family(self.opening.path)
        now = to_plain(_protocol_of(family))
        for key in ("kind", "scenes", "views", "train", "test", *(f"digest.{key}" for key in family.digest)):
            before, after = (_at(protocol, key) for protocol in (self.opening.protocol, now))
            if before != after:
                raise UserError(
                    f"{self.path}: {self.opening.path} is another family than when this run was trained: its {key} is"
                    f" {json.dumps(after)}, and was {json.dumps(before)}; put it back as it was, or train anew"
                )
        return family

    def build(self, step: int | None = None) -> Model:
        """The model of this run's recipe, its weights not yet filled. Schedules have the value that they had at `step`,
        by default at the latest checkpoint: what weights were trained with. Of a budget in seconds the log tells it."""
        recipe = self.recipe
        if isinstance(recipe.field, Gqn):
            raise UserError(
                f"{self.path}: recipe '{recipe.name}' paints pictures and has no field, so there is nothing to render;"
                " expected a run of a radiance field, such as nerf-vae"
            )
        field, sampler = resolve((recipe.field, recipe.sampler), *self.when(step))
        return Model.build(field, sampler, recipe.space, recipe.compositing, recipe.codes, recipe.inference)

    def when(self, step: int | None = None) -> tuple[int, float]:
        """That step, by default of the latest checkpoint, and the share of the budget that was then spent: what
        `resolve` asks for."""
        step, seconds = (self.latest or 0) if step is None else step, math.inf
        if self.conditions.budget.seconds is not None:
            seconds = max((row["seconds"] for row in self.read_log() if row["step"] <= step), default=math.inf)
        return step, self.conditions.budget.progress(step, seconds)

    @cached_property
    def model(self) -> Model:
        """The model at the latest checkpoint."""
        model = self.build()
        self.load_weights(model)
        return model

    @cached_property
    def painter(self) -> GqnModel:
        """What paints pictures, at the latest checkpoint: of recipes that have no field."""
        field = self.recipe.field
        assert isinstance(field, Gqn)
        assert field.size is not None
        painter = field.build(field.size)
        self.load_weights(painter)
        return painter

    @property
    def machine(self) -> str:
        """One line: processor, threads, device, torch."""
        about = read_json(self.path / "system.json")["machine"]
        where = f"{self.conditions.threads} threads" if self.conditions.device == "cpu" else self.conditions.device
        return f"{about['processor']}, {where}, torch {self.versions['torch']}"

    @property
    def versions(self) -> dict[str, str]:
        """The versions that the run was started with."""
        return read_json(self.path / "system.json")["versions"]

    def changed_versions(self) -> list[str]:
        """What is another version now ('torch 2.12.0, now 2.13.0'): bit equality on --resume is then not promised."""
        now = versions()
        return [f"{name} {old}, now {now.get(name)}" for name, old in self.versions.items() if now.get(name) != old]

    def snapshot(self, step: int) -> Model:
        """The model as it was at a step whose weights were kept."""
        model = self.build(step)
        self.fill(model, self.snapshot_path(step))
        return model

    def _write_system(self, started_with: Mapping[str, str] | None = None) -> None:
        machine = {"system": platform.platform(), "processor": _processor(), "torch_threads": torch.get_num_threads()}
        made = {"versions": dict(started_with or versions()), "machine": machine}
        write_json(self.path / "system.json", {"format": FORMAT, **to_plain(self.conditions), **made})


def load_run(path: str | Path) -> Run:
    """A finished or running training's folder; `load_run(path).model.render(rays)`. Imports nobody's priors."""
    return Run.open(Path(path))


def is_run(path: Path) -> bool:
    """Whether a folder is a run, be it one without a checkpoint."""
    return (path / "system.json").is_file()


def default_path(scene: str, recipe: str, now: datetime | None = None, root: Path = Path("runs")) -> Path:
    """runs/lego-infonerf-20261121-0514, and -2, -3, ... where that is taken."""
    names = (re.sub(r"[^\w.-]+", "-", name).strip("-.") for name in (scene, recipe))
    stem = "-".join([*filter(None, names), f"{now or datetime.now():%Y%m%d-%H%M}"])
    path, count = root / stem, 1
    while path.exists():
        count += 1
        path = root / f"{stem}-{count}"
    return path


def _protocol_of(family: Family) -> dict[str, Any]:
    """What numbers of a family rest on, and from where its scenes are looked at: one camera each of some of them."""
    train = family.split.train
    which = torch.arange(POSES_KEPT)
    scenes, views = torch.tensor(train)[which % len(train)], (which + which // len(train)) % family.views
    return {
        "family": family.name,
        "kind": family.kind,
        "scenes": len(family),
        "views": family.views,
        "split": family.split.name,
        "train": _ranges(train),
        "val": _ranges(family.split.val),
        "test": _ranges(family.split.test),
        "digest": family.digest,
        "cameras": {
            "focal_px": list(family.focal_px),
            "centre_px": list(family.centre_px),
            "poses": family.poses(scenes, views).tolist(),
            "up": family.up.tolist(),
            "focus": family.focus.tolist(),
            "inward": family.inward,
        },
    }


def _ranges(numbers: Sequence[int]) -> str:
    """'0-449, 460': numbers, ascending, in words."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in found)


def _at(protocol: Mapping[str, Any], key: str) -> Any:
    """protocol['a']['b'] of 'a.b'; None where there is none."""
    first, _, rest = key.partition(".")
    return protocol.get(first, {}).get(rest) if rest else protocol.get(first)


def versions() -> dict[str, str]:
    """Of Python and of every package that decides a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout that was not installed
            found[name] = "not installed"
    return found


def _refuse_occupied(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; expected a folder for the run, choose another --out")
    if not path.exists() or not any(path.iterdir()):
        return
    if not is_run(path):
        raise UserError(f"{path}: this folder holds something else than a run; choose another --out, or empty it")
    if any((path / "checkpoints").glob("step-*")):
        raise UserError(f"{path}: holds a run with checkpoints; go on with --resume {path}, or choose another --out")


def _user_files(recipe: Recipe) -> list[UserFile]:
    """The users' files that a recipe's terms come from, each once; two different ones of one name are an error."""
    found: dict[str, UserFile] = {}
    for source in filter(None, map(user_file, recipe.terms.values())):
        other = found.setdefault(source.path.name, source)
        if other.sha256 != source.sha256:
            raise UserError(
                f"{source.path} and {other.path}: two files of one name; the run keeps both in one folder, rename one"
            )
    return list(found.values())


def _read(path: Path, beside: set[str], cls: type) -> Any:
    """A dataclass from a run's JSON file; keys of `beside` are read by others."""
    plain = read_json(path)
    if not isinstance(plain, dict):
        raise Reader(str(path)).error(plain, cls, "")
    format, rest = checked_format(plain, str(path))
    own = {key: value for key, value in rest.items() if key not in beside}
    return Reader(str(path), fill=format < FORMAT).read(own, cls)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()

"""Writing a family of embedded scenes, shard by shard, in processes side by side; what is there already stays."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from rayprior.errors import UserError
from rayprior.files import remove, write_atomically, write_json
from rayprior.kernels.threads import set_threads
from rayprior.plain import to_plain
from rayprior.scenes.family import held_out
from rayprior.scenes.formats.family import FEWEST_VIEWS, FILE, FORMAT, PARTS, Index, Made, part_path, read_index, sha256
from rayprior.scenes.synthetic.families import (
    KINDS,
    cameras_of_ring,
    check_shift,
    checked_kind,
    gains_of,
    near_of,
    photograph,
    worlds_of,
)

SHARDS, SHARD_SCENES, SHARD_BYTES = 64, (16, 1024), 64e6  # about so many shards, of so many scenes, and no larger
SIZES = (8, 1024)
BRIGHTEST = 2.0  # exposure: a factor of 7 either way


@dataclass(frozen=True)
class FamilyPlan:
    """What is to be made; raises UserError where it cannot be.

    kind      rooms or table-top
    views     pictures of each scene
    size      width and height of a picture
    test      how many of the last scenes are held out; None: a tenth
    shift     of the cameras, see `cameras_of_ring`
    exposure  each picture's colours are multiplied by exp of a random number within +-exposure
    """

    kind: str
    scenes: int = 500
    views: int = 10
    size: int = 32
    seed: int = 0
    test: int | None = None
    shift: Mapping[str, float] = field(default_factory=dict)
    exposure: float = 0.0

    def __post_init__(self) -> None:
        checked_kind(self.kind)
        for name, low, high in (
            ("scenes", 1, 10**8),
            ("views", FEWEST_VIEWS, 10**4),
            ("size", *SIZES),
            ("seed", 0, 2**63),
            ("exposure", 0, BRIGHTEST),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"--{name} {getattr(self, name)}: expected {low} to {high:g}")
        held_out(self.scenes, self.test)
        check_shift(self.kind, self.shift)

    def index(self) -> Index:
        """The index of the family before any shard is there."""
        ring, split = KINDS[self.kind], held_out(self.scenes, self.test)
        train, focal = len(split.train), ring.focal * self.size
        pixels = self.views * self.size**2 * 7  # bytes of a scene
        low, high = SHARD_SCENES
        wanted = min(max(-(-self.scenes // SHARDS), low), high, max(1, int(SHARD_BYTES / pixels)))
        return Index(
            family=FORMAT,
            kind=self.kind,
            seed=self.seed,
            scenes=self.scenes,
            views=self.views,
            size=(self.size, self.size),
            focal_px=(focal, focal),
            centre_px=(self.size / 2, self.size / 2),
            near=near_of(self.kind, self.shift),
            far=ring.far,
            box=ring.box,
            focus=(0.0, 0.0, ring.target),
            background=ring.background,
            split={"train": (0, train), "val": (train, train), "test": (train, self.scenes)},
            shift=dict(sorted(self.shift.items())),
            exposure=self.exposure,
            shard_scenes=wanted,
            shards=(None,) * -(-self.scenes // wanted),
        )


def make_family(
    plan: FamilyPlan, folder: Path, workers: int = 1, on_progress: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Index, tuple[int, ...]]:
    """Write a family; returns its index, and the numbers of shards that were damaged and are made again.

    Shards that are there and whole are kept, so the same call goes on after a stop. Whatever the number of workers, the
    same plan gives the same bytes. on_progress: called with (scenes made, of how many).

    Raises UserError where the folder holds something else, or a family of another plan.
    """
    index, damaged = _begun(plan, folder)
    todo = [number for number, made in enumerate(index.shards) if made is None]
    of = sum(index.in_shard(number) for number in todo)
    done = 0
    write_json(folder / FILE, to_plain(index))
    try:
        with closing(_made(plan, index, folder, todo, workers)) as shards:
            for number, made in shards:
                kept = (*index.shards[:number], made, *index.shards[number + 1 :])
                index = replace(index, shards=kept)
                write_json(folder / FILE, to_plain(index))
                done += made.scenes
                on_progress(done, of)
    except KeyboardInterrupt:
        there = sum(made is not None for made in index.shards)
        raise KeyboardInterrupt(
            f"with {there} of {len(index.shards)} shards made; the same command goes on ({folder})"
        ) from None
    return index, damaged


def make_shard(plan: FamilyPlan, index: Index, folder: Path, number: int) -> Made:
    """Draw, photograph and write the scenes of one shard."""
    first = number * index.shard_scenes
    scenes = range(first, first + index.in_shard(number))
    c2w = cameras_of_ring(plan.kind, plan.seed, scenes, plan.views, plan.shift)
    pictures, distances = photograph(
        worlds_of(plan.kind, plan.seed, scenes),
        c2w,
        plan.size,
        plan.size,
        index.focal_px[0],
        gains_of(plan.seed, scenes, plan.views, plan.exposure),
    )
    parts = {"pictures": pictures, "distances": distances, "poses": c2w}
    checksums = {name: _write(part_path(folder, name, number), part.numpy()) for name, part in parts.items()}
    return Made(len(scenes), **checksums)


def _write(path: Path, array: np.ndarray) -> str:
    """A .npy file, whole or not there; its SHA-256."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


# -- going on ----------------------------------------------------------------------------------------------------------


def _begun(plan: FamilyPlan, folder: Path) -> tuple[Index, tuple[int, ...]]:
    """The index with the shards that are there already, and those that are there but not what was written."""
    index = plan.index()
    if not (folder / FILE).is_file():
        if folder.exists() and (not folder.is_dir() or any(not c.name.startswith(".") for c in folder.iterdir())):
            raise UserError(f"{folder}: holds something else than a family; choose another --out, or empty it")
        return index, ()
    old = read_index(folder, unfinished=True)
    for part in fields(Index):
        before, now = getattr(old, part.name), getattr(index, part.name)
        if part.name != "shards" and before != now:
            raise UserError(
                f"{folder}: holds a family with {part.name} {_said(before)}, and {_said(now)} is asked for; choose"
                " another --out, or remove it"
            )
    for stale in folder.glob(".*.tmp"):  # of a writer that was killed
        remove(stale)
    states = [_state(folder, number, made) for number, made in enumerate(old.shards)]
    kept = tuple(made if state == "whole" else None for made, state in zip(old.shards, states, strict=True))
    return replace(index, shards=kept), tuple(n for n, state in enumerate(states) if state == "damaged")


def _state(folder: Path, number: int, made: Made | None) -> str:
    """'whole', 'damaged', or 'missing' of a shard."""
    paths = {part: part_path(folder, part, number) for part in PARTS}
    if made is None or not all(path.is_file() for path in paths.values()):
        return "missing"
    return "whole" if all(sha256(path) == getattr(made, part) for part, path in paths.items()) else "damaged"


def _said(value: object) -> str:
    return f"{value}" if isinstance(value, int | float | str) else f"{to_plain(value)}"


# -- processes ---------------------------------------------------------------------------------------------------------


def _made(
    plan: FamilyPlan, index: Index, folder: Path, todo: list[int], workers: int
) -> Generator[tuple[int, Made], None, None]:
    """Shards as they are made: here, or in `workers` processes of one thread each."""
    if workers == 1 or len(todo) < 2:
        for number in todo:
            yield number, make_shard(plan, index, folder, number)
        return
    pool = ProcessPoolExecutor(min(workers, len(todo)), multiprocessing.get_context("spawn"), _start_worker)
    try:
        futures = {pool.submit(make_shard, plan, index, folder, number): number for number in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise UserError(
            f"{folder}: a worker died, mostly for want of memory; what is made stays. Give the same command again, with"
            f" fewer --workers than {workers}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and tells
    set_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Files are whole or not there, so a worker may end anywhere once its parent is gone."""
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        time.sleep(0.5)
    os._exit(1)

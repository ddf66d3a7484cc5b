"""How fast families of scenes are made, and read, beside what this machine can do at best: `python bench/families.py`.

Making: scenes of 10 views at 32x32 a second and core, without and with writing; the floor is the time of the tracing
alone, and of that the ray-body tests and roots at the rate at which this machine does multiply-adds in a plain loop.
Reading: what a training step asks of a family: 8 scenes with 5 pictures for the encoder, and 512 rays.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numba import njit

from rayprior.kernels.threads import set_threads
from rayprior.kernels.trace import HALL, NOTHING, Worlds, trace
from rayprior.scenes.family import Family, open_family
from rayprior.scenes.formats.family import PARTS, part_path, sha256
from rayprior.scenes.synthetic import families
from rayprior.scenes.synthetic.families import KINDS, cameras_of_ring, gains_of, photograph, worlds_of
from rayprior.scenes.synthetic.making import FamilyPlan, make_family

VIEWS, SIZE = 10, 32
AIM = 150.0  # scenes a second and core
ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """Scenes a second of processor time; `ratio`: how many times the floor's time it takes."""

    kind: str
    drawn_and_photographed: float
    with_writing: float
    rays_a_pixel: float
    traced_alone: float
    floor: float
    ratio: float


def best(run: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest of some runs."""
    run()
    times = []
    for _ in range(ROUNDS):
        begun = clock()
        run()
        times.append(clock() - begun)
    return min(times)


def photographed(kind: str, scenes: range) -> tuple[torch.Tensor, torch.Tensor]:
    """What a shard holds, not written."""
    c2w = cameras_of_ring(kind, 0, scenes, VIEWS, {})
    focal = KINDS[kind].focal * SIZE
    return photograph(worlds_of(kind, 0, scenes), c2w, SIZE, SIZE, focal, gains_of(0, scenes, VIEWS, 0.0))


def calls_of(kind: str, scenes: range) -> list[tuple[Worlds, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What `photograph` asks of the tracer."""
    calls: list[Any] = []

    def remember(*asked: Any) -> Any:
        calls.append(tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in asked))
        return trace(*asked)

    families.trace = remember
    try:
        photographed(kind, scenes)
    finally:
        families.trace = trace
    return calls


@njit(fastmath=True, error_model="numpy")
def _floor(bodies, balls, others, rays, a, out):
    """Every ray and its shadow ray: the ball around each body (15 operations), and for `balls` of them a root, for
    `others` three quotients and 30 operations; then 60 operations, two roots and a quotient of shading."""
    for r in range(rays):
        x = a[r % a.shape[0]]
        total = 0.0
        for k in range(bodies):
            y = x + k
            for _ in range(7):
                y = y * 1.0000001 + x
            total += y
        for k in range(balls):
            total += np.sqrt(total + k)
        for k in range(others):
            y = x + k
            for _ in range(15):
                y = y * 1.0000001 + x
            total += 1 / (y + 1) + 1 / (y + 2) + 1 / (y + 3)
        y = total
        for _ in range(30):
            y = y * 1.0000001 + x
        out[r % out.shape[0]] = np.sqrt(y * y + 1) + np.sqrt(total * total + 1) + 1 / (y * y + 2)


def floor_of(calls: list[tuple[Worlds, torch.Tensor, torch.Tensor, torch.Tensor]]) -> float:
    """Seconds that the arithmetic of these calls takes in a loop that does nothing else."""
    rays = sum(len(which) for _, which, _, _ in calls)
    kinds = calls[0][0].kind
    bodies = float((kinds != NOTHING).double().sum(dim=1).mean())
    walls = float((kinds == HALL).double().sum(dim=1).mean())
    a, out = np.random.default_rng(0).random(1024), np.zeros(1024)
    tests = round(2 * bodies - walls)  # walls cast no shadow
    return best(lambda: _floor(tests, 0, 2, rays, a, out))


def measured(kind: str, count: int) -> Row:
    """One kind of family, on one thread."""
    scenes = range(count)
    drawn = best(lambda: photographed(kind, scenes))
    calls = calls_of(kind, scenes)
    traced = best(lambda: [trace(*call) for call in calls])
    floor = floor_of(calls)

    def written() -> None:
        with tempfile.TemporaryDirectory() as folder:
            make_family(FamilyPlan(kind, count, VIEWS, SIZE), Path(folder) / "family")

    rays = sum(len(which) for _, which, _, _ in calls)
    return Row(
        kind=kind,
        drawn_and_photographed=count / drawn,
        with_writing=count / best(written),
        rays_a_pixel=rays / (count * VIEWS * SIZE**2),
        traced_alone=count / traced,
        floor=count / floor,
        ratio=drawn / floor,
    )


def reading(folder: Path) -> dict[str, float]:
    """Milliseconds of wall time: what a step asks for, and what verifying takes."""
    family = open_family(folder)
    g = torch.Generator().manual_seed(0)

    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        scenes = torch.randint(len(family), (8,), generator=g)
        return scenes, torch.rand(8, family.views, generator=g).argsort(dim=1)[:, :5]

    def shown() -> None:
        family.shown(*drawn())

    def asked() -> None:
        scenes, views = drawn()
        pixels = torch.randint(SIZE, (512, 2), generator=g) + 0.5
        family.query(scenes.repeat_interleave(64), views[:, :2].repeat_interleave(32), pixels)

    def unseen() -> None:
        family.among(drawn()[0]).unseen_rays(256, g)

    every = torch.arange(0, len(family))
    begun = time.perf_counter()
    family.poses(every, torch.zeros_like(every))
    opened = time.perf_counter() - begun
    size = sum(path.stat().st_size for path in folder.iterdir())
    checked = best(lambda: _verify(family, folder), time.perf_counter)
    middle = {name: _median(run) for name, run in (("shown", shown), ("query", asked), ("unseen_rays", unseen))}
    return {
        **{f"{name}_ms": 1000 * seconds for name, seconds in middle.items()},
        "all_shards_opened_and_verified_ms": 1000 * opened,
        "sha256_of_all_ms": 1000 * checked,
        "megabytes": size / 1e6,
    }


def _verify(family: Family, folder: Path) -> None:
    for number in range(len(family.shards)):
        for part in PARTS:
            sha256(part_path(folder, part, number))


def _median(run: Callable[[], object], rounds: int = 30) -> float:
    run()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return median(times)


def main() -> None:
    """Print a table, and the same as JSON with --json FILE."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=128)
    parser.add_argument("--json", type=Path)
    typed = parser.parse_args()
    set_threads(1)
    rows = [measured(kind, typed.scenes) for kind in KINDS]
    print(f"{VIEWS} views at {SIZE}x{SIZE}; scenes per second of one core (aim: {AIM:g})")
    print(f"{'':<10} {'made':>6} {'written':>8} {'traced':>7} {'floor':>6} {'ratio':>6} {'rays a pixel':>13}")
    for row in rows:
        print(
            f"{row.kind:<10} {row.drawn_and_photographed:>6.0f} {row.with_writing:>8.0f} {row.traced_alone:>7.0f}"
            f" {row.floor:>6.0f} {row.ratio:>6.2f} {row.rays_a_pixel:>13.2f}"
        )
    with tempfile.TemporaryDirectory() as folder:
        make_family(FamilyPlan("rooms", 500, VIEWS, SIZE), Path(folder) / "family")
        read = reading(Path(folder) / "family")
    for name, value in read.items():
        print(f"{name:<34} {value:8.2f}")
    if typed.json is not None:
        machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        typed.json.write_text(json.dumps({**machine, "rows": [asdict(r) for r in rows], "reading": read}, indent=2))


if __name__ == "__main__":
    main()

"""Rows: one line of JSON for each finished training of a study, appended as it ends and read back strictly."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rayprior.errors import UserError
from rayprior.evaluation.evaluate import strict
from rayprior.files import write_text
from rayprior.plain import Reader, parse_json, to_plain

ROWS = "rows.jsonl"

# What a study may compare by: 1 larger is better, -1 smaller is.
DIRECTION: dict[str, int] = {
    "psnr": 1,
    "psnr_pooled": 1,
    "mse": -1,
    "ssim": 1,
    "ssim_reflect": 1,
    "ms_ssim": 1,
    "lpips": -1,
    "distance_mae": -1,
    "distance_rmse": -1,
    "distance_abs_rel": -1,
    "distance_delta_1.25": 1,
    "floater_share": -1,
    "swd": -1,
    "gradient_histogram": -1,
    "kid_random": -1,
    "consistency": -1,
    "flicker": -1,
    "psnr_exchanged": -1,
    "transient_auc": 1,
    "std_residual": 1,
    "seconds": -1,
    "steps": -1,
    "peak_mb": -1,
    "steps_to_reach": -1,
}


@dataclass(frozen=True)
class Row:
    """What one job of a study came to.

    key         of the job, stable: the same training has the same key, another recipe, scene or budget another
    views       what it was scored on: 'test', or 'val' where settings are chosen
    status      'failed': `error` says why, and there are no numbers
    metrics     means over the scored views; None where a metric is not defined there
    per_view    {"name": ..., "psnr": ..., ...}, in the scene's order
    protocol    how the numbers were made (evaluation.evaluate)
    seconds     of the training loop alone; wall: of the whole job, with loading, saving and measuring
    refining    seconds that a refiner was trained beside
    steps       taken
    photo_rays  photographed rays trained; rays: all, with those that terms asked for
    peak_mb     the process's peak of memory during this job, in 10^6 bytes
    samples_per_ray  evaluations of the field along a training ray
    curve       (seconds, step, PSNR of the training rays), from the log
    test_curve  (share of the budget, PSNR on a few scored views), where the study asks for it
    run         the folder of its field's run, relative to the study's; recipe_hash that of its recipe
    started     when, ISO 8601; machine: processor, cores, threads, versions
    """

    key: str
    study: str
    arm: str
    scene: str
    degradation: str
    seed: int
    views: Literal["test", "val"]
    status: Literal["done", "failed"]
    error: str = ""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    per_view: tuple[Mapping[str, Any], ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    wall: float = 0.0
    refining: float = 0.0
    steps: int = 0
    photo_rays: int = 0
    rays: int = 0
    rays_per_second: float = 0.0
    peak_mb: float = 0.0
    samples_per_ray: int = 0
    curve: tuple[tuple[float, int, float | None], ...] = ()
    test_curve: tuple[tuple[float, float | None], ...] = ()
    run: str = ""
    recipe_hash: str = ""
    started: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.status == "done"

    def to_json(self) -> str:
        """One line of strict JSON: nan and inf are null."""
        return json.dumps(strict(to_plain(self)), ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(line: str, where: str = "row") -> Row:
        """The row of one line. UserError naming `where`, the key and what was expected."""
        return Reader(where, fill=True).read(parse_json(line, where), Row)


def append_row(folder: Path, row: Row) -> None:
    """One line more in the study's rows.jsonl, on the disk before this returns."""
    path = folder / ROWS
    with path.open("ab") as file:
        file.write(row.to_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(folder: Path) -> tuple[Row, ...]:
    """The latest row of every job, in the order in which they were first written.

    A last line without its end, left by a kill, is no row: it is dropped, in the file too, so that the next one begins
    a line. UserError naming file and line for a line that is whole and no row.
    """
    path = folder / ROWS
    if not path.exists():
        return ()
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected one JSON object a line") from None
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_text(path, whole)
    lines = whole.split("\n")[:-1]
    rows = [Row.from_json(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    return tuple({row.key: row for row in rows}.values())

"""Steps of a long work. Each fills a folder, is skipped while nothing has changed, and is whole or not there.

A step is known by a digest of what it is made from: its options, and the digests of the steps before it. Its folder is
filled under another name and then renamed, so that a kill loses no more than the step that it came in.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayprior.errors import UserError
from rayprior.files import remove, write_json
from rayprior.plain import parse_json

RECORD = "step.json"


@dataclass(frozen=True)
class Step:
    """A finished step.

    folder   what it wrote
    digest   of all that it was made from
    result   what it has to say, as JSON values
    seconds  that it took
    fresh    it was done just now; False: it was there already
    """

    name: str
    folder: Path
    digest: str
    result: Mapping[str, Any]
    seconds: float
    fresh: bool


def step(
    root: Path,
    name: str,
    made_from: Mapping[str, Any],
    after: Sequence[Step],
    make: Callable[[Path], Mapping[str, Any]],
) -> Step:
    """The step `name` in `root/name`, made now if it is not there or was made from something else.

    made_from  options and facts about inputs, as JSON values
    after      the steps whose files it reads
    make       fills an empty folder and returns the step's result, as JSON values
    """
    folder, digest = root / name, _digest(made_from, after)
    there = _finished(folder, digest)
    if there is not None:
        return Step(name, folder, digest, there["result"], there["seconds"], fresh=False)
    working = root / f".{name}.working"
    for stale in (working, folder):
        remove(stale)
    try:
        working.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"{working}: the folder cannot be made ({error.strerror}); check permissions and space, or choose another"
            " --out"
        ) from None
    begun = time.monotonic()
    result = make(working)
    seconds = time.monotonic() - begun
    write_json(working / RECORD, {"digest": digest, "seconds": round(seconds, 3), "result": result})
    working.rename(folder)
    return Step(name, folder, digest, result, seconds, fresh=True)


def facts_of_file(path: Path) -> list[Any]:
    """What tells whether a file is still the same without reading it: name, size, time of its last change.

    The name alone of what can't be reached, as a link that leads nowhere; whoever reads it says so.
    """
    try:
        found = path.stat()
    except OSError:
        return [path.name]
    return [path.name, found.st_size, found.st_mtime_ns]


def _digest(made_from: Mapping[str, Any], after: Sequence[Step]) -> str:
    content = {"made_from": made_from, "after": [[before.name, before.digest] for before in after]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _finished(folder: Path, digest: str) -> dict[str, Any] | None:
    """What a finished step says of itself; None where it is not there, or was made from something else."""
    try:
        record = parse_json((folder / RECORD).read_text(encoding="utf-8"), str(folder / RECORD))
    except (OSError, UserError):
        return None
    return record if isinstance(record, dict) and record.get("digest") == digest else None


def remove_unfinished(root: Path) -> None:
    """Remove what a kill left of a step."""
    for stale in root.glob(".*.working"):
        shutil.rmtree(stale, ignore_errors=True)

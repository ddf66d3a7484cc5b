"""How good `rayprior capture` is: real photos against given poses, in one table.

    python bench/capture.py                       all cases; captures stand in bench/results/capture, and are kept
    python bench/capture.py fox fountain          some
    python bench/capture.py --out DIR --fresh     captured anew, so that times are whole

Positions are compared after the similarity that aligns the cameras' centres (Umeyama 1991), as a share of the diagonal
of the box around the true centres; rotations in degrees after the same. The fox's poses were found by others' COLMAP
from the full-size photos, the fountain's by laser. The can has no poses to trust: those that came with it are folded
(docs/capture.md), so what counts there is how many photos have a place and whether neighbours contradict the model.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rayprior.capture.capture import CaptureOptions, capture
from rayprior.capture.folds import contradicted
from rayprior.errors import UserError
from rayprior.maths.poses import rotation_angle_deg, umeyama
from rayprior.scenes.formats.colmap import describe_colmap
from rayprior.scenes.open import describe

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("RAYPRIOR_DATA", ROOT.parent / "shared" / "data"))
HEAD = ("case", "registered", "points", "error px", "position %", "rotation deg", "seconds", "wanted")


def against_poses(truth: Path, scene: Path) -> tuple[float, float]:
    """Medians over photos: distance of centres in percent of the diagonal, and angle in degrees."""
    found, given = describe_colmap(scene), describe(truth)[0]
    files = [Path(str(photo)).name for photo in given.photos]
    rows = [files.index(Path(str(photo)).name) for photo in found.photos]
    a, b = found.cameras.c2w, given.cameras.c2w[rows]
    scale, rotation, translation = umeyama(a[:, :, 3], b[:, :, 3])
    off = (scale * a[:, :, 3] @ rotation.T + translation - b[:, :, 3]).norm(dim=1)
    every = given.cameras.origins
    diagonal = (every.amax(dim=0) - every.amin(dim=0)).norm()
    angle = rotation_angle_deg(rotation @ a[:, :, :3], b[:, :, :3])
    return float(100 * off.median() / diagonal), float(angle.median())


def posed(name: str, wanted: str) -> Callable[[Path], list[str]]:
    """A set whose poses are known, captured without them."""

    def run(out: Path) -> list[str]:
        begun = time.perf_counter()
        done = capture(DATA / name, out)
        seconds = time.perf_counter() - begun
        position, angle = against_poses(DATA / name, out)
        return [*told(done), f"{position:.3f}", f"{angle:.3f}", f"{seconds:.0f}", wanted]

    return run


def can(out: Path) -> list[str]:
    begun = time.perf_counter()
    done = capture(DATA / "colmap_can", out)
    seconds = time.perf_counter() - begun
    wrong = len(contradicted(out / "sparse" / "0", out / "steps" / "matches-exhaustive-usual" / "database.db"))
    return [*told(done), f"{wrong} neighbours", "contradicted", f"{seconds:.0f}", ">= 65 of 71"]


def few(count: int, wanted: str) -> Callable[[Path], list[str]]:
    """Some of the fox's photos, evenly spaced, with the poses that they came with."""

    def run(out: Path) -> list[str]:
        photos = sorted((DATA / "ngp_fox" / "images").iterdir())
        with tempfile.TemporaryDirectory() as folder:
            for i in np.linspace(0, len(photos) - 1, count).round().astype(int):
                shutil.copy2(photos[i], folder)
            begun = time.perf_counter()
            done = capture(Path(folder), out, CaptureOptions(poses=str(DATA / "ngp_fox")))
        return [*told(done), "given", "given", f"{time.perf_counter() - begun:.0f}", wanted]

    return run


def told(done) -> list[str]:
    return [f"{len(done.registered)} of {len(done.photos)}", str(done.points), f"{done.error_px:.2f}"]


CASES = {
    "fox": posed("ngp_fox", "50; < 0.1 %, < 0.15 deg; < 90 s"),
    "fountain": posed("strecha_fountain", "11; < 0.1 %"),
    "can": can,
    "fox-6": few(6, ">= 150 points"),
    "fox-10": few(10, ">= 500 points"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "capture")
    parser.add_argument("--fresh", action="store_true", help="remove what is there first")
    asked = parser.parse_args()
    unknown = set(asked.cases) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; cases: {', '.join(CASES)}")
    torch.set_num_threads(1)
    rows = []
    for name in asked.cases or CASES:
        if asked.fresh:
            shutil.rmtree(asked.out / name, ignore_errors=True)
        try:
            rows.append([name, *CASES[name](asked.out / name)])
        except UserError as error:
            rows.append([name, *["-"] * 6, str(error)])
        print(f"{name}: done, load {os.getloadavg()[0]:.1f}", flush=True)
    widths = [max(len(row[i]) for row in [HEAD, *rows]) for i in range(len(HEAD))]
    for row in [list(HEAD), ["-" * width for width in widths], *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths)))


if __name__ == "__main__":
    main()

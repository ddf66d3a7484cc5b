"""Pictures of a finished study side by side: the truth, and one test view as each of some arms shows it.

    python bench/arms.py runs/study-ganerf docs/images/ganerf.webp --arms patches "both, refined"

A row for each scene; pictures are as the study kept them, enlarged without smoothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from rayprior.errors import UserError
from rayprior.evaluation.sheets import enlarged, named_row
from rayprior.study.jobs import PREVIEWS
from rayprior.study.previews import Preview, read_preview
from rayprior.study.rows import read_rows

WIDTH = 160  # at least, of a picture
QUALITY = 75


def preview_of(study: Path, scene: str, arm: str, seed: int) -> Preview:
    """What a study kept of a run. UserError where there is no such run."""
    for row in read_rows(study):
        if (row.scene, row.arm, row.seed, row.views, row.done) == (scene, arm, seed, "test", True):
            return read_preview(study / PREVIEWS / row.key)
    raise UserError(f"{study}: no finished run of arm '{arm}' on '{scene}' with seed {seed}")


def main() -> None:
    """Write the picture; print its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", nargs="+", required=True)
    parser.add_argument("--scenes", nargs="+", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rows = []
    for scene in asked.scenes or dict.fromkeys(row.scene for row in read_rows(asked.study)):
        shown = {arm: preview_of(asked.study, scene, arm, asked.seed) for arm in asked.arms}
        frames = {"truth": shown[asked.arms[0]].truth, **{arm: preview.rgb for arm, preview in shown.items()}}
        rows.append(named_row([(name, enlarged(frame, WIDTH)) for name, frame in frames.items()]))
    Image.fromarray(np.concatenate(rows)).save(asked.out, quality=QUALITY, method=6)
    print(f"{asked.out}: {asked.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

"""Formats: each is one function from a path to a Description, and one that tells whether its description file is there.

The order of FORMATS is the order of detection: the first description present is read. A broken file of the chosen kind
is an error, never a reason to try the next.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rayprior.scenes.description import Description
from rayprior.scenes.formats import blender, bop, colmap, dtu, family, llff, nerfstudio, rgbd, strecha


class Format(NamedTuple):
    """`file`: what its description is called, for messages."""

    file: str
    present: Callable[[Path], bool]
    describe: Callable[[Path], Description]


FORMATS: dict[str, Format] = {
    "colmap": Format("a complete COLMAP model", colmap.present, colmap.describe_colmap),
    "nerfstudio": Format(nerfstudio.FILE, nerfstudio.present, nerfstudio.describe_nerfstudio),
    "blender": Format(blender.TRAIN_FILE, blender.present, blender.describe_blender),
    "llff": Format(llff.FILE, llff.present, llff.describe_llff),
    "dtu": Format(dtu.FILE, dtu.present, dtu.describe_dtu),
    "rgbd": Format("frame-*.pose.txt", rgbd.present, rgbd.describe_rgbd),
    "bop": Format("BOP's " + bop.CAMERAS, bop.present, bop.describe_bop),
    "strecha": Format("Strecha's *.camera", strecha.present, strecha.describe_strecha),
    "family": Format("a family's " + family.FILE, family.present, family.describe_family),
    "npz": Format("a .npz with images, poses and focal", blender.present_npz, blender.describe_npz),
}

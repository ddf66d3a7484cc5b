"""A capture whose test views lie outside: beyond where its training views were taken from.

    python bench/outside.py CAPTURE FOLDER

Held out are the outermost two photographs along each of the three principal axes of the cameras' positions, six in
all: a plane parts each of them from all training cameras, so they lie outside of their convex hull. FOLDER becomes the
same capture in nerfstudio's form, photographs and masks as they are, in its own units; distances between which things
lie have no place in that form, and are printed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior import load_scene
from rayprior.scenes.open import open_cameras
from rayprior.scenes.writing import write_scene


def outermost(positions: Float[Tensor, "n 3"]) -> list[int]:
    """The lowest and the highest along each principal axis, the longest axis first; who is taken already is passed
    over."""
    centred = positions - positions.mean(dim=0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh
    found: list[int] = []
    for along in axes @ centred.T:
        order = along.argsort().tolist()
        for ends in (order, order[::-1]):
            found.append(next(camera for camera in ends if camera not in found))
    return sorted(found)


def main() -> None:
    """Write FOLDER; print which views are held out, and near and far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    description, working = open_cameras(asked.capture)
    scene = load_scene(asked.capture)
    back = scene.similarity.inverse()
    cameras = replace(working, c2w=back.poses(working.c2w))
    held_out = outermost(cameras.origins)
    names = description.names
    test = [names[i] for i in held_out]
    lists = {"train": [name for name in names if name not in test], "test": test}
    for said in write_scene("nerfstudio", asked.folder, replace(description, points=None), cameras, lists=lists):
        print(said)
    near, far = scene.bounds.near * back.scale, scene.bounds.far * back.scale
    print(f"held out: {', '.join(test)}; {len(lists['train'])} train; --near {near:.4g} --far {far:.4g}")


if __name__ == "__main__":
    main()

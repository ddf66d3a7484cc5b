"""A family on disk and a run of nerf-vae on it, both as small as they can be: for tests of verbs."""

from __future__ import annotations

import atexit
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from rayprior.fields.codes import Codes
from rayprior.fields.scene_function import SceneFunction
from rayprior.kernels.threads import set_threads
from rayprior.methods import nerf_vae
from rayprior.networks.encoder import Encoder
from rayprior.networks.refinement import Refinement
from rayprior.priors import LatentKL
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.inference import Inference
from rayprior.scenes.family import open_family
from rayprior.scenes.synthetic.making import FamilyPlan, make_family
from rayprior.training.fit import fit
from rayprior.training.recipe import Adam, Episodes, Photo, Recipe

SCENES, VIEWS, SIZE = 10, 5, 16


def tiny(refinements: int = 0, beta: float = 1.0, lr: float = 4e-4) -> Recipe:
    """nerf-vae with a thousandth of its work."""
    return replace(
        nerf_vae,
        field=SceneFunction(width=16, depth=3),
        sampler=CoarseField(coarse=6, fine=6),
        codes=Codes(latent=8),
        inference=Inference(Encoder(side=4, hidden=16), Refinement(), refinements=refinements, rays=8),
        episodes=Episodes(scenes=2, context=2, targets=2),
        photo=Photo(rays=16),
        terms={**nerf_vae.terms, "latent_kl": LatentKL(weight=beta)},
        optimiser=Adam(lr=lr),
        steps=4,
    )


@cache
def family_folder() -> Path:
    """Ten rooms of five views."""
    root = Path(mkdtemp(prefix="family-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    folder = root / "rooms"
    make_family(FamilyPlan("rooms", SCENES, VIEWS, SIZE, test=3), folder)
    return folder


@cache
def family_run(refinements: int = 0, beta: float = 1.0, lr: float = 4e-4) -> Path:
    """A run of a few steps."""
    set_threads(1)
    out = family_folder().parent / f"run-{refinements}-{beta:g}-{lr:g}"
    fit(tiny(refinements, beta, lr), open_family(family_folder()), out=out, threads=1, device="cpu")
    return out

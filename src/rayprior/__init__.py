"""Radiance fields from imperfect captures. `import rayprior as rp`; names load when first used, torch with them."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayprior import methods as methods
    from rayprior.errors import UserError as UserError
    from rayprior.evaluation.evaluate import evaluate as evaluate
    from rayprior.maths.schedules import Schedule as Schedule
    from rayprior.priors.term import Likelihood as Likelihood
    from rayprior.priors.term import Prior as Prior
    from rayprior.priors.term import Term as Term
    from rayprior.rendering.raydist import RayDistribution as RayDistribution
    from rayprior.scenes.cameras import Cameras as Cameras
    from rayprior.scenes.open import load_scene as load_scene
    from rayprior.scenes.rays import Query as Query
    from rayprior.scenes.rays import Rays as Rays
    from rayprior.scenes.scene import Scene as Scene
    from rayprior.training.fit import fit as fit
    from rayprior.training.run import load_run as load_run

__version__ = "0.1.0"

# Threads that wait must sleep, not spin, or a training beside any other busy process crawls: a worker that spins at a
# barrier holds the core that its partner waits for. OpenMP reads this once, when torch or numba first load it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "UserError": "errors",
    "evaluate": "evaluation.evaluate",
    "Schedule": "maths.schedules",
    "Likelihood": "priors.term",
    "Prior": "priors.term",
    "Term": "priors.term",
    "RayDistribution": "rendering.raydist",
    "Cameras": "scenes.cameras",
    "load_scene": "scenes.open",
    "Query": "scenes.rays",
    "Rays": "scenes.rays",
    "Scene": "scenes.scene",
    "fit": "training.fit",
    "load_run": "training.run",
}


def __getattr__(name: str) -> Any:
    if name == "methods":
        return import_module("rayprior.methods")
    if name in _HOMES:
        return getattr(import_module(f"rayprior.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'rayprior' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*_HOMES, "methods", "__version__"])

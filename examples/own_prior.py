"""A prior of one's own: this file is the whole of it.

    rayprior train grid synthetic:still-life --seconds 5 --prior examples/own_prior.py:EmptySky:rays=64

A prior is a question (which rays?) and a judgement (a score of their rendering). The fields of the class are its
options, here and on the command line; a copy of this file is kept in the run's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Generator, Tensor

from rayprior import Prior, Query, Rendering, Scene


@dataclass(frozen=True)
class EmptySky(Prior):
    """Rays that look up end nowhere."""

    weight: float = 0.01
    rays: int = 256

    def query(self, scene: Scene, generator: Generator) -> Query:
        asked = scene.unseen_rays(self.rays, generator)  # from cameras between the training views
        return asked[asked.rays.directions @ scene.up > 0.2]

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        return seen.distribution.opacity.mean()  # `seen`: the rendering of just these rays

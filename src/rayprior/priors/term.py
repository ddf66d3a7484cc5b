"""Term: a question (which rays) and a judgement (a score of their rendering). One idea, one file, one subclass.

The training loop asks every term for its rays, renders them together with the photographed ones in one pass, hands
each term its own part, and sums weight x loss: the negative log posterior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Generator, Tensor

from rayprior.maths.schedules import Schedule
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Scene


@dataclass(frozen=True)
class Term:
    """Subclass `Likelihood` or `Prior`, as a frozen dataclass: its fields are its options, on the command line too."""

    weight: float | Schedule = 1.0

    def query(self, scene: Scene, generator: Generator) -> Query | None:
        """The rays that this term wants rendered; None: it judges the photographed ones."""
        return None

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        """A scalar, smaller is better. `seen`: the rendering of just these rays; `known`: what is known of them."""
        raise NotImplementedError(f"{type(self).__name__} needs a method loss(self, seen, known)")


@dataclass(frozen=True)
class Likelihood(Term):
    """How badly the field explains what was measured."""


@dataclass(frozen=True)
class Prior(Term):
    """How unlikely the field is before anything was measured."""

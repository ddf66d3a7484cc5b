"""Field: what is where. World positions -> density and a feature; the feature seen from a direction -> colour."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Generator, Tensor, nn


class Field(nn.Module, ABC):
    """deferred: colour is a function of the ray's composited feature, evaluated once a ray; else of each sample's.

    features: the length of a feature.
    """

    deferred: bool = False
    features: int
    config: Any  # the values it was built from; while training, with schedules resolved

    @abstractmethod
    def density(
        self,
        x: Float[Tensor, "r *b 3"],
        generator: Generator | None = None,
        latent: Float[Tensor, "r z"] | None = None,
    ) -> tuple[Float[Tensor, "r *b"], Float[Tensor, "r *b f"]]:
        """Density (>= 0, per unit of the field's space) and feature at working-unit positions.

        generator  is given in training only: for noise that a recipe asks for
        latent     which scene it is, for each of the first axis; only fields that were built for one are given one
        """

    @abstractmethod
    def colour(
        self,
        feature: Float[Tensor, "*b f"],
        directions: Float[Tensor, "*b 3"],
        appearance: Float[Tensor, "*b a"] | None = None,
    ) -> Float[Tensor, "*b 3"]:
        """Colour in [0, 1] of a feature seen along unit `directions`, in the light of an appearance code where the
        field was built for one."""

    @abstractmethod
    def tables(self) -> list[nn.Parameter]:
        """The parameters that learn at the optimiser's `tables` rate; empty where there is no table."""

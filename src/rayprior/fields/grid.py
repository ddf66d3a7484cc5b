"""The small hash grid: a multiresolution table of features and one small head (instant-ngp, Mueller et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Grid:
    """levels x 2^log2_entries entries of `features` numbers, resolutions `coarsest` to `finest` in geometric steps.

    head  feature  one linear layer to density and features, composited; then a small MLP a ray (contracted space)
          sh       one linear layer to density and spherical-harmonics colour (objects)
          mlp      a small MLP a sample
          auto     settled by the scene: sh for a box, feature else
    """

    levels: int = 8
    features: int = 2
    coarsest: int = 16
    finest: int = 256
    log2_entries: int = 15
    head: Literal["auto", "feature", "sh", "mlp"] = "auto"

"""Code size: photographs differ little, so that the mean code means something (ours, for NeRF-W's appearance)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule
from rayprior.priors.term import Prior
from rayprior.rendering.rendering import Rendering


@dataclass(frozen=True)
class CodeSize(Prior):
    """Mean over rays of the squared lengths of their photographs' appearance codes and affine numbers."""

    weight: float | Schedule = 1e-4

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        if seen.code is None or not (seen.code.appearance.shape[1] or seen.code.affine.shape[1]):
            raise UserError(
                "prior 'code_size' judges the codes of photographs, and this recipe learns none; add --set"
                " codes.appearance=8 or --set codes.affine=true, or take the recipe wild"
            )
        return seen.code.appearance.square().sum(dim=1).mean() + seen.code.affine.square().sum(dim=1).mean()

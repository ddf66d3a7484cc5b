"""Perceptual prior: a network that is not trained here sees the same in rendered patches as in photographs (GANeRF).

After Johnson et al. (ECCV 2016). The network is VGG19 where its weights are on this machine, else fixed random
convolutions; the settled term, and so the run's recipe, names which.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule
from rayprior.networks.features import NAMES, VGG_FILE, Features, distance, features, find_vgg19
from rayprior.priors.patches import ask, decided, pictures_of, said_of
from rayprior.priors.term import Prior, Term
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Scene


@dataclass(frozen=True)
class Perceptual(Prior):
    """Sum over a fixed network's blocks of the mean squared difference between its maps of two patches.

    patches, patch, largest, dilation, of  which patches, as of `patches`
    features  vgg19: five blocks, relu1_2 to relu5_4, refused where its weights are not here; random: four blocks of
              fixed random convolutions; auto: vgg19 where its weights are, else random
    side      patches are resized to it before, as GANeRF does to 224; None: they are seen as they are

    What masks leave out is grey in photograph and rendering alike.
    """

    weight: float | Schedule = 3e-4
    patches: int = 1
    patch: int | None = None
    largest: int = 32
    dilation: int = 1
    of: str | None = None
    features: Literal["auto", "vgg19", "random"] = "auto"
    side: int | None = None

    def settled(self, scene: Scene, terms: Mapping[str, Term]) -> Perceptual:
        patches, patch, dilation = decided("perceptual", self, scene, terms)
        network = self.features
        if network == "auto":
            network = "vgg19" if find_vgg19() is not None else "random"
        smallest = features(network).smallest_side  # and refuses what is not here
        if (patch if self.side is None else self.side) < smallest:
            seen = f"a patch of {patch} pixels a side" if self.side is None else f"side={self.side}"
            raise UserError(
                f"prior 'perceptual': {seen} is too small for features={network}, which halves its maps; expected at"
                f" least {smallest}" + (", or side=224" if self.side is None else "")
            )
        return replace(self, patches=patches, patch=patch, dilation=dilation, features=network)

    def query(self, scene: Scene, generator: Generator) -> Query | None:
        return ask(self, scene, generator)

    @property
    def judges(self) -> str:
        return self.of or "photo"

    @property
    def said(self) -> str | None:
        asked = "" if said_of(self) is None else f"{said_of(self)}, "
        if self.features == "auto":
            return None
        why = f" ({VGG_FILE} is not in RAYPRIOR_WEIGHTS)" if self.features == "random" and find_vgg19() is None else ""
        return f"{asked}seen by {NAMES[self.features]}{why}"

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        assert self.patch is not None and self.features != "auto", "settled before training"  # noqa: PT018
        rendered, photographed = pictures_of(seen.rgb, known, self.patch)
        return distance(_on(features(self.features), rendered.device), rendered, photographed, self.side)


@cache
def _on(network: Features, device: torch.device) -> Features:
    """A copy of the network on a device."""
    return deepcopy(network).to(device)

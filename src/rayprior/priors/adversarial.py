"""Adversarial prior: small patches of renderings look like patches of this scene's photographs (GANeRF, stage 1).

Roessle et al., SIGGRAPH Asia 2023. With tiles P of rendered patches, C of the same pixels of the photographs, critic D
and f(x) = ln(1 + e^x):

    field    mean f(-D(P))
    critic   mean f(-D(C)) + mean f(D(P)) + r1 * mean 1/2 |dD/dC|^2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer, RMSprop

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule, number
from rayprior.networks.critic import Critic, Kind, critic_loss, opponent_loss, r1, tiles_of
from rayprior.priors.patches import ask, decided, pictures_of, said_of
from rayprior.priors.term import Adversary, Term
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.open import load_scene
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Scene

ADAM_BETAS = (0.0, 0.99)  # as StyleGAN2's: what was learned of an older opponent is soon wrong


@dataclass(frozen=True)
class Adversarial(Adversary):
    """Mean over tiles of ln(1 + e^-logit): how sure a critic is that a rendered tile is none of a photograph.

    patches, patch, largest, dilation, of  which patches, as of `patches`; a patch is a multiple of `tile`
    network    small: three convolutions; residual: StyleGAN2's, sized to the tile
    tile       pixels a side of what the critic sees at once
    r1         weight of half the critic's squared slope at photographs, summed over a tile's pixels, mean over tiles;
               0: none
    r1_every   so many steps lie between two such penalties, which are multiplied by it
    optimiser, lr  of the critic: rmsprop, or adam with betas (0, 0.99)
    foreign    a control: the critic's photographs are the training views of this other scene, SCENE as `train` has it

    What masks leave out is grey in photograph and rendering alike.
    """

    weight: float | Schedule = 3e-4
    lr: float | Schedule = 1e-3
    patches: int = 1
    patch: int | None = None
    largest: int = 32
    dilation: int = 1
    of: str | None = None
    network: Kind = "small"
    tile: int = 16
    r1: float | Schedule = 3.2
    r1_every: int = 1
    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    foreign: str | None = None

    def settled(self, scene: Scene, terms: Mapping[str, Term]) -> Adversarial:
        if not isinstance(self.r1, Schedule) and self.r1 < 0:
            raise UserError(
                f"prior 'adversarial': r1={self.r1:g}; expected 0 (no penalty) or more: a negative one asks the critic"
                " for cliffs"
            )
        if self.r1_every < 1:
            raise UserError(
                f"prior 'adversarial': r1_every={self.r1_every}; expected at least 1, a penalty at every step"
            )
        Critic(self.network, self.tile)  # refuses a tile that it does not take
        patches, patch, dilation = decided("adversarial", self, scene, terms, self.tile)
        if self.foreign is not None:
            if self.of is not None:
                raise UserError(
                    f"prior 'adversarial': of={self.of} and foreign={self.foreign}: whose photographs are another"
                    " scene's asks for patches itself; leave `of` out here, and share them the other way round, as in"
                    " --prior patches:of=adversarial"
                )
            _opened(self.foreign).check_patch(patch, dilation)
        return replace(self, patches=patches, patch=patch, dilation=dilation)

    def query(self, scene: Scene, generator: Generator) -> Query | None:
        question = ask(self, scene, generator)
        if question is None or self.foreign is None or self.patch is None:
            return question
        other = _opened(self.foreign).patch_rays(self.patches, self.patch, self.dilation, generator)
        return replace(question, known={**question.known, "real": other.known["rgb"]})

    @property
    def judges(self) -> str:
        return self.of or "photo"

    @property
    def said(self) -> str | None:
        about = f"a {self.network} critic of tiles of {self.tile}x{self.tile} px"
        about += "" if self.foreign is None else f", told that photographs of {self.foreign} are real: a control"
        asked = said_of(self)
        return about if asked is None else f"{asked}, {about}"

    def critic(self) -> nn.Module:
        return Critic(self.network, self.tile).build()

    def optimiser_of(self, critic: nn.Module) -> Optimizer:
        if self.optimiser == "adam":
            return Adam(critic.parameters(), lr=number(self.lr), betas=ADAM_BETAS)
        return RMSprop(critic.parameters(), lr=number(self.lr))

    def critic_loss(self, critic: nn.Module, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        rendered, photographed = self._tiles(seen, known)
        return critic_loss(critic(photographed), critic(rendered))

    def critic_penalty(self, critic: nn.Module, known: Mapping[str, Tensor]) -> Tensor | None:
        weight = number(self.r1)
        if weight == 0:
            return None
        assert self.patch is not None, "settled before training"
        photographed = pictures_of(known["rgb"], _real(known), self.patch)[1]
        return weight * r1(critic, scaled(tiles_of(photographed, self.tile)))

    @property
    def penalty_every(self) -> int:
        return self.r1_every

    def loss(self, seen: Rendering, known: Mapping[str, Tensor], critic: nn.Module | None = None) -> Tensor:
        if critic is None:
            raise ValueError("an adversary is judged against its critic: loss(seen, known, critic)")
        return opponent_loss(critic(self._tiles(seen, known)[0]))

    def _tiles(self, seen: Rendering, known: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Tiles of renderings and of photographs, (tiles, 3, tile, tile), in [-1, 1]."""
        assert self.patch is not None, "settled before training"
        rendered, photographed = pictures_of(seen.rgb, _real(known), self.patch)
        return scaled(tiles_of(rendered, self.tile)), scaled(tiles_of(photographed, self.tile))


def _real(known: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What is known, with the colours that the critic is told are a photograph's."""
    return {**known, "rgb": known["real"]} if "real" in known else known


@lru_cache(maxsize=2)
def _opened(scene: str) -> Scene:
    return load_scene(scene)


def scaled(pictures: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Pixels of [0, 1] in [-1, 1], as critics take them."""
    return 2 * pictures - 1

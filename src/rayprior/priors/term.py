"""Term: a question (which rays) and a judgement (a score of their rendering). One idea, one file, one subclass.

The training loop asks every term for its rays, renders them together with the photographed ones in one pass, hands
each term its own part, and sums weight x loss: the negative log posterior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from rayprior.maths.schedules import Schedule
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Scene


@dataclass(frozen=True)
class Term:
    """Subclass `Likelihood`, `Prior` or `Adversary`, as a frozen dataclass: its fields are its options, on the command
    line too."""

    weight: float | Schedule = 1.0

    def query(self, scene: Scene, generator: Generator) -> Query | None:
        """The rays that this term wants rendered; None: it judges the photographed ones."""
        return None

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        """A scalar, smaller is better. `seen`: the rendering of just these rays; `known`: what is known of them."""
        raise NotImplementedError(f"{type(self).__name__} needs a method loss(self, seen, known)")

    def settled(self, scene: Scene, terms: Mapping[str, Term]) -> Term:
        """This term with what it leaves to the scene, or to the recipe's other `terms`, decided; once, before training.
        UserError where that cannot be."""
        return self

    @property
    def judges(self) -> str:
        """Whose rays are judged where `query` asks for none: 'photo', or the name of another term."""
        return "photo"

    @property
    def said(self) -> str | None:
        """What is to be known of a settled term before training starts, in words."""
        return None


@dataclass(frozen=True)
class Likelihood(Term):
    """How badly the field explains what was measured."""


@dataclass(frozen=True)
class Prior(Term):
    """How unlikely the field is before anything was measured."""


@dataclass(frozen=True)
class Adversary(Term):
    """A prior that is learned beside the field: a critic learns to tell renderings from photographs, the field learns
    to be taken for one.

    The term itself stays a value. The task makes a critic and its optimiser under the term's name, and has both in its
    checkpoints. At every step the critic is asked for its loss of the rendering that the field is then judged by; a
    step of the critic whose gradient is not finite is left out and counted.

    lr  the critic's learning rate
    """

    lr: float | Schedule = 1e-3

    def critic(self) -> nn.Module:
        """A new one, with parameters drawn from torch's global generator."""
        raise NotImplementedError(f"{type(self).__name__} needs a method critic(self)")

    def optimiser_of(self, critic: nn.Module) -> Optimizer:
        """Of the critic's parameters; its rate is `lr`, set at every step."""
        raise NotImplementedError(f"{type(self).__name__} needs a method optimiser_of(self, critic)")

    def critic_loss(self, critic: nn.Module, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        """A scalar, smaller is a better critic. `seen` carries no gradient."""
        raise NotImplementedError(f"{type(self).__name__} needs a method critic_loss(self, critic, seen, known)")

    def critic_penalty(self, critic: nn.Module, known: Mapping[str, Tensor]) -> Tensor | None:
        """What is added to the critic's loss at every `penalty_every`th step, times that number; None: nothing is."""
        return None

    @property
    def penalty_every(self) -> int:
        """How many steps lie between two penalties."""
        return 1

    def loss(self, seen: Rendering, known: Mapping[str, Tensor], critic: nn.Module | None = None) -> Tensor:
        """As of every term, with its critic, whose parameters are then fixed."""
        raise NotImplementedError(f"{type(self).__name__} needs a method loss(self, seen, known, critic)")

"""Tasks: what one step of training means. `FitScene`: one model, one scene, any terms, critics beside the field.

A task owns its modules and optimisers and answers `losses(step, progress)`. It carries nothing from step to step but
those: every consumer of randomness draws at step k from a generator seeded by (seed, k, its name), so a run resumes to
the same bits, and arms of a study that differ in their terms see the same photographed rays.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Generator, Tensor, nn

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule, number, resolve, resolver
from rayprior.networks.critic import finite_gradients
from rayprior.networks.gqn import Gqn
from rayprior.priors.spec import error_in_user_file, user_file
from rayprior.priors.term import Adversary, Term
from rayprior.rendering.coarse import CoarseFieldSampler
from rayprior.rendering.model import Model
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.family import FamilyBatch
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Background, Scene
from rayprior.training.recipe import Adam, Recipe


def generator_for(seed: int, step: int, name: str) -> Generator:
    """The generator of one consumer at one step; on the CPU, so that every device draws the same."""
    digest = blake2b(f"{seed}/{step}/{name}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class FitScene:
    """Fit one scene: ask, render once, judge. `rays` counts, by who asked, those of the last step."""

    def __init__(self, recipe: Recipe, scene: Scene, seed: int, device: torch.device) -> None:
        self.recipe, self.seed, self.device = recipe, seed, device
        self.scene = scene_for(recipe, scene)
        torch.manual_seed(seed)
        assert not isinstance(recipe.field, Gqn)
        field, sampler = resolve((recipe.field, recipe.sampler), 0, 0.0)
        self.model = Model.build(field, sampler, recipe.space, recipe.compositing, recipe.codes).to(device)
        if self.model.codes is not None and recipe.codes.of_photographs:
            self.model.codes.learns_from(self.scene.split.train)
        self.optimiser = optimiser_of(self.model, recipe.optimiser)
        self.opponents = {
            name: Opponent(name, term, seed, device)
            for name, term in resolve(recipe.terms, 0, 0.0).items()
            if isinstance(term, Adversary)
        }
        self._at = resolver(recipe)
        self._now = recipe
        self.rays: dict[str, int] = {}

    def losses(self, step: int, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """Each term's weighted loss by name, and the mean squared error of the photographed rays (detached).

        Critics get their gradients here and are stepped by `step`: the field is judged by each as it stood.
        """
        recipe = self._resolved(step, progress)
        self.model.refresh(step, generator_for(self.seed, step, "refresh"))
        questions = self._ask(recipe, step)
        self.rays = {name: len(question) for name, question in questions.items()}
        together = Query.cat([Query(question.rays) for question in questions.values()]).rays.to(self.device)
        seen = self.model.render(together, generator_for(self.seed, step, "sampler"))

        parts, start = {}, 0
        for name, question in questions.items():
            part = seen if len(questions) == 1 else seen[start : start + len(question)]
            parts[name] = (part, question.to(self.device).known)
            start += len(question)
        losses: dict[str, Tensor] = {}
        for name, term in recipe.terms.items():
            part, known = parts[name] if name in parts else parts[term.judges]
            if len(part) == 0:  # an empty part is skipped and counted, never a mean of nothing
                continue
            if isinstance(term, Adversary):
                losses[name] = self.opponents[name].judge(term, part, known, step)
            else:
                losses[name] = judged(name, term, part, known)
        photo, known = parts["photo"]
        return losses, (photo.rgb.detach() - known["rgb"]).square().mean()

    @property
    def skipped(self) -> dict[str, int]:
        """Steps of critics that were left out so far, since a gradient was not finite, by term."""
        return {name: opponent.skipped for name, opponent in self.opponents.items() if opponent.skipped}

    def step(self) -> None:
        """Step critics, then the field, at the rates of the last `losses`, and forget the gradients."""
        for name, opponent in self.opponents.items():
            opponent.step(self._now.terms[name].lr)  # type: ignore[attr-defined]
        for group in self.optimiser.param_groups:
            group["lr"] = getattr(self._now.optimiser, group["rate"])
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def _ask(self, recipe: Recipe, step: int) -> dict[str, Query]:
        """The photographed rays first, then those of every term that has a question of its own."""
        photo = recipe.photo
        assert photo.rays is not None
        asked = {
            "photo": self.scene.photo_rays(
                photo.rays,
                generator_for(self.seed, step, "photo"),
                crop=number(photo.crop),
                one_picture=photo.one_picture,
            )
        }
        for name, term in recipe.terms.items():
            if type(term).query is Term.query:  # it judges the photographed rays: no generator is made for it
                continue
            question = question_of(name, term, self.scene, generator_for(self.seed, step, name))
            if question is not None:
                asked[name] = question
        return asked

    def _resolved(self, step: int, progress: float) -> Recipe:
        """The recipe of this step, schedules replaced by numbers; field and sampler see theirs."""
        if self._at is not None:
            self._now = self._at(step, progress)
            self.model.field.config = self._now.field
            self.model.sampler.config = self._now.sampler
            if isinstance(self.model.sampler, CoarseFieldSampler):
                self.model.sampler.field.config = self._now.field
        return self._now

    def state(self) -> dict[str, object]:
        state: dict[str, object] = {"optimiser": self.optimiser.state_dict()}
        if self.opponents:
            state["adversaries"] = {name: opponent.state() for name, opponent in self.opponents.items()}
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The optimiser's state and the critics'; UserError where they are not those of this recipe."""
        load_optimiser(self.optimiser, state)
        for name, opponent in self.opponents.items():
            opponent.load_state(state.get("adversaries", {}).get(name))


class Opponent:
    """The critic of one Adversary, and its optimiser; `skipped` counts steps whose gradient was not finite."""

    def __init__(self, name: str, term: Adversary, seed: int, device: torch.device) -> None:
        """The critic's first parameters depend on the run's seed and the term's name alone."""
        self.name = name
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(seed, 0, f"{name}/critic").initial_seed())
            self.critic = term.critic().to(device)
        self.optimiser = term.optimiser_of(self.critic)
        self.skipped = 0

    def judge(self, term: Adversary, seen: Rendering, known: Mapping[str, Tensor], step: int) -> Tensor:
        """The term's weighted loss of the field; the critic gets the gradients of its own."""
        self.optimiser.zero_grad(set_to_none=True)
        try:
            loss = term.critic_loss(self.critic, seen.detach(), known)
            penalty = term.critic_penalty(self.critic, known) if step % term.penalty_every == 0 else None
        except Exception as error:
            raise error_in_user_file(error, term) or error from None
        (loss if penalty is None else loss + term.penalty_every * penalty).backward()
        self.critic.requires_grad_(False)
        try:
            return judged(self.name, term, seen, known, self.critic)
        finally:
            self.critic.requires_grad_(True)

    def step(self, lr: float | Schedule) -> None:
        """Step the critic at this rate, or skip and count the step where its gradient is not finite."""
        if not finite_gradients(self.critic):
            self.skipped += 1
            if self.skipped == 1:
                warnings.warn(
                    f"the critic of '{self.name}' got a gradient that is not finite: its step was left out, as others"
                    f" will be (a checkpoint counts them); a smaller terms.{self.name}.lr may help",
                    stacklevel=2,
                )
        else:
            for group in self.optimiser.param_groups:
                group["lr"] = number(lr)
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps of it."""
        return {
            "critic": self.critic.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "skipped": self.skipped,
        }

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """A checkpoint's; UserError where it is not that of this critic."""
        try:
            if state is None:
                raise KeyError("it has none")
            self.critic.load_state_dict(state["critic"])
            load_optimiser(self.optimiser, state)
            self.skipped = int(state["skipped"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"the checkpoint's critic of '{self.name}' is not that of this recipe ({error})") from None


def optimiser_of(model: Model, adam: Adam) -> torch.optim.Adam:
    """Adam over all that learns; each group's `rate` names the rate of the recipe that it steps at."""
    rates = {id(p): "tables" for p in model.field.tables()}
    if adam.transient is not None and model.medium is not None and model.codes is not None:
        rates |= {id(p): "transient" for p in [*model.medium.parameters(), model.codes.transient]}
    groups: dict[str, list[nn.Parameter]] = {"tables": [], "lr": [], "transient": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[rates.get(id(parameter), "lr")].append(parameter)
    learning = [{"params": parameters, "rate": rate} for rate, parameters in groups.items() if parameters]
    return torch.optim.Adam(learning, betas=adam.betas, eps=adam.eps, fused=True)


def load_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, object]) -> None:
    """A checkpoint's; UserError where it is not that of this model."""
    try:
        optimiser.load_state_dict(state["optimiser"])  # type: ignore[arg-type]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint's optimiser is not that of this recipe ({error})") from None


# -- terms, a users' own among them: what goes wrong in their file is told with its line -----------------


def question_of(name: str, term: Term, scene: Scene | FamilyBatch, generator: Generator) -> Query | None:
    """What a term asks of a scene; UserError where it cannot be asked there."""
    try:
        question = term.query(scene, generator)  # type: ignore[arg-type]  # a batch has the draws that terms use
    except Exception as error:
        raise error_in_user_file(error, term) or error from None
    if question is not None and not isinstance(question, Query):
        raise _wrong(name, term, "query(self, scene, generator)", "a Query, as of scene.unseen_rays, or None", question)
    return question


def judged(
    name: str, term: Term, seen: Rendering, known: Mapping[str, Tensor], critic: nn.Module | None = None
) -> Tensor:
    """What a term says of its part, an Adversary with its critic, times its weight."""
    try:
        loss = term.loss(seen, known, critic) if isinstance(term, Adversary) else term.loss(seen, known)
    except Exception as error:
        raise error_in_user_file(error, term) or error from None
    if not isinstance(loss, Tensor) or loss.shape != ():
        raise _wrong(name, term, "loss(self, seen, known)", "one number, a tensor of shape (): end with .mean()", loss)
    return number(term.weight) * loss


def _wrong(name: str, term: Term, method: str, expected: str, value: object) -> UserError:
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"
    file = user_file(term)
    where = f"{file.path}: " if file else ""
    return UserError(f"{where}prior '{name}': {method} returned {found}; expected {expected}")


def scene_for(recipe: Recipe, scene: Scene) -> Scene:
    """The scene on the recipe's background: of pictures with alpha, which is drawn per ray unless a colour is named."""
    if recipe.background == "scene" or scene.pictures.values.shape[1] == 3:
        return scene
    if recipe.background == "random":
        return scene.with_background(Background("random"))
    value = 1.0 if recipe.background == "white" else 0.0
    return scene.with_background(Background("colour", (value, value, value)))

"""Tasks: what one step of training means. `FitScene`: one model, one scene, any terms.

A task owns its modules and optimiser and answers `losses(step, progress)`. It carries nothing from step to step but
those: every consumer of randomness draws at step k from a generator seeded by (seed, k, its name), so a run resumes to
the same bits, and arms of a study that differ in their terms see the same photographed rays.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import torch
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths.schedules import number, resolve, resolver
from rayprior.priors.spec import error_in_user_file, user_file
from rayprior.priors.term import Term
from rayprior.rendering.coarse import CoarseFieldSampler
from rayprior.rendering.model import Model
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Background, Scene
from rayprior.training.recipe import Recipe


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
        field, sampler = resolve((recipe.field, recipe.sampler), 0, 0.0)
        self.model = Model.build(field, sampler, recipe.space, recipe.compositing, recipe.codes).to(device)
        if self.model.codes is not None:
            self.model.codes.learns_from(self.scene.split.train)
        tables = {id(p) for p in self.model.field.tables()}
        groups = [
            {"params": [p for p in self.model.parameters() if id(p) in tables], "rate": "tables"},
            {"params": [p for p in self.model.parameters() if id(p) not in tables], "rate": "lr"},
        ]
        adam = recipe.optimiser
        self.optimiser = torch.optim.Adam(
            [group for group in groups if group["params"]], betas=adam.betas, eps=adam.eps, fused=True
        )
        self._at = resolver(recipe)
        self._now = recipe
        self.rays: dict[str, int] = {}

    def losses(self, step: int, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """Each term's weighted loss by name, and the mean squared error of the photographed rays (detached)."""
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
            part, known = parts.get(name, parts["photo"])
            if len(part):  # an empty part is skipped and counted, never a mean of nothing
                losses[name] = number(term.weight) * _judged(name, term, part, known)
        photo, known = parts["photo"]
        return losses, (photo.rgb.detach() - known["rgb"]).square().mean()

    def step(self) -> None:
        """Step the optimiser at the rates of the last `losses` and forget the gradients."""
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
        return {"optimiser": self.optimiser.state_dict()}

    def load_state(self, state: Mapping[str, object]) -> None:
        """The optimiser's state; UserError where it is not that of this model."""
        try:
            self.optimiser.load_state_dict(state["optimiser"])  # type: ignore[arg-type]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"the checkpoint's optimiser is not that of this recipe ({error})") from None


# -- terms, a users' own among them: what goes wrong in their file is told with its line -----------------


def question_of(name: str, term: Term, scene: Scene, generator: Generator) -> Query | None:
    """What a term asks of a scene; UserError where it cannot be asked there."""
    try:
        question = term.query(scene, generator)
    except Exception as error:
        raise error_in_user_file(error, term) or error from None
    if question is not None and not isinstance(question, Query):
        raise _wrong(name, term, "query(self, scene, generator)", "a Query, as of scene.unseen_rays, or None", question)
    return question


def _judged(name: str, term: Term, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
    """What a term says of its part."""
    try:
        loss = term.loss(seen, known)
    except Exception as error:
        raise error_in_user_file(error, term) or error from None
    if not isinstance(loss, Tensor) or loss.shape != ():
        raise _wrong(name, term, "loss(self, seen, known)", "one number, a tensor of shape (): end with .mean()", loss)
    return loss


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

"""FitFamily: what one step of training means where there are many scenes, of each a few pictures (NeRF-VAE).

Some scenes are drawn, of each some views to infer its latent from and others to judge it by, which are never among
those that were shown. Everything else is as for one scene: terms ask, all is rendered at once, terms judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from rayprior.fields.codes import Posterior
from rayprior.maths.draws import share_of
from rayprior.maths.schedules import resolve, resolver
from rayprior.networks.gqn import Gqn
from rayprior.priors.term import Term
from rayprior.rendering.model import Model
from rayprior.scenes.family import Family
from rayprior.scenes.rays import Query, Rays
from rayprior.training import processes
from rayprior.training.recipe import Episodes, Recipe
from rayprior.training.tasks import generator_for, judged, load_optimiser, optimiser_of, question_of


@dataclass(frozen=True, eq=False)
class Episode:
    """The scenes of a step, and which of their views are shown and which are judged."""

    scenes: Int[Tensor, "b"]
    context: Int[Tensor, "b c"]
    targets: Int[Tensor, "b t"]


@dataclass(frozen=True, eq=False)
class Asked:
    """The questions of a step, all their rays together, and which of the episode's scenes each ray is of."""

    questions: dict[str, Query]
    rays: Rays
    slot: Int[Tensor, "r"]


def draw_episode(family: Family, episodes: Episodes, generator: Generator) -> Episode:
    """Different training scenes as long as there are enough; as many views shown of each, uniform in 1..context."""
    train = torch.tensor(family.split.train)
    order = torch.randperm(len(train), generator=generator)
    scenes = train[order[torch.arange(episodes.scenes) % len(train)]]
    targets = min(episodes.targets, family.views - 1)
    most = min(episodes.context, family.views - targets)
    count = int(torch.randint(1, most + 1, (1,), generator=generator))
    views = torch.rand(len(scenes), family.views, generator=generator).argsort(dim=1)
    return Episode(scenes, views[:, :count], views[:, count : count + targets])


class FitFamily:
    """Fit one model to many scenes: infer, ask, render once, judge, for the encoder's guess and every refinement of it.

    Later guesses count more: k + 1 of all K + 1, and all together 1. `rays` counts, by who asked, those of the last
    step.
    """

    def __init__(self, recipe: Recipe, family: Family, seed: int, device: torch.device) -> None:
        assert recipe.episodes is not None
        self.recipe, self.family, self.seed, self.device = recipe, family, seed, device
        self.episodes = recipe.episodes
        torch.manual_seed(seed)
        assert not isinstance(recipe.field, Gqn)
        field, sampler = resolve((recipe.field, recipe.sampler), 0, 0.0)
        self.model = Model.build(field, sampler, recipe.space, recipe.compositing, recipe.codes, recipe.inference).to(
            device
        )
        assert self.model.codes is not None
        assert self.model.codes.latent is not None
        self.model.codes.latent.requires_grad_(False)  # the middle of the prior, which is what an unknown scene has
        views = torch.arange(family.views)
        learning = torch.tensor(family.split.train)[:, None] * family.views + views
        self.model.codes.learns_from(tuple(learning.flatten().tolist()) if recipe.codes.of_photographs else ())
        self.optimiser = optimiser_of(self.model, recipe.optimiser)
        self._at = resolver(recipe)
        self._now = recipe
        self.rays: dict[str, int] = {}

    def losses(self, step: int, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """Each term's weighted loss by name, and the mean squared error of the judged rays (detached).

        The scenes are shared by the processes, and each works on its own in `episodes.accumulate` parts: of all but the
        last the gradients are there when this returns. All parts draw what the whole would. A part's loss counts by its
        share of the rays, which is the loss of the whole for terms that are means over rays; one that leaves rays out
        (a masked entropy, depth where some is unknown) has its mean in each part.
        """
        if self._at is not None:
            self._now = self._at(step, progress)
            self.model.field.config = self._now.field
        recipe = self._now

        def generator(name: str) -> Generator:
            return generator_for(self.seed, step, name)

        episode = draw_episode(self.family, self.episodes, generator("episode"))
        asked = self._ask(recipe, episode, generator)
        self.rays = {name: len(question) for name, question in asked.questions.items()}
        names = [name for name in recipe.terms if len(asked.questions.get(name, asked.questions["photo"]))]
        slots = torch.arange(len(episode.scenes)).tensor_split(processes.count())[processes.number()]
        parts = slots.tensor_split(self.episodes.accumulate)
        self.optimiser.zero_grad(set_to_none=True)
        sums, error = dict.fromkeys(names, torch.zeros((), device=self.device)), torch.zeros((), device=self.device)
        for i, part in enumerate(parts):
            losses, missed = self._judged(recipe, episode, asked, part, generator)
            if i + 1 < len(parts):
                torch.stack(list(losses.values())).sum().backward()
                losses = {name: loss.detach() for name, loss in losses.items()}
            sums = {name: total + losses.get(name, 0) for name, total in sums.items()}
            error = error + missed
        if processes.count() == 1:
            return sums, error
        mine = torch.stack([*sums.values(), error]).detach()
        others = processes.added(mine) - mine  # the value is that of all, the gradient this process's
        return {name: sums[name] + other for name, other in zip(names, others, strict=False)}, error + others[-1]

    def step(self) -> None:
        """Step the optimiser at the rates of the last `losses`, the gradient no longer than `clip`; forget it."""
        processes.add_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.episodes.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = getattr(self._now.optimiser, group["rate"])
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        return {"optimiser": self.optimiser.state_dict()}

    def load_state(self, state: Mapping[str, object]) -> None:
        """The optimiser's state; UserError where it is not that of this model."""
        load_optimiser(self.optimiser, state)

    # -- what is asked -------------------------------------------------------------------------------------------------

    def _ask(self, recipe: Recipe, episode: Episode, generator: Callable[[str], Generator]) -> Asked:
        """The judged pixels first, as many of each scene, then the rays of every term that has its own question."""
        assert recipe.photo.rays is not None
        photo = judged_pixels(self.family, episode, recipe.photo.rays, generator("photo"))
        questions = {"photo": photo}
        batch = self.family.among(episode.scenes)
        for name, term in recipe.terms.items():
            if type(term).query is Term.query:
                continue
            question = question_of(name, term, batch, generator(name))
            if question is not None:
                questions[name] = question
        rays = Rays.cat([question.rays for question in questions.values()])
        slots = torch.arange(len(episode.scenes))
        of_scene = torch.zeros(len(self.family), dtype=torch.long)
        of_scene[episode.scenes] = slots  # a scene that was drawn twice is asked at its last slot
        slot = of_scene[rays.scene]
        slot[: len(photo)] = slots.repeat_interleave(len(photo) // len(slots))
        return Asked(questions, replace(rays, camera=self._photographs(rays)), slot)

    def _photographs(self, rays: Rays) -> Int[Tensor, "r"]:
        """Which picture of the family each ray is of, for codes of photographs; -1 for none."""
        return torch.where(rays.camera < 0, rays.camera, rays.scene * self.family.views + rays.camera)

    # -- and judged ----------------------------------------------------------------------------------------------------

    def _judged(
        self,
        recipe: Recipe,
        episode: Episode,
        asked: Asked,
        slots: Int[Tensor, "k"],
        generator: Callable[[str], Generator],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What the scenes in these slots add to each term's loss, and to the squared error."""
        whole = len(slots) == len(episode.scenes)
        chosen = slice(None) if whole else (asked.slot[:, None] == slots).any(dim=1).nonzero()[:, 0]
        rays = asked.rays[chosen].to(self.device)
        row = (asked.slot[chosen] - slots[0]).to(self.device)
        parts: dict[str, tuple[slice, dict[str, Tensor], float]] = {}
        start = first = 0
        for name, question in asked.questions.items():
            here = slice(None)
            if isinstance(chosen, Tensor):
                here = chosen[(chosen >= first) & (chosen < first + len(question))] - first
            part = question[here].to(self.device)
            parts[name] = slice(start, start + len(part)), part.known, len(part) / max(len(question), 1)
            start, first = start + len(part), first + len(question)

        def drawn(name: str, of: Int[Tensor, "n"] | slice, count: int) -> Generator:
            return generator(name) if isinstance(of, slice) else share_of(generator(name), of, count)

        losses: dict[str, Tensor] = {}
        error = torch.zeros((), device=self.device)
        of_scenes = slice(None) if whole else slots
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.episodes.bf16):
            shown = self.family.shown(episode.scenes[slots], episode.context[slots]).to(self.device)
            found = self.model.infer(shown, drawn("inference", of_scenes, len(episode.scenes)))
        guesses = [Posterior(guess.mean.float(), guess.log_std.float()) for guess in found]
        shares = torch.arange(1.0, len(guesses) + 1)
        for guess, share in zip(guesses, (shares / shares.sum()).tolist(), strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.episodes.bf16):
                latent = guess.sample(drawn("latent", of_scenes, len(episode.scenes)))
                assert self.model.codes is not None
                code = replace(self.model.codes(rays.camera), latent=latent[row], posterior=guess)
                seen = self.model.render(rays, drawn("sampler", chosen, len(asked.rays)), code=code)
            for name, term in recipe.terms.items():
                place, known, weight = parts.get(name, parts["photo"])
                if weight:
                    loss = share * weight * judged(name, term, seen[place], known)
                    losses[name] = losses[name] + loss if name in losses else loss
            place, known, weight = parts["photo"]
            error = weight * (seen.rgb[place].detach() - known["rgb"]).square().mean()
        return losses, error


def judged_pixels(family: Family, episode: Episode, rays: int, generator: Generator) -> Query:
    """rays // scenes random pixels of each scene's targets; `stands_for`: how many pixels each speaks for."""
    each, targets = rays // len(episode.scenes), episode.targets.shape[1]
    width, height = family.size
    scenes = episode.scenes.repeat_interleave(each)
    which = torch.randint(targets, (len(episode.scenes), each), generator=generator)
    views = episode.targets.gather(1, which).flatten()
    column = torch.randint(width, (len(scenes),), generator=generator)
    line = torch.randint(height, (len(scenes),), generator=generator)
    asked = family.query(scenes, views, torch.stack([column, line], dim=1) + 0.5)
    stands_for = torch.full((len(scenes),), targets * width * height / each)
    return Query(asked.rays, {**asked.known, "stands_for": stands_for})

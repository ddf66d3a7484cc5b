"""FitPictures: what one step of training means for the convolutional rival, which paints and renders nothing (GQN)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rayprior.maths.schedules import number, resolve, resolver
from rayprior.networks.gqn import Gqn, GqnModel
from rayprior.scenes.family import Family
from rayprior.training.family import draw_episode
from rayprior.training.recipe import Recipe
from rayprior.training.tasks import generator_for, load_optimiser


class FitPictures:
    """Fit a `Gqn` to the training scenes of a family: show some views of each, paint others, judge.

    The scenes and views of a step are those that `FitFamily` draws at the same seed. The losses are the negative ELBO
    of a target picture in nats for each of its colour values, so learning rates and clipping mean the same at every
    size. `rays` counts the pixels that the last step judged.
    """

    def __init__(self, recipe: Recipe, family: Family, seed: int, device: torch.device) -> None:
        """UserError where the model takes no pictures of the family's size."""
        assert recipe.episodes is not None
        self.recipe, self.family, self.seed, self.device = recipe, family, seed, device
        self.episodes = recipe.episodes
        torch.manual_seed(seed)
        self.model: GqnModel = _network(resolve(recipe.field, 0, 0.0)).build(family.size).to(device)
        adam = recipe.optimiser
        self.optimiser = torch.optim.Adam(self.model.parameters(), betas=adam.betas, eps=adam.eps, fused=True)
        self._at = resolver(recipe)
        self._now = recipe
        self.rays: dict[str, int] = {}

    def losses(self, step: int, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """Likelihood and KL by name, and the mean squared error (detached) of one predicted target of each scene.

        The losses are of a posterior that has seen its target; the error is not, since it says how good the model is.
        """
        if self._at is not None:
            self._now = self._at(step, progress)
            self.model.config = _network(self._now.field)
        episode = draw_episode(self.family, self.episodes, generator_for(self.seed, step, "episode"))
        shown = self.family.shown(episode.scenes, episode.context).to(self.device)
        asked = self.family.shown(episode.scenes, episode.targets).to(self.device)
        r = self.model.represent(shown)
        nll, kl, _ = self.model.loss_parts(r, asked, generator_for(self.seed, step, "latents"))
        self.rays = {"photo": asked.rgb[..., 0].numel()}
        values = asked.rgb[0, 0].numel()
        one = self.family.shown(episode.scenes, episode.targets[:, :1]).to(self.device)
        with torch.no_grad():
            error = (self.model.predict(r, one) - one.rgb).square().mean()
        return {"likelihood": nll.mean() / values, "kl": kl.mean() / values}, error

    def step(self) -> None:
        """Step the optimiser at the rate of the last `losses`, the gradient no longer than `clip`; forget it."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.episodes.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = number(self._now.optimiser.lr)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        return {"optimiser": self.optimiser.state_dict()}

    def load_state(self, state: Mapping[str, object]) -> None:
        """The optimiser's state; UserError where it is not that of this model."""
        load_optimiser(self.optimiser, state)


def _network(field: object) -> Gqn:
    """What stands where other recipes have a field."""
    assert isinstance(field, Gqn)
    return field

"""Predicted: pictures of a scene from a few of its views, by whatever predicts them, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from rayprior.fields.codes import Posterior
from rayprior.networks.gqn import GqnModel
from rayprior.rendering.model import Model
from rayprior.scenes.family import Views
from rayprior.scenes.rays import Rays

RAYS_AT_ONCE = 512  # what they carry stays in the cache: twice as fast on a CPU as 8,192
SEED = 0  # of draws where nobody gives a generator


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted of some views, and how sure that is.

    rgb        the mean latent's picture, in [0, 1]
    distance   along its rays, working units; None where nothing is known of geometry
    draws      pictures of latents drawn from what is believed
    posterior  what is believed of the scenes' latents, where there is one latent a scene
    """

    rgb: Float[Tensor, "b v h w 3"]
    distance: Float[Tensor, "b v h w"] | None = None
    draws: Float[Tensor, "n b v h w 3"] | None = None
    posterior: Posterior | None = None

    @property
    def deviation(self) -> Float[Tensor, "b v h w"] | None:
        """Standard deviation of the draws, root mean square over channels."""
        return None if self.draws is None else self.draws.std(dim=0, correction=0).square().mean(dim=-1).sqrt()


class Predictor(Protocol):
    """What can be measured: see `Rendered` and `Painted`."""

    def predict(self, shown: Views, asked: Views, draws: int = 0, generator: Generator | None = None) -> Prediction: ...

    def unseeing(self, asked: Views) -> Prediction:
        """What is predicted of a scene of which nothing was shown."""
        ...


@dataclass(frozen=True, eq=False)
class Rendered:
    """A radiance field whose scenes' latents are inferred. refinements: another number than it was trained with."""

    model: Model
    refinements: int | None = None

    @torch.no_grad()
    def predict(self, shown: Views, asked: Views, draws: int = 0, generator: Generator | None = None) -> Prediction:
        posterior = self.model.infer(shown.to(self.model.device), None, self.refinements)[-1]
        rgb, distance = self.render(asked, posterior.mean)
        generator = generator or Generator().manual_seed(SEED)
        drawn = [self.render(asked, posterior.sample(generator))[0] for _ in range(draws)]
        cpu = Posterior(posterior.mean.cpu(), posterior.log_std.cpu())
        return Prediction(rgb, distance, torch.stack(drawn) if drawn else None, cpu)

    def unseeing(self, asked: Views) -> Prediction:
        assert self.model.codes is not None
        assert self.model.codes.latent is not None
        nothing = self.model.codes.latent.new_zeros(len(asked), self.model.codes.config.latent)
        return Prediction(*self.render(asked, nothing))

    @torch.no_grad()
    def render(
        self, asked: Views, latent: Float[Tensor, "b z"]
    ) -> tuple[Float[Tensor, "b v h w 3"], Float[Tensor, "b v h w"]]:
        """Pictures and median distances of the scenes that these latents are, on the CPU; photographs in the mean
        light."""
        assert self.model.codes is not None
        rays, row = rays_of(asked)
        device = self.model.device
        parts = []
        for start in range(0, len(rays), RAYS_AT_ONCE):
            part = rays[start : start + RAYS_AT_ONCE].to(device)
            code = self.model.codes(part.camera)
            code = replace(code, latent=latent.to(device)[row[start : start + RAYS_AT_ONCE].to(device)])
            seen = self.model.render(part, code=code)
            parts.append((seen.rgb.clamp(0, 1).cpu(), seen.distance.cpu()))
        rgb, distance = (torch.cat(part) for part in zip(*parts))
        return rgb.view_as(asked.rgb), distance.view(asked.rgb.shape[:-1])


@dataclass(frozen=True, eq=False)
class Painted:
    """The convolutional rival: it knows no distance, and every picture has latents of its own."""

    model: GqnModel

    @torch.no_grad()
    def predict(self, shown: Views, asked: Views, draws: int = 0, generator: Generator | None = None) -> Prediction:
        r, asked = self.model.represent(self._here(shown)), self._here(asked)
        rgb = self.model.predict(r, asked).cpu().clamp(0, 1)
        if not draws:
            return Prediction(rgb)
        generator = generator or Generator().manual_seed(SEED)
        return Prediction(rgb, draws=self.model.samples(r, asked, draws, generator).cpu().clamp(0, 1))

    def unseeing(self, asked: Views) -> Prediction:
        return self.predict(replace(asked, present=torch.zeros_like(asked.present)), asked)

    def _here(self, views: Views) -> Views:
        return views.to(next(self.model.parameters()).device)


def predictor_of(model: Model | GqnModel) -> Rendered | Painted:
    """How a model's pictures are asked for."""
    return Painted(model) if isinstance(model, GqnModel) else Rendered(model)


def rays_of(views: Views) -> tuple[Rays, Int[Tensor, "r"]]:
    """All rays of all views, row by row, and of which scene each is."""
    count = views.rgb[..., 0].numel()
    reach = views.reach.reshape(count, 2)
    rays = Rays.through(views.origins.reshape(count, 3), views.directions.reshape(count, 3), reach[:, 0], reach[:, 1])
    rays = replace(rays, background=views.background.expand(count, 3))
    return rays, torch.arange(len(views)).repeat_interleave(count // max(len(views), 1))

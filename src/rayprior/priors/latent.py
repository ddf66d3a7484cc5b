"""NeRF-VAE's evidence lower bound: how well pictures of a scene are explained, and what its latent costs to tell.

Kosiorek et al. (ICML 2021), standard form. Both terms are in nats for each colour value of the pictures that a scene
is judged by, so their sum at weight 1 is the negative ELBO over N_t H W 3, and learning rates and clipping mean the
same at every size. A subset of the pixels stands for all: known `stands_for`, N_t H W / |S| of each ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule
from rayprior.priors.term import Likelihood, Prior
from rayprior.rendering.inference import negative_log_likelihood
from rayprior.rendering.rendering import Rendering

FAMILIES = "it judges scenes of a family whose latents are inferred: use it with the recipe nerf-vae"


@dataclass(frozen=True)
class SceneLikelihood(Likelihood):
    """-ln N(picture; rendering, std^2) of the scenes' target views, an unbiased estimate from the rays of the step.

    std     standard deviation of a colour; the same in all models whose ELBOs are compared
    coarse  weight of the same of the coarse level, which is no part of the ELBO
    """

    weight: float | Schedule = 1.0
    std: float = 0.1
    coarse: float = 1.0

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        if "stands_for" not in known:
            raise UserError(f"prior 'scene_likelihood': {FAMILIES}")
        values = 3 * known["stands_for"].sum()
        nats = negative_log_likelihood(seen.rgb, known["rgb"], self.std)
        if seen.coarse is not None:
            nats = nats + self.coarse * negative_log_likelihood(seen.coarse.rgb, known["rgb"], self.std)
        return (known["stands_for"] * nats).sum() / values


@dataclass(frozen=True)
class LatentKL(Prior):
    """KL from the prior N(0, 1) to what is believed of each scene's latent; `weight` is beta, 1 in the ELBO."""

    weight: float | Schedule = 1.0

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        if "stands_for" not in known or seen.code is None or seen.code.posterior is None:
            raise UserError(f"prior 'latent_kl': {FAMILIES}")
        return seen.code.posterior.kl().sum() / (3 * known["stands_for"].sum())

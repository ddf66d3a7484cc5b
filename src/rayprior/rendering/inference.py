"""Inference: what a few pictures say of the latent of a scene never seen before (NeRF-VAE, Kosiorek et al., ICML 2021).

An encoder guesses; then each refinement renders some pixels of the pictures at a draw of the guess, and moves it by
what the gradient of the ELBO says there (iterative amortised inference, Marino et al., ICML 2018). The guess reaches
the geometry of the pictures through that gradient alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as default
from math import log, pi

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from rayprior.fields.codes import Code, Posterior
from rayprior.networks.encoder import Encoder
from rayprior.networks.refinement import Refinement
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.family import Views
from rayprior.scenes.rays import Rays


@dataclass(frozen=True)
class Inference:
    """How latents are inferred.

    refinements  how often the encoder's guess is improved (K); each renders `rays` pixels a scene
    std          standard deviation of a colour under the model: of the ELBO whose gradient a refinement sees
    """

    encoder: Encoder = default(default_factory=Encoder)
    refinement: Refinement = default(default_factory=Refinement)
    refinements: int = 0
    rays: int = 64
    std: float = 0.1

    def build(self, latent: int) -> Inferrer:
        """latent: how many numbers a scene has."""
        return Inferrer(self, latent)


class Inferrer(nn.Module):
    """Encoder and refinement. Works, and gives the same, inside `torch.no_grad()`: it makes its own gradient."""

    def __init__(self, config: Inference, latent: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build(latent)
        self.refinement = None
        if config.refinements:
            self.refinement = config.refinement.build(latent, self.encoder.features)

    def forward(
        self,
        views: Views,
        render: Callable[[Rays, Generator | None, Code], Rendering],
        generator: Generator | None = None,
        refinements: int | None = None,
    ) -> list[Posterior]:
        """What is believed after 0, 1, ..., K refinements.

        generator    of the pixels and draws that refinements look at; without one always the same of seed 0
        refinements  another number than it was trained with
        """
        embedding = self.encoder.embed(views.rgb, views.origins, views.directions, views.present)
        found = [Posterior(*self.encoder.head(embedding))]
        count = self.config.refinements if refinements is None else refinements
        if count == 0 or self.refinement is None:
            return found
        generator = generator or Generator().manual_seed(0)
        for _ in range(count):
            now = found[-1]
            slope = self._slope(now, views, render, generator)
            found.append(Posterior(*self.refinement(embedding, now.mean, now.log_std, *slope)))
        return found

    def _slope(
        self, now: Posterior, views: Views, render: Callable, generator: Generator
    ) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """The gradient of the context's ELBO, nats a scene, by mean and log_std; detached."""
        config = self.config
        with torch.enable_grad():
            at = Posterior(now.mean.detach().requires_grad_(), now.log_std.detach().requires_grad_())
            asked = views.draw(config.rays, generator)
            latent = at.sample(generator)
            seen = render(asked.rays, generator, Code.of_scenes(latent[asked.known["row"]], at))
            missed = negative_log_likelihood(seen.rgb, asked.known["rgb"], config.std) * asked.known["stands_for"]
            elbo = -missed.sum() - at.kl().sum()
            by_mean, by_log_std = torch.autograd.grad(elbo, (at.mean, at.log_std))
        return by_mean, by_log_std


def negative_log_likelihood(rgb: Float[Tensor, "r 3"], truth: Float[Tensor, "r 3"], std: float) -> Float[Tensor, "r"]:
    """-ln N(truth; rgb, std^2), nats, summed over channels."""
    return (rgb - truth).square().sum(dim=1) / (2 * std**2) + 3 * (log(std) + 0.5 * log(2 * pi))

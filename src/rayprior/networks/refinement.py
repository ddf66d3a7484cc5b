"""Refinement: one step of iterative amortised inference: a belief and the ELBO's gradient in it -> a better belief.

Marino et al., Iterative Amortized Inference (ICML 2018); NeRF-VAE (Kosiorek et al., ICML 2021) uses it so that
inference meets the geometry through rendering.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FAINTEST = 10.0  # gradients below e^-10 are told apart by their value, those above by its logarithm


@dataclass(frozen=True)
class Refinement:
    """lambda <- lambda + gate * net(embedding, lambda, norm(gradient)), lambda = (mean, log_std).

    hidden  of the two hidden layers
    gate    how large a step is before anything is learned; there is one a number of lambda, and it learns
    norm    layer: gradients of mean and of log_std are each normalised over a scene's latent; their size is lost
            log-sign: each number is given by the logarithm of its size and its sign
    """

    hidden: int = 256
    gate: float = 0.1
    norm: Literal["layer", "log-sign"] = "layer"

    def build(self, latent: int, features: int) -> SceneRefinement:
        """latent, features: lengths of the latent and of the encoder's embedding."""
        return SceneRefinement(self, latent, features)


class SceneRefinement(nn.Module):
    """One step, the same net for every step. With `gate` zero it gives back the belief that it was given."""

    def __init__(self, config: Refinement, latent: int, features: int) -> None:
        super().__init__()
        self.config = config
        numbers = 2 * latent  # of lambda
        gradients = numbers if config.norm == "layer" else 2 * numbers
        self.net = nn.Sequential(
            nn.Linear(features + numbers + gradients, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, numbers),
        )
        self.gate = nn.Parameter(torch.full((numbers,), config.gate))

    def forward(
        self,
        embedding: Float[Tensor, "b f"],
        mean: Float[Tensor, "b z"],
        log_std: Float[Tensor, "b z"],
        gradient_mean: Float[Tensor, "b z"],
        gradient_log_std: Float[Tensor, "b z"],
    ) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """The refined mean and log_std. Gradients are of the ELBO (or of its negative, always the same one) in nats,
        detached; any finite ones give finite beliefs."""
        norm = layer if self.config.norm == "layer" else log_sign
        said = torch.cat([embedding, mean, log_std, norm(gradient_mean), norm(gradient_log_std)], dim=1)
        step_mean, step_log_std = (self.gate * self.net(said)).chunk(2, dim=1)
        return mean + step_mean, log_std + step_log_std


def layer(gradient: Float[Tensor, "b z"]) -> Float[Tensor, "b z"]:
    """Zero mean and unit variance over a scene's numbers, whatever their size; zeros stay zeros."""
    largest = gradient.abs().amax(dim=1, keepdim=True)  # or squares of small and of large ones leave the floats
    return F.layer_norm(gradient / torch.where(largest > 0, largest, 1), gradient.shape[1:])


def log_sign(gradient: Float[Tensor, "b z"]) -> Float[Tensor, "b 2*z"]:
    """(ln |g| / 10, sign g) where |g| > e^-10, else (-1, e^10 g), which joins it without a jump; a number's two lie
    side by side (Andrychowicz et al., Learning to Learn by Gradient Descent by Gradient Descent, 2016, appendix A)."""
    size = gradient.abs().clamp_min(exp(-FAINTEST)).log() / FAINTEST
    sign = (gradient * exp(FAINTEST)).clamp(-1, 1)
    return torch.stack([size, sign], dim=-1).flatten(start_dim=1)

"""Compositing along rays: density, lengths and values of the bins -> weights, opacity and accumulated values.

Floor: reads each density, length and value once, writes the weights once; about 6 operations and one exponential a bin
and one multiply-add a value channel.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def composite_reference(
    density: Float[Tensor, "r S"],
    lengths: Float[Tensor, "r S"],
    values: Float[Tensor, "r S c"],
    opaque_tail: bool = False,
) -> tuple[Float[Tensor, "r S"], Float[Tensor, "r"], Float[Tensor, "r c"]]:
    """w_i = T_i (1 - exp(-tau_i)); opacity = sum w; accumulated = sum w_i values_i (NeRF, eq. 3)."""
    tau = density * lengths
    if opaque_tail:  # alpha of the last bin = 1 where density > 0
        tail = torch.where(density[:, -1:] > 0, torch.full_like(tau[:, -1:], torch.inf), torch.zeros_like(tau[:, -1:]))
        tau = torch.cat([tau[:, :-1], tail], dim=1)
    ahead = torch.cat([torch.zeros_like(tau[:, :1]), tau[:, :-1].cumsum(dim=1)], dim=1)
    weights = torch.exp(-ahead) * -torch.expm1(-tau)
    return weights, weights.sum(dim=1), (weights[..., None] * values).sum(dim=1)


composite = composite_reference

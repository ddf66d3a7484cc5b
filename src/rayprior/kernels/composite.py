"""Compositing along rays: density, lengths and values of the bins -> weights, opacity and accumulated values.

Floor: reads each density, length and value once, writes the weights once; about 6 operations and one exponential a bin
and one multiply-add a value channel. The backward pass reads the same and writes the gradients of density and values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from rayprior.kernels.threads import threads


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


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _composite(parts, density, lengths, values, weights, opacity, seen):
    rays, bins = density.shape
    channels = values.shape[2]
    for part in prange(parts):
        for r in range(part * rays // parts, (part + 1) * rays // parts):
            through = np.float32(1)
            for c in range(channels):
                seen[r, c] = np.float32(0)
            for b in range(bins):
                after = through * np.exp(-density[r, b] * lengths[r, b])
                w = through - after
                weights[r, b] = w
                through = after
                for c in range(channels):
                    seen[r, c] += w * values[r, b, c]
            opacity[r] = np.float32(1) - through


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _composite_backward(
    parts, lengths, values, weights, grad_weights, grad_opacity, grad_seen, grad_density, grad_values
):
    rays, bins = lengths.shape
    channels = values.shape[2]
    for part in prange(parts):
        for r in range(part * rays // parts, (part + 1) * rays // parts):
            through = np.float32(1)
            for b in range(bins):
                through -= weights[r, b]
            behind = np.float32(0)  # sum over bins behind of w_j times the gradient of w_j
            for back in range(bins):
                b = bins - 1 - back
                w = weights[r, b]
                g = grad_weights[r, b] + grad_opacity[r]
                for c in range(channels):
                    g += grad_seen[r, c] * values[r, b, c]
                    grad_values[r, b, c] = w * grad_seen[r, c]
                # dw_b/dtau_b = T_b - w_b = what passes the bin; dw_j/dtau_b = -w_j behind it
                grad_density[r, b] = lengths[r, b] * (through * g - behind)
                behind += w * g
                through += w


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density, lengths, values):
        density, lengths, values = density.contiguous(), lengths.contiguous(), values.contiguous()
        weights = torch.empty_like(density)
        opacity = torch.empty(density.shape[0])
        seen = torch.empty(density.shape[0], values.shape[2])
        arrays: Any = [a.detach().numpy() for a in (density, lengths, values, weights, opacity, seen)]
        _composite(threads(), *arrays)
        ctx.save_for_backward(lengths, values, weights)
        return weights, opacity, seen

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors
        lengths, values, _ = saved
        grad_density, grad_values = torch.empty_like(lengths), torch.empty_like(values)
        arrays: Any = [a.contiguous().numpy() for a in (*saved, *grad_outputs, grad_density, grad_values)]
        _composite_backward(threads(), *arrays)
        return grad_density, None, grad_values


def composite(
    density: Float[Tensor, "r S"],
    lengths: Float[Tensor, "r S"],
    values: Float[Tensor, "r S c"],
    opaque_tail: bool = False,
) -> tuple[Float[Tensor, "r S"], Float[Tensor, "r"], Float[Tensor, "r c"]]:
    """Weights, opacity and sum of weight x value. Once differentiable in density and values on the CPU twin."""
    if density.is_cuda or density.dtype != torch.float32 or opaque_tail:
        return composite_reference(density, lengths, values, opaque_tail)
    return _Composite.apply(density, lengths, values)

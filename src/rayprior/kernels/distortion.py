"""Distortion of a histogram, forward and backward in one pass each (mip-NeRF 360, eq. 15).

Floor: reads edges and weights once, writes the gradient once; about 12 operations a bin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from rayprior.kernels.threads import threads
from rayprior.maths.stepfun import distortion as distortion_reference


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _distortion(parts, t, w, value, grad):
    rays, bins = w.shape
    half, third = np.float32(0.5), np.float32(1 / 3)
    for part in prange(parts):
        for r in range(part * rays // parts, (part + 1) * rays // parts):
            mass, moment = np.float32(0), np.float32(0)
            for b in range(bins):
                mass += w[r, b]
                moment += w[r, b] * half * (t[r, b] + t[r, b + 1])
            ahead, moment_ahead, total = np.float32(0), np.float32(0), np.float32(0)
            for b in range(bins):
                weight, m, width = w[r, b], half * (t[r, b] + t[r, b + 1]), t[r, b + 1] - t[r, b]
                behind, moment_behind = mass - ahead - weight, moment - moment_ahead - weight * m
                # sum over the other bins of w_j |m - m_j|
                others = m * (ahead - behind) - moment_ahead + moment_behind
                total += weight * (others + weight * width * third)
                grad[r, b] = np.float32(2) * (others + weight * width * third)
                ahead += weight
                moment_ahead += weight * m
            value[r] = total


class _Distortion(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t, w):
        value, grad = torch.empty(w.shape[0]), torch.empty_like(w)
        _distortion(threads(), t.detach().numpy(), w.detach().numpy(), value.numpy(), grad.numpy())
        ctx.save_for_backward(grad)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad_value,) = grad_outputs
        return None, ctx.saved_tensors[0] * grad_value[:, None]


def distortion(t: Float[Tensor, "r S+1"], w: Float[Tensor, "r S"]) -> Float[Tensor, "r"]:
    """sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 width_i of each ray; on the CPU twin the gradient is in w alone."""
    if w.is_cuda or w.dtype != torch.float32 or t.requires_grad:
        return distortion_reference(t, w)
    return _Distortion.apply(t.contiguous(), w.contiguous())

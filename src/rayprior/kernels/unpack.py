"""The linear layer's output -> density and the feature beside it, in one pass each way.

Floor: reads and writes each number once, and one exponential a sample. Written out because the same in separate
operations (slice, clamp, exponentiate, and their gradients put together again) moves every number five times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from rayprior.kernels.threads import threads

SHIFT, LARGEST = 1.0, 12.0  # density exp(x - 1), with x at most 12: 6e4 per unit is a wall at any scale


def unpack_reference(out: Float[Tensor, "n c+1"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n c"]]:
    """(exp(min(out_0, 12) - 1), out_1..c)."""
    return torch.exp(out[:, 0].clamp_max(LARGEST) - SHIFT), out[:, 1:]


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _unpack(parts, out, density, feature):
    count, channels = feature.shape
    for part in prange(parts):
        for n in range(part * count // parts, (part + 1) * count // parts):
            density[n] = np.exp(min(out[n, 0], np.float32(LARGEST)) - np.float32(SHIFT))
            for c in range(channels):
                feature[n, c] = out[n, c + 1]


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _unpack_backward(parts, out, density, grad_density, grad_feature, grad_out):
    count, channels = grad_feature.shape
    for part in prange(parts):
        for n in range(part * count // parts, (part + 1) * count // parts):
            grad_out[n, 0] = grad_density[n] * density[n] if out[n, 0] <= np.float32(LARGEST) else np.float32(0)
            for c in range(channels):
                grad_out[n, c + 1] = grad_feature[n, c]


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out):
        density, feature = torch.empty(len(out)), torch.empty(len(out), out.shape[1] - 1)
        arrays: Any = [a.detach().numpy() for a in (out, density, feature)]
        _unpack(threads(), *arrays)
        ctx.save_for_backward(out, density)
        return density, feature

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        out, density = ctx.saved_tensors
        grad_out = torch.empty_like(out)
        arrays: Any = [a.detach().contiguous().numpy() for a in (out, density, *grad_outputs, grad_out)]
        _unpack_backward(threads(), *arrays)
        return grad_out


def unpack(out: Float[Tensor, "n c+1"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n c"]]:
    """Density exp(min(x, 12) - 1) from the first number of each row, and the others as the feature."""
    if out.is_cuda or out.dtype != torch.float32 or not out.is_contiguous():
        return unpack_reference(out)
    return _Unpack.apply(out)

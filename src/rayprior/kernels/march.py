"""Proposing samples from a cached density grid: read it along a ray, cap, pad, invert the running sum.

Floor: `bins` random reads of 4 bytes a ray from a 1 MB grid, and about 20 operations a bin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from rayprior.kernels.encode import unit_coordinates
from rayprior.kernels.threads import threads
from rayprior.maths import stepfun
from rayprior.maths.space import Box

LARGEST_CAP = 0.39  # of the twin: its series for 1 - exp(-tau) ends at tau = 1/2


def spaced(t: Tensor) -> Tensor:
    """s(t) = t/2 up to 1, 1 - 1/(2t) beyond: even steps in s are even near the focus and in disparity far away."""
    return torch.where(t <= 1, t / 2, 1 - 0.5 / t.clamp_min(1))


def unspaced(s: Tensor) -> Tensor:
    """The inverse of `spaced`."""
    return torch.where(s <= 0.5, 2 * s, 0.5 / (1 - s).clamp_min(1e-6))


def march_reference(
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    near: Float[Tensor, "r"],
    far: Float[Tensor, "r"],
    u: Float[Tensor, "r n+1"],
    grid: Float[Tensor, "g g g"],
    box: Box | None,
    bins: int,
    cap: float,
    uniform: float,
) -> Float[Tensor, "r n+1"]:
    """Edges at the quantiles u of the grid's histogram, the outer two on near and far; bins are even in t for a box, in
    `spaced` t else."""
    even = torch.linspace(0, 1, bins + 1, device=near.device, dtype=near.dtype)
    start, stop = (near, far) if box is not None else (spaced(near), spaced(far))
    s = start[:, None] + (stop - start)[:, None] * even
    t = s if box is not None else unspaced(s)
    middle = stepfun.midpoints(s) if box is not None else unspaced(stepfun.midpoints(s))
    x = origins[:, None] + directions[:, None] * middle[..., None]
    side = grid.shape[0]
    cell = (unit_coordinates(x, box) * side).long().clamp(0, side - 1)
    tau = grid[cell[..., 2], cell[..., 1], cell[..., 0]] * stepfun.widths(t)
    alpha = -torch.expm1(-tau)
    alpha = alpha.clamp_max(cap)
    ahead = torch.cat([torch.ones_like(alpha[:, :1]), (1 - alpha[:, :-1]).cumprod(dim=1)], dim=1)
    weights = alpha * ahead
    total = weights.sum(dim=1, keepdim=True)
    share = torch.where(total > 1e-8, (1 - uniform) / total.clamp_min(1e-8), torch.zeros_like(total))
    rest = torch.where(total > 1e-8, uniform, torch.ones_like(total))
    edges = stepfun.quantile(s, weights * share + rest / bins, u)
    edges = edges if box is not None else unspaced(edges)
    return torch.cat([near[:, None], edges[:, 1:-1], far[:, None]], dim=1)


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _march(parts, origins, directions, near, far, u, grid, low, inverse, contracted, bins, cap, uniform, edges):
    count, side = origins.shape[0], grid.shape[0]
    one, half, two = np.float32(1), np.float32(0.5), np.float32(2)
    quarter = np.float32(0.25)
    last = np.float32(side - 1)
    for part in prange(parts):
        weights = np.empty(bins, np.float32)
        for r in range(part * count // parts, (part + 1) * count // parts):
            ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
            dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
            start, stop = near[r], far[r]
            if contracted:
                start = start * half if start <= 1 else one - half / start
                stop = stop * half if stop <= 1 else one - half / stop
            step = (stop - start) / np.float32(bins)
            for b in range(bins):  # alphas: independent of each other, so that reads overlap
                s = start + (np.float32(b) + half) * step
                t, width = s, step
                if contracted:
                    t = two * s if s <= half else half / (one - s)
                    s0, s1 = s - half * step, s + half * step
                    t0 = two * s0 if s0 <= half else half / (one - s0)
                    t1 = two * s1 if s1 <= half else half / (one - s1)
                    width = t1 - t0
                px, py, pz = ox + dx * t, oy + dy * t, oz + dz * t
                if contracted:
                    square = px * px + py * py + pz * pz
                    scale = quarter
                    if square > one:
                        length = np.sqrt(square)
                        scale = quarter * (two - one / length) / length
                    px, py, pz = px * scale + half, py * scale + half, pz * scale + half
                else:
                    px, py, pz = (px - low[0]) * inverse[0], (py - low[1]) * inverse[1], (pz - low[2]) * inverse[2]
                size = np.float32(side)
                # max(0, .): a position that is nan reads cell 0, and is still nan in the result
                i = int(min(max(np.float32(0), px * size), last))
                j = int(min(max(np.float32(0), py * size), last))
                k = int(min(max(np.float32(0), pz * size), last))
                tau = min(grid[k, j, i] * width, half)
                # 1 - exp(-tau) to 1e-3 of itself below the largest cap; above it the cap rules
                weights[b] = min(tau * (one - tau * (half - tau * (np.float32(1 / 6) - tau * np.float32(1 / 24)))), cap)
            through, total = one, np.float32(0)
            for b in range(bins):
                alpha = weights[b]
                weights[b] = alpha * through
                total += weights[b]
                through *= one - alpha
            share, rest = np.float32(0), one / np.float32(bins)
            if total > np.float32(1e-8):
                share, rest = (one - uniform) / total, uniform / np.float32(bins)
            b, below = 0, np.float32(0)
            mass = weights[0] * share + rest
            edges[r, 0], edges[r, u.shape[1] - 1] = near[r], far[r]
            for n in range(1, u.shape[1] - 1):
                target = u[r, n]
                while below + mass < target and b < bins - 1:
                    below += mass
                    b += 1
                    mass = weights[b] * share + rest
                s = start + step * (np.float32(b) + min((target - below) / mass, one))
                if contracted:
                    s = two * s if s <= half else half / (one - s)
                edges[r, n] = s


def march(
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    near: Float[Tensor, "r"],
    far: Float[Tensor, "r"],
    u: Float[Tensor, "r n+1"],
    grid: Float[Tensor, "g g g"],
    box: Box | None,
    bins: int,
    cap: float,
    uniform: float,
) -> Float[Tensor, "r n+1"]:
    """Edges at the quantiles u (ascending in each ray) of the grid's capped and padded histogram, the outer two on near
    and far whatever u says. No gradients."""
    if grid.is_cuda or origins.dtype != torch.float32 or cap > LARGEST_CAP:
        return march_reference(origins, directions, near, far, u, grid, box, bins, cap, uniform)
    low = np.zeros(3, np.float32) if box is None else np.array(box.low, np.float32)
    size = np.ones(3, np.float32) if box is None else np.array(box.high, np.float32) - low
    edges = torch.empty_like(u)
    arrays = [a.contiguous().numpy() for a in (origins, directions, near, far, u, grid)]
    limits = (bins, np.float32(cap), np.float32(uniform))
    arguments: Any = (threads(), *arrays, low, 1 / size, box is None, *limits, edges.numpy())
    _march(*arguments)
    return edges

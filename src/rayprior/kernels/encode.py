"""Multiresolution hash encoding: positions -> interpolated features (instant-ngp, Mueller et al. 2022, section 3).

Floor: levels x 8 random reads of 8 bytes a sample forward, as many read-modify-writes backward; a level of 2^15 entries
is 256 KB, so it stays in a core's L2 cache while all samples pass. The backward pass runs in parallel over levels:
disjoint outputs, no atomics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from rayprior.kernels.threads import threads
from rayprior.maths.space import Box

FEATURES = 2
PRIME_Y, PRIME_Z = 2654435761, 805459861


def level_resolutions(levels: int, coarsest: int, finest: int) -> list[int]:
    """Cells per side of each level, in geometric steps."""
    if levels == 1:
        return [coarsest]
    growth = (finest / coarsest) ** (1 / (levels - 1))
    return [int(coarsest * growth**level + 0.5) for level in range(levels)]


def unit_coordinates(x: Tensor, box: Box | None) -> Tensor:
    """World -> [0, 1]^3: the box's own, or contracted space (box None), (contract(x) + 2) / 4."""
    if box is not None:
        return box.unit(x)
    length = x.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return torch.where(length <= 1, x, (2 - 1 / length) * (x / length)) / 4 + 0.5


def encode_reference(
    x: Float[Tensor, "n 3"], tables: Float[Tensor, "levels entries 2"], resolutions: list[int], box: Box | None
) -> Float[Tensor, "n levels*2"]:
    """Trilinear interpolation of each level's corners; levels that fit are dense, the others hashed."""
    u = unit_coordinates(x, box).clamp(0, 1)
    entries = tables.shape[1]
    corners = torch.tensor([[(c >> k) & 1 for k in range(3)] for c in range(8)], device=x.device)  # (8, 3)
    out = []
    for level, resolution in enumerate(resolutions):
        scaled = u * resolution
        cell = scaled.floor().clamp(0, resolution - 1)
        share = scaled - cell
        at = cell.long()[:, None] + corners  # (n, 8, 3)
        if (resolution + 1) ** 3 <= entries:
            index = at[..., 0] + (resolution + 1) * (at[..., 1] + (resolution + 1) * at[..., 2])
        else:
            index = (at[..., 0] ^ (at[..., 1] * PRIME_Y) ^ (at[..., 2] * PRIME_Z)) & (entries - 1)
        weight = torch.where(corners.bool(), share[:, None], 1 - share[:, None]).prod(dim=-1)  # (n, 8)
        out.append((tables[level][index] * weight[..., None]).sum(dim=1))
    return torch.cat(out, dim=1)


@njit(inline="always")
def _unit(x, n, low, inverse, contracted):
    """One point in [0, 1]^3."""
    px, py, pz = x[n, 0], x[n, 1], x[n, 2]
    if contracted:
        square = px * px + py * py + pz * pz
        scale = np.float32(0.25)
        if square > 1:
            length = np.sqrt(square)
            scale = np.float32(0.25) * (np.float32(2) - np.float32(1) / length) / length
        px = px * scale + np.float32(0.5)
        py = py * scale + np.float32(0.5)
        pz = pz * scale + np.float32(0.5)
    else:
        px = (px - low[0]) * inverse[0]
        py = (py - low[1]) * inverse[1]
        pz = (pz - low[2]) * inverse[2]
    one, zero = np.float32(1), np.float32(0)
    return min(max(zero, px), one), min(max(zero, py), one), min(max(zero, pz), one)  # nan: zero


@njit(inline="always")
def _cell(u, resolution):
    """Cell and share inside it along one axis."""
    scaled = u * np.float32(resolution)
    cell = min(np.int64(scaled), resolution - 1)
    return cell, scaled - np.float32(cell)


@njit(inline="always")
def _corners(i, j, k, resolution, dense, mask):
    """Entries of a cell's eight corners, x fastest: 0 and 1 at (y, z), then (y+1, z), (y, z+1), (y+1, z+1)."""
    if dense:
        side = resolution + 1
        a = i + side * (j + side * k)
        b, c, d = a + side, a + side * side, a + side * side + side
        return a, a + 1, b, b + 1, c, c + 1, d, d + 1
    y0, y1 = (j * PRIME_Y) & mask, ((j + 1) * PRIME_Y) & mask
    z0, z1 = (k * PRIME_Z) & mask, ((k + 1) * PRIME_Z) & mask
    a, b, c, d, x = y0 ^ z0, y1 ^ z0, y0 ^ z1, y1 ^ z1, i + 1
    return a ^ i, (a ^ x) & mask, b ^ i, (b ^ x) & mask, c ^ i, (c ^ x) & mask, d ^ i, (d ^ x) & mask


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _encode(parts, x, tables, resolutions, low, inverse, contracted, out, unit):
    count = x.shape[0]
    entries = tables.shape[1]
    mask = np.int64(entries - 1)
    for part in prange(parts):
        first, last = part * count // parts, (part + 1) * count // parts
        for n in range(first, last):
            unit[n, 0], unit[n, 1], unit[n, 2] = _unit(x, n, low, inverse, contracted)
        for level in range(tables.shape[0]):
            resolution = resolutions[level]
            dense = (resolution + 1) ** 3 <= entries
            table = tables[level]
            for n in range(first, last):
                i, fx = _cell(unit[n, 0], resolution)
                j, fy = _cell(unit[n, 1], resolution)
                k, fz = _cell(unit[n, 2], resolution)
                gx, gy, gz = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
                a0, a1, b0, b1, c0, c1, d0, d1 = _corners(i, j, k, resolution, dense, mask)
                wa, wb, wc, wd = gy * gz, fy * gz, gy * fz, fy * fz
                for f in range(2):
                    near = wa * table[a0, f] + wb * table[b0, f] + wc * table[c0, f] + wd * table[d0, f]
                    away = wa * table[a1, f] + wb * table[b1, f] + wc * table[c1, f] + wd * table[d1, f]
                    out[n, 2 * level + f] = gx * near + fx * away


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _encode_backward(unit, grad, resolutions, grad_tables):
    count = unit.shape[0]
    levels, entries = grad_tables.shape[0], grad_tables.shape[1]
    mask = np.int64(entries - 1)
    for order in prange(levels):
        # threads take runs of consecutive `order`: deal coarse (cheap) and fine levels evenly
        half = (levels + 1) // 2
        level = order * 2 if order < half else (levels - 1 - order) * 2 + 1
        resolution = resolutions[level]
        dense = (resolution + 1) ** 3 <= entries
        table = grad_tables[level]
        for entry in range(entries):
            table[entry, 0], table[entry, 1] = np.float32(0), np.float32(0)
        for n in range(count):
            p, q = grad[n, 2 * level], grad[n, 2 * level + 1]
            if p == 0 and q == 0:
                continue
            i, fx = _cell(unit[n, 0], resolution)
            j, fy = _cell(unit[n, 1], resolution)
            k, fz = _cell(unit[n, 2], resolution)
            gx, gy, gz = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
            a0, a1, b0, b1, c0, c1, d0, d1 = _corners(i, j, k, resolution, dense, mask)
            wa, wb, wc, wd = gy * gz, fy * gz, gy * fz, fy * fz
            for at, w in (
                (a0, wa * gx), (a1, wa * fx), (b0, wb * gx), (b1, wb * fx),
                (c0, wc * gx), (c1, wc * fx), (d0, wd * gx), (d1, wd * fx),
            ):  # fmt: skip
                table[at, 0] += w * p
                table[at, 1] += w * q


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, tables, resolutions, box):
        contracted = box is None
        low = np.zeros(3, np.float32) if contracted else np.array(box.low, np.float32)
        size = np.ones(3, np.float32) if contracted else np.array(box.high, np.float32) - low
        levels = torch.tensor(resolutions)
        out = torch.empty(x.shape[0], tables.shape[0] * FEATURES)
        unit = torch.empty_like(x)
        arrays = [a.detach().numpy() for a in (x, tables, levels)]
        arguments: Any = (threads(), *arrays, low, 1 / size, contracted, out.numpy(), unit.numpy())
        _encode(*arguments)
        ctx.save_for_backward(unit, levels)
        ctx.shape = tables.shape
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        unit, levels = ctx.saved_tensors
        grad_tables = torch.empty(ctx.shape)
        _encode_backward(unit.numpy(), grad.contiguous().numpy(), levels.numpy(), grad_tables.numpy())
        return None, grad_tables, None, None


def encode(
    x: Float[Tensor, "n 3"], tables: Float[Tensor, "levels entries 2"], resolutions: list[int], box: Box | None
) -> Float[Tensor, "n levels*2"]:
    """Features of world positions; box None: contracted space. Gradients reach the tables; positions get one only
    from the reference, which runs where x asks for a gradient, off the CPU, and in float64."""
    if x.is_cuda or x.requires_grad or x.dtype != torch.float32:
        return encode_reference(x, tables, resolutions, box)
    return _Encode.apply(x.contiguous(), tables, resolutions, box)

"""What this machine can do at best: random reads and updates in cache, streaming, multiply-adds, exponentials.

Each rate is measured by a loop that does nothing else, on data that lies where the training's own data lies, with the
threads of the training. A floor is then a count over a rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit, prange


@dataclass(frozen=True)
class Machine:
    """Rates per second, with the given number of threads."""

    reads: float  # random 8-byte reads from 256 KB (one level of the table)
    updates: float  # random 8-byte read-modify-writes there
    cell_reads: float  # random 4-byte reads from 1 MB (the density grid)
    bytes: float  # streamed through the second-level cache, read and written
    flops: float  # fused multiply-adds count as two
    exponentials: float


@njit(parallel=True, fastmath=True, nogil=True)
def _read(parts, table, index, out):
    count = index.shape[0]
    for part in prange(parts):
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for n in range(part * count // parts // 4, (part + 1) * count // parts // 4):
            i, j, k, m = index[4 * n], index[4 * n + 1], index[4 * n + 2], index[4 * n + 3]
            a += table[i, 0] + table[i, 1]
            b += table[j, 0] + table[j, 1]
            c += table[k, 0] + table[k, 1]
            d += table[m, 0] + table[m, 1]
        out[part] = a + b + c + d


@njit(parallel=True, fastmath=True, nogil=True)
def _update(parts, tables, index):
    count = index.shape[0]
    for part in prange(parts):
        table = tables[part]
        for n in range(part * count // parts, (part + 1) * count // parts):
            table[index[n], 0] += np.float32(1)
            table[index[n], 1] += np.float32(1)


@njit(parallel=True, fastmath=True, nogil=True)
def _read_cells(parts, cells, index, out):
    count = index.shape[0]
    for part in prange(parts):
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for n in range(part * count // parts // 4, (part + 1) * count // parts // 4):
            a += cells[index[4 * n]]
            b += cells[index[4 * n + 1]]
            c += cells[index[4 * n + 2]]
            d += cells[index[4 * n + 3]]
        out[part] = a + b + c + d


@njit(parallel=True, fastmath=True, nogil=True)
def _stream(parts, a, b):
    count = a.shape[0]
    for part in prange(parts):
        for n in range(part * count // parts, (part + 1) * count // parts):
            b[n] = a[n] + np.float32(1)


@njit(parallel=True, fastmath=True, nogil=True)
def _exponentiate(parts, a, b):
    count = a.shape[0]
    for part in prange(parts):
        for n in range(part * count // parts, (part + 1) * count // parts):
            b[n] = np.exp(a[n])


def best(run: Callable[[], object], rounds: int = 15) -> float:
    """Seconds of the fastest of some runs: a floor is what nothing disturbed."""
    run()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return min(times)


def measure(threads: int) -> Machine:
    rng = np.random.default_rng(0)
    count = 1 << 20
    tables = np.zeros((threads, 1 << 15, 2), np.float32)
    entries, cells = rng.integers(0, 1 << 15, count), rng.integers(0, 1 << 18, count)
    density, out = np.ones(1 << 18, np.float32), np.zeros(max(threads, 1), np.float32)
    a, b = np.zeros(1 << 16, np.float32), np.zeros(1 << 16, np.float32)
    left, right = torch.rand(768, 768), torch.rand(768, 768)
    return Machine(
        reads=count / best(lambda: _read(threads, tables[0], entries, out)),
        updates=count / best(lambda: _update(threads, tables, entries)),
        cell_reads=count / best(lambda: _read_cells(threads, density, cells, out)),
        bytes=8 * len(a) / best(lambda: _stream(threads, a, b)),
        flops=2 * 768**3 / best(lambda: left @ right),  # a large matrix product: what arithmetic can do
        exponentials=len(a) / best(lambda: _exponentiate(threads, a, b)),
    )

"""What this machine can do at best: random reads and updates in cache, streaming, multiply-adds, exponentials.

Each rate is measured by a loop that does nothing else, with the threads of the training, on data that lies where the
training's own data lies: a step touches about 16 MB (table, its gradient, Adam's two moments, activations), so every
part finds its data in the third-level cache; a level of the table then stays in the second while it is worked on. A
floor is a count over a rate.
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
def _read(parts, rounds, tables, index, out):
    for part in prange(parts):
        total = np.zeros(8, np.float32)
        for level in range(tables.shape[0]):
            table = tables[level]
            for _ in range(rounds):
                a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                for n in range(index.shape[1] // 4):
                    i, j = index[part, 4 * n], index[part, 4 * n + 1]
                    k, m = index[part, 4 * n + 2], index[part, 4 * n + 3]
                    a += table[i, 0] + table[i, 1]
                    b += table[j, 0] + table[j, 1]
                    c += table[k, 0] + table[k, 1]
                    d += table[m, 0] + table[m, 1]
                total[0] += a + b + c + d
        out[part] = total[0]


@njit(parallel=True, fastmath=True, nogil=True)
def _update(parts, rounds, tables, index):
    levels = tables.shape[0]
    for part in prange(parts):
        for level in range(part * levels // parts, (part + 1) * levels // parts):
            table = tables[level]
            for _ in range(rounds):
                for n in range(index.shape[1]):
                    i = index[part, n]
                    table[i, 0] += np.float32(1)
                    table[i, 1] += np.float32(1)


@njit(parallel=True, fastmath=True, nogil=True)
def _read_cells(parts, rounds, cells, index, out):
    for part in prange(parts):
        total = np.zeros(8, np.float32)
        for _ in range(rounds):
            a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for n in range(index.shape[1] // 4):
                a += cells[index[part, 4 * n]]
                b += cells[index[part, 4 * n + 1]]
                c += cells[index[part, 4 * n + 2]]
                d += cells[index[part, 4 * n + 3]]
            total[0] += a + b + c + d
        out[part] = total[0]


@njit(parallel=True, fastmath=True, nogil=True)
def _stream(parts, rounds, a, b):
    for part in prange(parts):
        source, target = a[part], b[part]
        for _ in range(rounds):
            for n in range(source.shape[0]):
                target[n] = source[n] + np.float32(1)


@njit(parallel=True, fastmath=True, nogil=True)
def _exponentiate(parts, rounds, a, b):
    for part in prange(parts):
        source, target = a[part], b[part]
        for _ in range(rounds):
            for n in range(source.shape[0]):
                target[n] = np.exp(source[n])


def best(run: Callable[[], object], before: Callable[[], object] = lambda: None, rounds: int = 15) -> float:
    """Seconds of the fastest of some runs: a floor is what nothing disturbed. `before` runs ahead of each, untimed."""
    run()
    times = []
    for _ in range(rounds):
        before()
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return min(times)


def measure(threads: int) -> Machine:
    """Rates of this machine with so many threads at work at once."""
    rng = np.random.default_rng(0)
    levels, samples, bins = 8, 1 << 14, 128  # a step: samples x 8 corners from each level; 683 rays x 128 cells
    share = samples // threads
    entries = rng.integers(0, 1 << 15, (threads, share), dtype=np.int32)
    cells = rng.integers(0, 1 << 18, (threads, 683 * bins // threads), dtype=np.int32)
    tables = np.zeros((levels, 1 << 15, 2), np.float32)
    density, out = np.ones(1 << 18, np.float32), np.zeros(threads, np.float32)
    a, b = np.zeros((threads, (1 << 20) // threads), np.float32), np.zeros((threads, (1 << 20) // threads), np.float32)
    left, right = torch.rand(768, 768), torch.rand(768, 768)

    def elsewhere() -> None:  # what the rest of a step does to the caches
        np.add(a, 1, out=b)

    corners = levels * 8 * threads * share
    return Machine(
        reads=corners / best(lambda: _read(threads, 8, tables, entries, out), elsewhere),
        updates=corners / best(lambda: _update(threads, 8 * threads, tables, entries), elsewhere),
        cell_reads=cells.size / best(lambda: _read_cells(threads, 1, density, cells, out), elsewhere),
        bytes=8 * a.size / best(lambda: _stream(threads, 1, a, b)),
        flops=2 * 768**3 / best(lambda: left @ right),  # a large matrix product: what arithmetic can do
        exponentials=a.size / best(lambda: _exponentiate(threads, 1, a, b)),
    )

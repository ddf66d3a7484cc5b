"""Threads: how many parts the kernels split their work into, and the one place that sets it for numba and torch."""

from __future__ import annotations

import numba
import torch
from numba.np.ufunc.parallel import get_thread_count


def set_threads(count: int) -> None:
    """Use `count` threads in every kernel and in torch."""
    numba.set_num_threads(max(1, min(count, get_thread_count())))
    torch.set_num_threads(count)


def threads() -> int:
    """How many threads kernels use now."""
    return numba.get_num_threads()

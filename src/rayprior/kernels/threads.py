"""Threads: how many parts the kernels split their work into, and the one place that sets it for numba and torch."""

from __future__ import annotations

import numba
import torch
from numba.np.ufunc.parallel import get_thread_count


def set_threads(count: int, *, kernels_only: bool = False) -> None:
    """Use `count` threads in every kernel, and in torch unless `kernels_only`.

    Where the kernels do the heavy work, torch's own pool of threads costs more than it gives: the two wake up in turn,
    many times a step, and each waits for cores that the other still holds.
    """
    numba.set_num_threads(max(1, min(count, get_thread_count())))
    torch.set_num_threads(1 if kernels_only else count)


def threads() -> int:
    """How many threads kernels use now."""
    return numba.get_num_threads()

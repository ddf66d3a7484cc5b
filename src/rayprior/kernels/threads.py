"""Threads: how many parts the kernels split their work into, and the one place that sets it for numba and torch."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import numba
import torch
from numba.np.ufunc.parallel import get_thread_count

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names of mallopt's parameters


def set_threads(count: int, *, kernels_only: bool = False) -> None:
    """Use `count` threads in every kernel, and in torch unless `kernels_only`.

    Where the kernels do the heavy work, torch's own pool of threads costs more than it gives: the two wake up in turn,
    many times a step, and each waits for cores that the other still holds.
    """
    numba.set_num_threads(max(1, min(count, get_thread_count())))
    torch.set_num_threads(1 if kernels_only else count)


def keep_freed_memory() -> None:
    """Memory that is freed stays with the process, for the next step to use again.

    glibc otherwise hands large pieces back to the system, which then clears thousands of pages a step: a third of the
    time of a small network's step. Nothing happens where the C library is another.
    """
    with suppress(OSError, AttributeError):
        allocator = ctypes.CDLL("libc.so.6")
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            allocator.mallopt(parameter, 1 << 30)


def threads() -> int:
    """How many threads kernels use now."""
    return numba.get_num_threads()

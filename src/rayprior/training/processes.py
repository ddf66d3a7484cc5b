"""Processes: one training on several, as `torchrun` starts them. Each has its share of a step; the first alone writes.

All hold the same weights and optimiser, and take the same steps: gradients are added up before each. Started without
`torchrun` there is one process, and nothing here does anything.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def started() -> int:
    """How many processes were started for this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def beside() -> int:
    """How many of them share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this is the one that writes and prints."""
    return number() == 0


def number() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0")) if started() > 1 else 0


def meet(device: torch.device) -> torch.device:
    """Meet the other processes, where there are some, until this one ends. Gives the device to work on: of several
    processes on one machine each has a GPU of its own."""
    if started() == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return device


def count() -> int:
    """How many take this step together: those that met."""
    return dist.get_world_size() if dist.is_initialized() else 1


def added(values: Tensor) -> Tensor:
    """The sum of what all processes have here."""
    if count() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by the sum over all processes; a gradient that is missing counts as 0."""
    if count() == 1:
        return
    learning = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learning])
    for parameter, total in zip(learning, added(flat).split([p.numel() for p in learning]), strict=True):
        parameter.grad = total.view_as(parameter)


def largest(value: float) -> float:
    """The largest that any process has: what all go by, so that they end at the same step."""
    if count() == 1:
        return value
    found = torch.tensor(value, dtype=torch.float64, device=_device())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)


def _device() -> torch.device:
    """Where messages have to lie to be sent."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")

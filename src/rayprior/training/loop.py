"""The loop: ask, render, judge, step; count, save, resume. It knows no paper."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rayprior.errors import UserError
from rayprior.maths.psnr import psnr
from rayprior.training import processes
from rayprior.training.budget import Budget
from rayprior.training.folder import Folder

LOG_LINES = 200  # a step budget is logged this often, a seconds budget every half second
SAVE_SHARE, SAVE_SECONDS = 0.1, 60.0
MEMORY = 0.98  # how much of yesterday the shown PSNR remembers, per step


class Task(Protocol):
    """What the loop needs of a task: see training/tasks.py."""

    rays: dict[str, int]

    @property
    def model(self) -> nn.Module: ...
    def losses(self, step: int, progress: float) -> tuple[dict[str, Tensor], Tensor]: ...
    def step(self) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Progress:
    """Where a training stands. psnr: of the photographed training rays, smoothed, in dB."""

    step: int
    seconds: float
    share: float
    psnr: float
    rays_per_second: float
    seconds_left: float


def train(
    task: Task,
    run: Folder,
    budget: Budget,
    end: Budget,
    watch: Callable[[Progress], None] = lambda progress: None,
    marks: Sequence[tuple[float, Callable[[int], None]]] = (),
) -> None:
    """Train until `end` is spent, from the run's last checkpoint where it has one. Schedules follow `budget`, and stay
    at their last value where `end` is larger.

    Of several processes all take every step, and the first alone writes (training/processes.py).

    Only the loop's own time counts: not compiling, saving, `watch` or `marks` (called once their share of the budget is
    reached). An interrupt (Ctrl-C, SIGTERM) saves and raises KeyboardInterrupt. A loss that is not finite saves the
    state before that step and raises UserError naming the term.
    """
    step, seconds, error = 0, 0.0, 0.0
    writes = processes.first()
    started = processes.largest(float(writes and run.latest is not None)) > 0
    _warm_up(task)
    if started:
        checkpoint = run.load_checkpoint(task.model)
        step, seconds, error = checkpoint.step, checkpoint.state["seconds"], checkpoint.state["error"]
        task.load_state(checkpoint.state["task"])
        if writes:
            run.cut_log(step)
        if end.progress(step, seconds) >= 1:
            return

    def save() -> None:
        if writes:
            run.save_checkpoint(step, task.model, {"seconds": seconds, "error": error, "task": task.state()})

    if not started:
        save()
    saved_share, saved_at, logged_at = end.progress(step, seconds), time.monotonic(), seconds
    waiting = sorted((mark for mark in marks if mark[0] > saved_share), key=lambda mark: mark[0])
    log_every = max(1, budget.steps // LOG_LINES) if budget.steps else 0
    with _interrupts() as interrupted:
        while end.progress(step, seconds) < 1:
            begun = time.perf_counter()
            losses, squared_error = task.losses(step, budget.progress(step, seconds))
            total = torch.stack(list(losses.values())).sum()
            value = float(squared_error)
            if not (math.isfinite(value) and math.isfinite(float(total.detach()))):
                save()
                raise _not_finite(losses, step, run)
            total.backward()
            task.step()
            seconds = processes.largest(seconds + time.perf_counter() - begun)
            error = value if step == 0 else MEMORY * error + (1 - MEMORY) * value
            step += 1

            share = end.progress(step, seconds)
            if share >= 1 or (step % log_every == 0 if log_every else seconds - logged_at > 0.5):
                logged_at = seconds
                if writes:
                    run.log(_row(step, seconds, losses, error, task))
            watch(_progress(step, seconds, share, error, sum(task.rays.values())))
            while waiting and waiting[0][0] <= share:
                waiting.pop(0)[1](step)
            stop = processes.largest(float(bool(interrupted))) > 0
            due = _saves_by(share) > _saves_by(saved_share) or time.monotonic() - saved_at > SAVE_SECONDS
            if stop or share >= 1 or due:
                save()
                saved_share, saved_at = share, time.monotonic()
            if stop:
                raise KeyboardInterrupt(f"at step {step:,}; go on with: rayprior train --resume {run.path}")


def _saves_by(share: float) -> int:
    """How many checkpoints are due at this share of the budget: the same ones, whenever a run was interrupted."""
    return int(share / SAVE_SHARE + 1e-9)


def _warm_up(task: Task) -> None:
    """Compile the kernels and touch the memory before the clock starts: step 0 is judged, not taken. Nothing but the
    state that a checkpoint then replaces is carried between steps, so this changes nothing."""
    losses, _ = task.losses(0, 0.0)
    torch.stack(list(losses.values())).sum().backward()
    for parameter in task.model.parameters():
        parameter.grad = None


def _row(step: int, seconds: float, losses: dict[str, Tensor], error: float, task: Task) -> dict[str, Any]:
    return {
        "step": step,
        "seconds": round(seconds, 4),
        "psnr": round(psnr(error), 4),
        "losses": {name: float(loss.detach()) for name, loss in losses.items()},
        "rays": dict(task.rays),
        **({"skipped": skipped} if (skipped := getattr(task, "skipped", None)) else {}),
    }


def _progress(step: int, seconds: float, share: float, error: float, rays: int) -> Progress:
    left = seconds * (1 - share) / share if share > 0 else math.inf
    return Progress(step, seconds, share, psnr(error), rays * step / max(seconds, 1e-9), left)


def _not_finite(losses: dict[str, Tensor], step: int, run: Folder) -> UserError:
    bad = [name for name, loss in losses.items() if not torch.isfinite(loss.detach())]
    named = ", ".join(f"'{name}' ({float(losses[name].detach())})" for name in bad) or "the sum of all terms"
    return UserError(
        f"step {step}: the loss of {named} is not finite, so training stopped; the state before this step is saved in "
        f"{run.path}. Lower that term's weight (--set terms.NAME.weight=...) or the learning rate and train anew"
    )


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM fill the list instead of breaking a step in two; outside the main thread nothing is caught."""
    caught: list[int] = []
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, frame: caught.append(number))
    except ValueError:  # not the main thread
        pass
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Numbers that change with the step: a piecewise-linear (or log-linear) curve over steps or over the budget.

Any number of a recipe may be a `Schedule`. Once a step the training loop replaces every schedule by its value with
`resolve`; terms, draws, samplers and encodings see plain numbers and never a step.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, fields, is_dataclass, replace
from math import exp, log
from typing import Any, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """A curve through `points = ((x, value), ...)`, constant outside them.

    `of="step"`: x counts steps. `of="budget"`: x is the share of the budget spent, 0 to 1, whether the budget is in
    steps or in seconds. `shape="log"` interpolates the logarithm (learning rates); values must then be positive.
    """

    points: tuple[tuple[float, float], ...] = field(metadata={"key": "schedule"})  # its key in JSON
    of: Literal["step", "budget"] = "step"
    shape: Literal["linear", "log"] = "linear"

    def __post_init__(self) -> None:
        xs = [x for x, _ in self.points]
        if not xs or xs != sorted(xs):
            raise ValueError(f"a schedule needs points in ascending order, got {self.points}")
        if self.shape == "log" and any(value <= 0 for _, value in self.points):
            raise ValueError(f"a log schedule needs positive values, got {self.points}")

    def at(self, step: int, progress: float) -> float:
        """The value at this step; `progress` is the share of the budget spent, 0 to 1."""
        x = float(step) if self.of == "step" else progress
        index = bisect_right([p for p, _ in self.points], x)
        if index == 0:
            return self.points[0][1]
        if index == len(self.points):
            return self.points[-1][1]
        (x0, v0), (x1, v1) = self.points[index - 1], self.points[index]
        share = (x - x0) / (x1 - x0)
        if self.shape == "log":
            return exp(log(v0) + share * (log(v1) - log(v0)))
        return v0 + share * (v1 - v0)


def has_schedule(value: Any) -> bool:
    """Whether a (nested) dataclass or tuple holds a schedule anywhere."""
    if isinstance(value, Schedule):
        return True
    if isinstance(value, tuple):
        return any(has_schedule(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return any(has_schedule(getattr(value, field.name)) for field in fields(value))
    return False


def resolve(value: T, step: int, progress: float) -> T:
    """`value` with every schedule inside it replaced by its number at this step."""
    if isinstance(value, Schedule):
        return value.at(step, progress)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(resolve(item, step, progress) for item in value)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type) and has_schedule(value):
        changed = {f.name: resolve(getattr(value, f.name), step, progress) for f in fields(value) if f.init}
        return replace(value, **changed)
    return value

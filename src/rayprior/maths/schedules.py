"""Numbers that change with the step: a piecewise-linear (or log-linear) curve over steps or over the budget.

Any number of a recipe may be a `Schedule`. Once a step the training loop replaces every schedule by its value with
`resolve`; terms, draws, samplers and encodings see plain numbers and never a step.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
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


def resolver(value: T) -> Callable[[int, float], T] | None:
    """What gives `value` at a (step, progress) with every schedule inside it replaced by its number; None where there
    is none. Looks into dataclasses, tuples and mappings once, so that a step pays for its schedules alone."""
    if isinstance(value, Schedule):
        return value.at  # type: ignore[return-value]
    if isinstance(value, tuple):
        inside = list(enumerate(value))
    elif isinstance(value, Mapping):
        inside = list(value.items())
    elif is_dataclass(value) and not isinstance(value, type):
        inside = [(field.name, getattr(value, field.name)) for field in fields(value) if field.init]
    else:
        return None
    changing = {key: found for key, item in inside if (found := resolver(item)) is not None}
    if not changing:
        return None

    def at(step: int, progress: float) -> Any:
        now = {key: found(step, progress) for key, found in changing.items()}
        if isinstance(value, tuple):
            return tuple(now.get(key, item) for key, item in inside)
        return {**value, **now} if isinstance(value, Mapping) else replace(value, **now)  # type: ignore[type-var]

    return at


def resolve(value: T, step: int, progress: float) -> T:
    """`value` with every schedule inside it replaced by its number at this step."""
    at = resolver(value)
    return value if at is None else at(step, progress)


def number(value: float | Schedule) -> float:
    """A number whose schedule, if it had one, was resolved before."""
    if isinstance(value, Schedule):
        raise TypeError(f"this schedule was not resolved before it was used: {value}")
    return value

"""Budget: how long a training lasts, in steps or in seconds of its loop."""

from __future__ import annotations

from dataclasses import dataclass

from rayprior.errors import UserError


@dataclass(frozen=True)
class Budget:
    """Exactly one of the two. Schedules follow the share of it that is spent, whichever it is."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise UserError(f"a budget is in steps or in seconds, got {self}; give --steps N or --seconds S")
        if not 0 < self.amount < float("inf"):
            raise UserError(f"a budget is a positive number, got {self}; give --steps N or --seconds S")

    @property
    def amount(self) -> float:
        return self.steps if self.steps is not None else self.seconds or 0.0

    def progress(self, step: int, seconds: float) -> float:
        """The share spent, from 0 to 1, after this many steps and seconds."""
        return min(1.0, (step if self.steps is not None else seconds) / self.amount)

    def extends(self, other: Budget) -> bool:
        """Whether this is the other one or a larger one of the same unit."""
        return (self.steps is None) == (other.steps is None) and self.amount >= other.amount

    def __str__(self) -> str:
        if self.steps is not None and self.seconds is None:
            return f"{self.steps:,} steps"
        if self.seconds is not None and self.steps is None:
            return f"{self.seconds:g} seconds"
        return f"{self.steps} steps and {self.seconds} seconds"

"""Stream: which picture is painted next, for whom. Coarse while a view moves, finer and finer once it is still.

Any thread may say where a visitor looks from; pictures are painted by whoever calls `work`, one thread. So the kernels
are called from one thread alone, in a training between its steps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from math import inf

from rayprior.viewer.painter import Look, Painted, Painter, View

SECONDS = (0.08, 1.2, inf)  # what a picture of each level may take: while moving, when still, whole
STILL = 0.15  # seconds without a move after which a view counts as still
MOST = 1_000_000  # pixels of the finest picture
WORTH = 1.3  # a finer picture has at least so many times the pixels of the one before


@dataclass
class Visitor:
    """One browser: where it looks from, since when, its window's pixels, the next level, the pixels that it has.

    version tells a picture of this view from one of a view, or of weights, that are gone.
    """

    view: View
    window: int
    moved: float
    version: int
    level: int | None = 0
    has: int = 0
    served: float = field(default=-inf)


class Stream:
    """Visitors and what each waits for. `send(who, picture, finished)` gets every picture that is done."""

    def __init__(
        self,
        send: Callable[[int, Painted, bool], None],
        seconds: tuple[float, ...] = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self.look = Look()
        self._send = send
        self._clock = clock
        self._visitors: dict[int, Visitor] = {}
        self._versions = count()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._visitors)

    def look_from(self, who: int, view: View, window: int) -> None:
        """A visitor came, or moved; only its newest view is painted. window: pixels of its window."""
        with self._changed:
            served = self._visitors[who].served if who in self._visitors else -inf
            now = self._clock()
            self._visitors[who] = Visitor(view, window, now, next(self._versions), served=served)
            self._changed.notify()

    def leave(self, who: int) -> None:
        """A visitor is gone; what is being painted for it stops."""
        with self._changed:
            self._visitors.pop(who, None)

    def choose(self, look: Look) -> None:
        """Show another layer, crop or appearance: everything anew."""
        self.look = look
        self.repaint()

    def repaint(self, level: int = 0) -> None:
        """What is shown is out of date: start again at a level for everyone who waits for none below it."""
        with self._changed:
            for who, visitor in self._visitors.items():
                if level == 0 or visitor.level is None or visitor.level > level:
                    self._visitors[who] = replace(visitor, version=next(self._versions), level=level, has=0)
            self._changed.notify()

    def work(self, painter: Painter, wait: float = 0.0) -> bool:
        """Paint and send at most one picture, or the part of one that is still wanted; False where none is due within
        `wait` seconds."""
        with self._changed:
            who = self._due()
            if who is None and wait > 0:
                self._changed.wait(min(wait, self._until_still()))
                who = self._due()
            if who is None:
                return False
            visitor, look = self._visitors[who], self.look
        level = visitor.level
        assert level is not None
        most = min(visitor.window, MOST)
        size = painter.size(visitor.view, self.seconds[level], most)
        last = level + 1 == len(self.seconds)
        if level == 0 or size[0] * size[1] > WORTH * visitor.has:
            picture = painter.paint(visitor.view, size, look, lambda: self._wanted(who, visitor, level))
            if picture is None:
                return True
            last = last or size[0] * size[1] * WORTH > most
        else:
            picture = None
        with self._changed:
            now = self._visitors.get(who)
            if now is None:
                return True
            now.served = self._clock()
            if now.version == visitor.version:
                now.level = None if last else level + 1
                now.has = size[0] * size[1] if picture is not None else now.has
        if picture is not None:
            self._send(who, picture, last)
        return True

    def _due(self) -> int | None:
        """Who is served next: those that move before those that are still, who waited longest first."""
        now = self._clock()
        due = [
            (visitor.level, visitor.served, who)
            for who, visitor in self._visitors.items()
            if visitor.level == 0 or (visitor.level is not None and now - visitor.moved >= STILL)
        ]
        return min(due)[2] if due else None

    def _until_still(self) -> float:
        """Seconds until the first view that waits for a finer picture counts as still."""
        now = self._clock()
        return max(min((v.moved + STILL - now for v in self._visitors.values() if v.level), default=inf), 0.001)

    def _wanted(self, who: int, visitor: Visitor, level: int) -> bool:
        """Whether to go on: a coarse picture while its visitor is there; a finer one until its view or its weights are
        gone, or somebody moves."""
        with self._changed:
            now = self._visitors.get(who)
            if now is None:
                return False
            return level == 0 or (now.version == visitor.version and all(v.level != 0 for v in self._visitors.values()))

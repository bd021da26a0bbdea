"""One deadline for a whole chain of calls: what is left of it is all that a later step may use."""

from __future__ import annotations

import time

from routing.protocols import Clock


class Deadline:
    """A point in monotonic time. `total_s` <= 0 means none."""

    __slots__ = ("_clock", "_end")

    def __init__(self, total_s: float, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + total_s if total_s > 0 else None

    def left_s(self) -> float | None:
        """Seconds left (never negative); None without a deadline."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def passed(self) -> bool:
        return self._end is not None and self._clock() >= self._end

    def within(self, limit_s: float) -> float | None:
        """The smaller of `limit_s` (<= 0: no limit) and what is left."""
        left = self.left_s()
        if limit_s <= 0:
            return left
        return limit_s if left is None else min(limit_s, left)

"""A circuit breaker for one replica: after repeated failures it is left alone, then tried by single probes.

    closed --(failures in a row, or a share of recent calls)--> open --(time)--> half-open --> closed | open

Every time a probe fails the wait doubles, up to a bound, with a tenth of jitter so that several workers do
not probe together. Half-open admits one call at a time: a flapping backend sees a bounded number of them.

What HTTP calls a success may be no answer (a broken JSON, an empty body): whoever finds that out retracts the
success. A circuit that was just closed is on probation for that reason: one failure opens it again. What
comes of calls that began before it last opened says nothing about now, and does not count.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from routing.protocols import Clock

State = Literal["closed", "open", "half_open"]
_RECENT = 20  # calls the failure share is taken over
_JITTER = 0.1
_PROBATION = 2  # successes after the one that closed it: that call's own end, and one more


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """`failures` in a row open the circuit (0: never); so does `share` of the last 20 calls failing."""

    failures: int = 5
    share: float = 0.5
    open_s: float = 5.0
    max_open_s: float = 60.0


class CircuitBreaker:
    """Ask `admits`, then `enter`; report `succeed`, `fail`, or `release` where neither can be said, with what
    `enter` gave (None: a call of now)."""

    def __init__(
        self, limits: BreakerLimits, on_change: Callable[[], None], clock: Clock = time.monotonic
    ) -> None:
        self._limits = limits
        self._on_change = on_change
        self._clock = clock
        self._in_a_row = 0
        self._recent: deque[bool] = deque(maxlen=_RECENT)  # True: failed
        self._open_s = limits.open_s
        self._until = 0.0
        self._probing = False
        self._probation = 0
        self._epoch = 0  # how often it has opened
        self._row_before = 0  # failures in a row before the last success
        self.state: State = "closed"

    def admits(self) -> bool:
        """Whether a call may be made now."""
        if self.state == "closed":
            return True
        return not self._probing and self._clock() >= self._until

    def enter(self) -> int:
        """A call that was admitted begins; in an open circuit it is the probe."""
        if self.state != "closed":
            self._probing = True
            self._set("half_open")
        return self._epoch

    def succeed(self, began: int | None = None) -> None:
        """A call ended well: the circuit is closed."""
        if self._is_past(began):
            return
        self._row_before, self._in_a_row = self._in_a_row, 0
        self._recent.append(False)
        if self.state != "closed":
            self._probing = False
            self._probation = _PROBATION
            self._recent.clear()
            self._set("closed")
        elif self._probation:
            self._probation -= 1
            if not self._probation:
                self._open_s = self._limits.open_s

    def fail(self, began: int | None = None) -> None:
        """A call failed by the backend's fault."""
        if self._is_past(began):
            return
        self._in_a_row += 1
        self._recent.append(True)
        if self.state == "half_open" or (self.state == "closed" and self._probation):
            self._open_s = min(self._open_s * 2, self._limits.max_open_s)
            self._open()
        elif self.state == "closed" and self._too_many():
            self._open()

    def retract(self, began: int | None = None) -> None:
        """The last call that ended well was no answer after all."""
        if self._is_past(began):
            return
        self._in_a_row = self._row_before
        if self._recent and not self._recent[-1]:
            self._recent.pop()
        self.fail()

    def carry_on(self, before: CircuitBreaker) -> None:
        """Begin where another one is. A probe that it has under way tells that one: here another is due."""
        self._in_a_row, self._row_before = before._in_a_row, before._row_before
        self._recent.extend(before._recent)
        self._open_s = min(before._open_s, self._limits.max_open_s)
        self._until, self._probation = before._until, before._probation
        if self._limits.failures > 0 and before.state != "closed":
            self.state = "open"

    def trip(self) -> None:
        """Open it from outside: the replica is worse than the others."""
        if self.state == "closed":
            self._open()

    def release(self, began: int | None = None) -> None:
        """A call ended without saying anything about the backend (the client left, a 429)."""
        if not self._is_past(began):
            self._probing = False

    def _is_past(self, began: int | None) -> bool:
        return began is not None and began != self._epoch

    def _too_many(self) -> bool:
        limits = self._limits
        if limits.failures <= 0:
            return False
        full = len(self._recent) == _RECENT
        return self._in_a_row >= limits.failures or (full and sum(self._recent) >= limits.share * _RECENT)

    def _open(self) -> None:
        self._probing = False
        self._probation = 0
        self._epoch += 1
        self._until = self._clock() + self._open_s * (1.0 + _JITTER * random.random())
        self._set("open")

    def _set(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._on_change()

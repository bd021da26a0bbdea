"""Racing: the next tier started beside a judged one, so that a rejection costs no second wait.

A race starts at once when the pre-router is unsure, or later when the judged tier is slow. After a start
because of doubt the verdict still decides, and the other answer is only waiting. After a start because of
slowness the first usable answer wins. Either way the loser is cancelled, and its cost is the price of the
time saved; a budget bounds how many requests may pay it.
"""

from __future__ import annotations

from dataclasses import dataclass

_BURST = 10.0  # races that may start together after a quiet spell


@dataclass(frozen=True, slots=True)
class RaceRule:
    """`unsure`: half width of the band of P(strong should answer) around the threshold in which a race starts
    at once (0: never). `slow_after_s`: a judged tier not finished by then is raced (0: never).
    """

    unsure: float = 0.1
    slow_after_s: float = 2.0

    def is_unsure(self, route_score: float | None, threshold: float | None) -> bool:
        """Whether the prompt alone leaves it open. Without a score it does."""
        if route_score is None or threshold is None:
            return self.unsure > 0.0
        return abs(route_score - threshold) < self.unsure


class RaceBudget:
    """At most a `share` of the judged requests may race, counted as a leaky bucket over requests."""

    def __init__(self, share: float) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"the share of requests that may race lies in [0, 1]; it is {share}")
        self._share = share
        self._tokens = _BURST if share else 0.0

    def earn(self) -> None:
        """A judged request came by."""
        self._tokens = min(_BURST, self._tokens + self._share)

    def take(self) -> bool:
        """Pay for one race; False when the budget is spent."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

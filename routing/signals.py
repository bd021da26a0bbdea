"""What a rule is asked about, and what it says: the scores of one request, and where to begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Signals:
    """What is known about one request when a rule is asked; all scores calibrated, in [0, 1].

    `route_score` and `difficulty` are P(strong should answer) by the MF pre-router and by the difficulty
    classifier; `answer_score` is P(adequate) of the answer at hand; `draw` is uniform in [0, 1), drawn by the
    driver and logged. On a ladder of more than two tiers `tier_scores[k]` may hold P(a tier above k should
    answer) for every k but the last; without it a prompt enters at the first or at the last tier.
    """

    route_score: float | None = None
    difficulty: float | None = None
    answer_score: float | None = None
    draw: float = 0.0
    tier_scores: Sequence[float] | None = None
    unfamiliar: bool = False  # the prompt is unlike those that the scorers were fitted on
    unjudged: bool = False  # it is unlike those whose answers the evaluator was fitted on


@dataclass(frozen=True, slots=True)
class Entry:
    """Start at tier `tier` (0 is the cheapest); `check` says whether the evaluator judges its answer."""

    tier: int
    check: bool

    def name(self, last: int) -> str:
        """`strong`, `checked` or `unchecked`, as the decision log calls it."""
        if self.tier == last:
            return "strong"
        return "checked" if self.check else "unchecked"


@dataclass(frozen=True, slots=True)
class Choice:
    """An entry as it was taken: with the probability of taking it, for the decision log."""

    entry: Entry
    propensity: float
    explored: bool

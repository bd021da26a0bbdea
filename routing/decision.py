"""What was decided for one request, in the closed vocabulary that headers, metrics and log share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Decision = Literal["weak", "strong", "escalated", "pinned", "degraded"]
Reason = Literal[
    "easy_prompt",
    "hard_prompt",
    "adequate",
    "inadequate",
    "early_commit",
    "early_abandon",
    "hedge",
    "context_window",
    "capability",
    "hard_check",
    "out_of_distribution",
    "sticky",
    "explore",
    "random",
    "canary",
    "load",
    "deadline",
    "budget",
    "pinned",
    "weak_failed",
    "strong_failed",
    "scorer_failed",
]


@dataclass(slots=True)
class Route:
    """How an answer came about.

    `route_score` is P(strong should answer), `answer_score` P(adequate) of the judged answer; None where
    not asked for. `propensity` is the probability with which this first action was taken.
    """

    tier: int
    decision: Decision
    reason: Reason
    strategy: str = ""
    threshold: float | None = None
    route_score: float | None = None
    answer_score: float | None = None
    difficulty: float | None = None
    propensity: float = 1.0
    entry: str = ""  # the first action: strong, checked, unchecked
    policy_version: str = ""

"""What scores and inputs looked like on the calibration prompts: the other side of every drift signal.

The bundle carries the scores of those prompts, so nothing is run. The evaluator's score is counted as
traffic will show it: only where the rule has the weak answer checked, exploration included.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from proxy.plan import Plan, entries_of
from routing.curve import CalibrationRows
from routing.drift import Histogram
from routing.errors import MissingSignal
from routing.rules import Rule

Reference = Mapping[str, Histogram]  # by signal
ROUTE, DIFFICULTY, EVALUATOR, LENGTH, STRONG, UNFAMILIAR = SIGNALS = (
    "route_score", "difficulty", "evaluator_score", "prompt_length", "strong_share", "unfamiliar",
)  # fmt: skip
# `scorers.familiar` and `scorers.runtime.neighbours` are fitted so that about half a percent each is unlike.
_UNLIKE_SHARE = 0.01


def reference_of(
    rows: CalibrationRows | None, rule: Rule, explore_share: float, plan: Plan | None
) -> Reference:
    """The signals that traffic under `rule` can be compared by; none without calibration rows."""
    if rows is None:
        return {}
    out = {
        ROUTE: _spread(rows.route_score),
        DIFFICULTY: _spread(rows.difficulty),
        EVALUATOR: _checked(rows, rule, explore_share),
        LENGTH: _spread(rows.prompt_chars),
        STRONG: None if plan is None else Histogram.share(plan.expected, len(rows)),
        UNFAMILIAR: Histogram.share(_UNLIKE_SHARE, len(rows)),
    }
    return {name: histogram for name, histogram in out.items() if histogram is not None}


def _spread(column: np.ndarray | None) -> Histogram | None:
    return None if column is None else Histogram.of(column)


def _checked(rows: CalibrationRows, rule: Rule, explore_share: float) -> Histogram | None:
    """The evaluator's scores, each with the probability that its prompt is checked."""
    if rows.adequate is None:
        return None
    try:
        entries = entries_of(rule, rows)
    except MissingSignal:
        return None
    chosen = np.array([entry.check and entry.tier < rule.tiers - 1 for entry in entries], dtype=np.float64)
    return Histogram.of(rows.adequate, (1.0 - explore_share) * chosen + 0.5 * explore_share)

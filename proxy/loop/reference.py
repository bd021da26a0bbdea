"""What scores and inputs looked like on the calibration prompts: the other side of every drift signal.

The bundle carries the raw scores of those prompts, so nothing is run. The evaluator's score is counted as
traffic will show it: only where the rule has the weak answer checked, exploration included.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import load_file

from proxy.plan import SCORES, Plan, entries_of, scores_of
from routing.bundle import Bundle
from routing.calibration import CalibrationMap
from routing.drift import Histogram
from routing.errors import MissingSignal
from routing.policy import Rule

Reference = Mapping[str, Histogram]  # by signal
ROUTE, DIFFICULTY, EVALUATOR, LENGTH, STRONG, UNFAMILIAR = SIGNALS = (
    "route_score", "difficulty", "evaluator_score", "prompt_length", "strong_share", "unfamiliar",
)  # fmt: skip
# `scorers.familiar` and `scorers.runtime.neighbours` are fitted so that about half a percent each is unlike.
_UNLIKE_SHARE = 0.01


def reference_of(
    bundle: Bundle, rule: Rule, explore_share: float, maps: Mapping[str, CalibrationMap], plan: Plan | None
) -> Reference:
    """The signals this bundle can be compared by; none where it stores no calibration scores."""
    if not bundle.has(SCORES):
        return {}
    raw = load_file(bundle.path / SCORES)
    scores = scores_of(raw, maps)
    rows = max((len(column) for column in scores.values()), default=0)
    out: dict[str, Histogram | None] = {}
    if rows:
        out[ROUTE] = Histogram.of(scores["route_score"]) if "route_score" in scores else None
        out[DIFFICULTY] = Histogram.of(scores["difficulty"]) if "difficulty" in scores else None
        if "answer_score" in scores:
            out[EVALUATOR] = _checked(rule, explore_share, scores, rows)
        out[UNFAMILIAR] = Histogram.share(_UNLIKE_SHARE, rows)
    if "prompt_chars" in raw:
        out[LENGTH] = Histogram.of(raw["prompt_chars"])
    if plan is not None:
        out[STRONG] = Histogram.share(plan.expected, rows)
    return {name: histogram for name, histogram in out.items() if histogram is not None}


def _checked(
    rule: Rule, explore_share: float, scores: Mapping[str, np.ndarray], rows: int
) -> Histogram | None:
    """The evaluator's scores, each with the probability that its prompt is checked."""
    try:
        entries = entries_of(rule, scores, rows)
    except MissingSignal:
        return None
    chosen = np.array([entry.check and entry.tier < rule.tiers - 1 for entry in entries], dtype=np.float64)
    return Histogram.of(scores["answer_score"], (1.0 - explore_share) * chosen + 0.5 * explore_share)

"""The cost-quality curve of the bundle in force, with what is promised at each point."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from proxy.console.promise import certified_points, promise_of
from proxy.console.schemas import CurveOut, CurvePointOut
from proxy.scoring import Scorers
from routing.curve import CalibrationRows, trace_points
from routing.errors import PolicyError

_NO_ROWS = (
    "This bundle does not carry the scores of calibration prompts of your two models, so its curve cannot be "
    "drawn: the starter bundle was fitted on another pair, and an older upshift publish left them out."
)
_NO_BUNDLE = (
    "There is no bundle yet: every routed prompt goes to the strong model. Train one with upshift train."
)


def curve_of(
    scorers: Scorers, tiers: list[str], strategy: str, in_force: float, calibrated: float, own: bool
) -> CurveOut:
    """`own`: `strategy` is the one that decides, at `in_force`; only its points may be put in force.

    Under a certificate those that it holds for are allowed, and the calibrated one; without one there is no
    promise that a move could break, and every point is.
    """
    rows, policy = scorers.rows, scorers.policy
    promise = promise_of(scorers, strategy)
    certified = certified_points(scorers, strategy)
    missing, points = "", []
    marked = {in_force, calibrated} if own else {policy.thresholds[strategy]}
    if rows is None:
        missing = _NO_BUNDLE if policy.version == "none" else _NO_ROWS
    else:
        try:
            points = trace_points(rows, policy, strategy, [*certified, *marked])
        except PolicyError as error:
            missing = f"No curve, because {error}."

    def allowed(threshold: float) -> bool:
        if not own:
            return False
        free = promise.state != "valid" and threshold <= 1.0
        return threshold == calibrated or (threshold in certified and threshold <= 1.0) or free

    return CurveOut(
        strategy=strategy,
        version=policy.version,
        tiers=tiers,
        prompts=0 if rows is None else len(rows),
        weak_quality=_share(rows, "q_weak", "q_strong"),
        weak_cost=_share(rows, "cost_weak", "cost_strong"),
        points=[
            CurvePointOut(
                **asdict(point),
                certified=point.threshold in certified,
                allowed=allowed(point.threshold),
                in_force=own and point.threshold == in_force,
                calibrated=point.threshold == (calibrated if own else policy.thresholds[strategy]),
            )
            for point in points
        ],
        promise=promise,
        missing=missing,
    )


def _share(rows: CalibrationRows | None, part: str, whole: str) -> float | None:
    """Mean of one column as a share of another's."""
    if rows is None or getattr(rows, part) is None or getattr(rows, whole) is None:
        return None
    total = float(np.sum(getattr(rows, whole)))
    return float(np.sum(getattr(rows, part))) / total if total > 0.0 else None

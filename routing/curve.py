"""The cost-quality curve of a strategy: what every operating point would come to on the calibration prompts.

For each threshold: the share of prompts that the last tier answers, the cost, and the quality, exploration
counted in, from calibrated scores and labels alone. It is arithmetic on columns (a few hundred prompts times
a few dozen points cost tens of milliseconds), so a server can draw it without a model. The cuts are those of
`routing.rules`; `proxy.plan` asks the rules themselves, and a test holds the two together.

For ladders of two tiers. The interval of a point is about these prompts only (normal, 95 %, delta method for
the ratio); it is no promise: a promise is a certificate's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from routing.errors import PolicyError
from routing.policy import Policy
from routing.table import Floats

# What of the calibration prompts travels with a published bundle: numbers, and nothing that names a prompt.
CURVE_FILE = "curve.safetensors"
CURVE_COLUMNS = (
    "gain_raw", "difficulty_raw", "adequate_raw", "q_weak", "q_strong", "cost_weak", "cost_strong",
    "prompt_chars",
)  # fmt: skip
_STEP = 0.025  # points lie this far apart in the share of prompts kept from strong
_Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """The calibration prompts: calibrated scores, qualities and costs, each (n,); None where it is not known.

    `route_score` and `difficulty` are P(strong should answer), `adequate` is P(adequate) of the weak answer,
    qualities lie in [0, 1], costs are in the examples' unit, `prompt_chars` counts characters.
    """

    route_score: Floats | None
    difficulty: Floats | None
    adequate: Floats | None
    q_weak: Floats
    q_strong: Floats
    cost_weak: Floats | None = None
    cost_strong: Floats | None = None
    prompt_chars: Floats | None = None

    def __len__(self) -> int:
        return int(self.q_weak.size)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One operating point. Shares lie in [0, 1]; `quality` and `cost` are shares of always-strong's, None
    where strong is never right or costs are not known; `low` and `high` are the interval of `quality`."""

    threshold: float
    strong_share: float
    quality: float | None
    low: float | None
    high: float | None
    cost: float | None


def trace_points(
    rows: CalibrationRows, policy: Policy, strategy: str, extra: Iterable[float] = ()
) -> list[CurvePoint]:
    """The curve from always-strong downwards, with the thresholds `extra` among its points.

    Raises `PolicyError` where the rows lack a score that the strategy needs, and for more than two tiers.
    """
    if policy.tiers != 2:
        raise PolicyError(
            f"it is drawn for two tiers and this ladder has {policy.tiers}: the bundle does not carry what "
            "the evaluator said of the tiers in between"
        )
    cuts = _released(rows, policy, strategy)
    shares = np.arange(_STEP, 1.0 + 1e-9, _STEP)
    steps = np.nextafter(np.quantile(cuts[1], np.clip(shares, 0.0, 1.0)), np.inf)
    given = np.array([value for value in extra if math.isfinite(value)])
    grid = np.unique(np.concatenate(([0.0, 1.0], np.clip(steps, 0.0, 1.0), given)))
    return [_point(rows, policy.explore_share, strategy, cuts, float(threshold)) for threshold in grid]


def _point(
    rows: CalibrationRows,
    explore: float,
    strategy: str,
    cuts: tuple[Floats, Floats, Floats],
    threshold: float,
) -> CurvePoint:
    at_once, released, rejected = cuts
    if strategy == "cascade" and threshold <= 0.0:  # the joint rule's own always-strong
        first = strong = failed = np.ones(len(rows))
    elif strategy == "random":
        first = strong = np.full(len(rows), max(0.0, 1.0 - threshold))
        failed = np.zeros(len(rows))
    else:
        first = (at_once >= threshold).astype(np.float64)  # sent straight to strong: no weak answer is paid
        strong = (released >= threshold).astype(np.float64)
        failed = (rejected >= threshold).astype(np.float64)
    # explored: half straight to strong, half to the weak tier with a check
    served = (1.0 - explore) * strong + 0.5 * explore * (1.0 + failed)
    quality, low, high = _quality(served, rows)
    cost = None
    if rows.cost_weak is not None and rows.cost_strong is not None and rows.cost_strong.sum() > 0:
        asked = (1.0 - explore) * (1.0 - first) + 0.5 * explore
        paid = asked * rows.cost_weak + served * rows.cost_strong
        cost = float(paid.sum() / rows.cost_strong.sum())
    return CurvePoint(threshold, float(served.mean()), quality, low, high, cost)


def _released(rows: CalibrationRows, policy: Policy, strategy: str) -> tuple[Floats, Floats, Floats]:
    """Per row, the highest threshold at which strong is asked at once, at which it answers, and at which a
    checked weak answer is rejected."""
    never = np.full(len(rows), -np.inf)
    if strategy == "random":
        even = (np.arange(len(rows)) + 0.5) / max(1, len(rows))
        return even, even, never
    if strategy in ("mf", "difficulty"):
        score = rows.route_score if strategy == "mf" else rows.difficulty
        if score is None:
            raise PolicyError(f"the calibration prompts lack the score of {strategy!r}")
        return score, score, never
    if rows.adequate is None:
        raise PolicyError("the calibration prompts lack the evaluator's score")
    if strategy == "evaluator":
        return never, 1.0 - rows.adequate, 1.0 - rows.adequate
    rule = policy.joint[0]
    index = rule.prompt_indices(rows.route_score, rows.difficulty, len(rows))
    loss = rule.losses(rows.adequate, rows.route_score, rows.difficulty)
    strong = rule.strong_scores(rows.adequate, rows.route_score, rows.difficulty)
    return rule.strong_until.apply(index), strong, loss


def _quality(served: Floats, rows: CalibrationRows) -> tuple[float | None, float | None, float | None]:
    """Mean quality as a share of strong's, with its interval; `served` is P(strong answers), (n,)."""
    best = float(rows.q_strong.mean())
    if best <= 0.0:
        return None, None, None
    quality = served * rows.q_strong + (1.0 - served) * rows.q_weak
    ratio = float(quality.mean()) / best
    half = _Z95 * float((quality - ratio * rows.q_strong).std()) / math.sqrt(len(rows)) / best
    return ratio, ratio - half, ratio + half

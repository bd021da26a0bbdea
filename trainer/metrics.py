"""Cost-quality curves of routing strategies and the figures read off them: APGR, CPT, calls and cost saved.

A strategy swept over its threshold is a list of events: starting from its strictest setting, every event lets
one prompt change hands (strong to weak, or checked to unchecked) at some level. Sorting the events gives the
whole curve in O(n log n); events of one level happen together, so ties are averaged by the straight line
between the curve's points. The bootstrap reweights the same events, which keeps every strategy paired on the
same prompts.

Definitions follow the report's: x is the share of strong calls (or the cost), the quality gap closed is
(Q(x) - Q_weak) / (Q_strong - Q_weak), APGR its area by trapezoid (RouteLLM, Ong et al. 2024, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.joint_rule import JointRule
from routing.table import Floats

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A strategy over all thresholds, from its strictest setting (everything answered by strong) downwards.

    `row`, `released`, `saved` have shape (events,) in the order of happening: which prompt, whether strong
    loses it (1) or not (0), and the cost it saves. `end` (groups,) is one past the last event of each level
    and `level` (groups,) that level. `start_cost` (n,) is what every prompt costs before any event.
    """

    row: Ints
    released: Floats
    saved: Floats
    end: Ints
    level: Floats
    start_cost: Floats


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a sweep in rising order of weak answers; each of shape (groups + 1,).

    Point k is the setting "threshold just above `level[k]`": strong answers iff score > level; `level[0]` is
    -inf (everything to strong).
    """

    level: Floats
    strong_share: Floats
    quality: Floats
    cost: Floats


def sweep_events(level: Floats, row: Ints, released: Floats, saved: Floats, start_cost: Floats) -> Sweep:
    """A sweep from events in any order; shapes (events,) but for `start_cost` (n,)."""
    order = np.argsort(level, kind="stable")
    sorted_level = level[order]
    last = np.flatnonzero(np.append(sorted_level[1:] != sorted_level[:-1], True))
    return Sweep(row[order], released[order], saved[order], last + 1, sorted_level[last], start_cost)


def sweep_scores(score: Floats, start_cost: Floats, saved: Floats) -> Sweep:
    """One score a prompt, (n,), higher for strong; letting a prompt go to weak saves `saved` (n,)."""
    rows = np.arange(score.size, dtype=np.int64)
    return sweep_events(score, rows, np.ones(score.size), saved, start_cost)


def sweep_cascade(
    rule: JointRule,
    adequate: Floats,
    mf: Floats | None,
    difficulty: Floats | None,
    cost_weak: Floats,
    cost_strong: Floats,
    cost_route: Floats,
    cost_check: Floats,
) -> Sweep:
    """The joint rule over the price of cost: strong up to t1, then checked, then from t2 on unchecked."""
    n = adequate.size
    index = rule.prompt_indices(mf, difficulty, n)
    t1, t2 = rule.strong_until.apply(index), rule.check_until.apply(index)
    loss = rule.losses(adequate, mf, difficulty)
    leave = np.minimum(np.maximum(t1, loss), t2)  # the price from which strong no longer answers
    rows = np.arange(n, dtype=np.int64)
    zero, one = np.zeros(n), np.ones(n)
    checked = t2 > t1
    begin = np.where(checked, -(cost_weak + cost_check), 0.0)  # checking starts: weak and check are paid
    drop = np.where(checked, cost_strong, cost_strong - cost_weak)  # strong is spared (weak was paid before)
    end = np.where(checked, cost_check, 0.0)  # checking stops
    return sweep_events(
        np.concatenate([t1, leave, t2]),
        np.concatenate([rows, rows, rows]),
        np.concatenate([zero, one, zero]),
        np.concatenate([begin, drop, end]),
        cost_route + cost_strong,
    )


def trace(sweep: Sweep, q_weak: Floats, q_strong: Floats, weights: Floats | None = None) -> Curve:
    """The curve of a sweep; `weights` (n,) sum to n (None: all one)."""
    n = q_weak.size
    w = np.ones(n) if weights is None else weights
    at = w[sweep.row]
    gone = np.cumsum(at * sweep.released)[sweep.end - 1]
    lost = np.cumsum(at * sweep.released * (q_strong - q_weak)[sweep.row])[sweep.end - 1]
    saved = np.cumsum(at * sweep.saved)[sweep.end - 1]
    return Curve(
        np.concatenate(([-np.inf], sweep.level)),
        1.0 - np.concatenate(([0.0], gone)) / n,
        (w @ q_strong - np.concatenate(([0.0], lost))) / n,
        (w @ sweep.start_cost - np.concatenate(([0.0], saved))) / n,
    )


def gap_closed(curve: Curve, quality_weak: float, quality_strong: float) -> Floats | None:
    """(Q - Q_weak) / (Q_strong - Q_weak) at the curve's points; None where strong is not better."""
    gap = quality_strong - quality_weak
    if gap <= 1e-12:
        return None
    return (curve.quality - quality_weak) / gap


def apgr(curve: Curve, quality_weak: float, quality_strong: float) -> float | None:
    """Average performance gap recovered over the share of strong calls; random is .5."""
    closed = gap_closed(curve, quality_weak, quality_strong)
    if closed is None:
        return None
    return -float(np.trapezoid(closed, curve.strong_share))


def apgr_cost(
    curve: Curve, quality_weak: float, quality_strong: float, cost_weak: float, cost_strong: float
) -> float | None:
    """The same over cost: 0 is always-weak, 1 always-strong, both bare; mixing those two at random is .5.

    Everything a strategy pays counts, so its curve starts right of 0 and may run beyond 1, where it is cut. A
    budget too small for its cheapest setting is spent on mixing that setting with bare weak answers; the area
    is taken along the path, so a stretch that gets dearer and worse counts against. None where strong is not
    better or not dearer.
    """
    closed = gap_closed(curve, quality_weak, quality_strong)
    if closed is None or cost_strong - cost_weak <= 1e-12:
        return None
    x = np.clip((curve.cost - cost_weak) / (cost_strong - cost_weak), 0.0, 1.0)
    x = np.concatenate(([1.0], x, [0.0]))
    return -float(np.trapezoid(np.concatenate(([1.0], closed, [0.0])), x))


def cpt(curve: Curve, quality_weak: float, quality_strong: float, target: float) -> float | None:
    """Call-performance threshold: the least share of strong calls that closes `target` (0..1) of the gap."""
    closed = gap_closed(curve, quality_weak, quality_strong)
    if closed is None:
        return None
    share, value = curve.strong_share[::-1], closed[::-1]  # from all-weak upwards
    reached = np.flatnonzero(value >= target)
    if reached.size == 0:
        return None
    k = int(reached[0])
    if k == 0 or value[k] == value[k - 1]:
        return float(share[k])
    part = (target - value[k - 1]) / (value[k] - value[k - 1])
    return float(share[k - 1] + part * (share[k] - share[k - 1]))


def point_for_quality(curve: Curve, wanted: float) -> int:
    """Index of the curve's point with the fewest strong calls whose quality is at least `wanted`."""
    good = np.flatnonzero(curve.quality >= wanted - 1e-12)
    return int(good[-1]) if good.size else 0


def threshold_at(curve: Curve, point: int) -> float:
    """A threshold that sets the strategy to this point: strong answers iff score >= threshold.

    Halfway between the neighbouring levels, which is the best guess for other prompts.
    """
    if point == 0:
        return float(curve.level[1]) - 1e-9 if curve.level.size > 1 else 0.0
    if point + 1 < curve.level.size:
        return float(0.5 * (curve.level[point] + curve.level[point + 1]))
    return float(np.nextafter(curve.level[point], np.inf))


def point_at_threshold(curve: Curve, threshold: float) -> int:
    """The curve's point at a threshold: every level below it has happened."""
    return int(np.searchsorted(curve.level, threshold, side="left")) - 1


def auroc(score: Floats, label: NDArray[np.bool_]) -> float | None:
    """P(score of a positive > score of a negative) + half of P(equal); None with one class only."""
    positives = int(label.sum())
    negatives = label.size - positives
    if positives == 0 or negatives == 0:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - 0.5 * (counts - 1)
    ranks = middle_rank[inverse]
    return float((ranks[label].sum() - 0.5 * positives * (positives + 1)) / (positives * negatives))

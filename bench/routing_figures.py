"""Figures of a routing benchmark: what was served, the curves behind it, and how sure the differences are.

Random means: strong for a share of the prompts drawn blindly, which is a straight line between the two models
in quality, share of strong calls and cost. Every comparison is paired: both sides are read off the same
prompts in every bootstrap draw, and the share or the cost at which they are compared is that draw's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bench.routing_prices import QUALITIES, break_even, costs_by_ratio
from bench.routing_serve import HeldOut, Pass
from routing.policy import Policy
from routing.table import Floats
from trainer.calibrate import CalibratedScores, strategy_sweeps
from trainer.metrics import (
    Curve,
    Sweep,
    apgr,
    apgr_cost,
    auroc,
    cpt,
    point_at_threshold,
    threshold_at,
    trace,
)
from trainer.metrics_bootstrap import Difference, bootstrap_apgr, difference, draw_weights, interval
from trainer.scored import ScoredPairs

SHARES = (0.2, 0.4, 0.6, 0.8)  # of strong calls, at which strategies are compared
SWEPT = ("mf", "difficulty", "evaluator", "cascade")


@dataclass(slots=True)
class Scores:
    """Calibrated scores of the n held-out prompts as the proxy told them, and the bundle's policy."""

    calibrated: CalibratedScores
    policy: Policy


@dataclass(frozen=True, slots=True)
class Served:
    """One pass: means over the held-out prompts, and its quality minus random's at equal share and cost."""

    model: str
    threshold: float | None
    quality: float
    strong_share: float
    cost: float
    weak_calls: int
    strong_calls: int
    at_equal_share: Difference | None
    at_equal_cost: Difference | None
    off_curve: int | None  # prompts that the told scores would have sent to the other tier


@dataclass(slots=True)
class Figures:
    """All figures of one pair; costs in the pair's unit, a mean per prompt."""

    n: int
    weak: dict[str, float]
    strong: dict[str, float]
    served: list[Served]
    curves: dict[str, dict[str, Any]]
    differences: dict[str, Difference | None]
    equal_share: dict[str, dict[str, Difference | None]] = field(default_factory=dict)
    break_even: list[dict[str, float | None]] = field(default_factory=list)
    priced: list[dict[str, float]] = field(default_factory=list)
    oracle_break_even: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def scored_pairs(held: HeldOut) -> ScoredPairs:
    """The held-out prompts in the trainer's form, without raw scores."""
    return ScoredPairs(
        weak=held.pair.weak,
        strong=held.pair.strong,
        prompt_id=held.table.prompt_ids,
        q_weak=held.quality[:, 0],
        q_strong=held.quality[:, 1],
        prompt_chars=np.array([len(prompt) for prompt in held.table.prompts], dtype=np.float64),
        cost_weak=held.cost[:, 0],
        cost_strong=held.cost[:, 1],
    )


def sweeps_of(held: HeldOut, scores: Scores) -> dict[str, Sweep]:
    """Every strategy over all its thresholds."""
    return strategy_sweeps(scored_pairs(held), scores.calibrated, scores.policy, None)


def thresholds_for_shares(held: HeldOut, sweep: Sweep) -> list[float]:
    """Thresholds of a strategy that lead closest to `SHARES` of strong calls, as many as differ."""
    curve = trace(sweep, held.quality[:, 0], held.quality[:, 1])
    points = sorted({int(np.abs(curve.strong_share - share).argmin()) for share in SHARES})
    values = [threshold_at(curve, point) for point in points]
    return [float(min(1.0, max(0.0, value))) for value in values]


def collect_figures(held: HeldOut, scores: Scores, passes: Mapping[str, Pass], draws: int) -> Figures:
    """Everything that is printed, out of passes by model name."""
    q_weak, q_strong = held.quality.T
    sweeps = sweeps_of(held, scores)
    curves = {name: trace(sweep, q_weak, q_strong) for name, sweep in sweeps.items()}
    boot = bootstrap_apgr(sweeps, q_weak, q_strong, draws)
    ends = {"weak": _end(held, 0), "strong": _end(held, 1)}
    named = [name for name in SWEPT if name in sweeps]
    figures = Figures(
        len(held),
        ends["weak"],
        ends["strong"],
        [_served(held, scores, done, curves, draws) for done in passes.values()],
        {name: _curve_figures(held, scores, name, curve, boot[name]) for name, curve in curves.items()},
        {f"{name} - random": difference(boot[name], boot["random"]) for name in named},
    )
    if "evaluator" in boot and "mf" in boot:
        figures.differences["evaluator - mf"] = difference(boot["evaluator"], boot["mf"])
    for name in named:
        figures.differences[f"{name} - random, over cost"] = _cost_difference(held, sweeps[name], draws)
        figures.equal_share[name] = {
            f"{s:g}": _share_difference(held, sweeps[name], s, draws) for s in SHARES
        }
    if "evaluator" in curves:
        figures.break_even = [break_even(curves, q_strong.mean(), part) for part in QUALITIES]
        figures.oracle_break_even = float((q_weak >= q_strong).mean())
    figures.priced = costs_by_ratio(scored_pairs(held), scores.calibrated, scores.policy)
    return figures


def _end(held: HeldOut, tier: int) -> dict[str, float]:
    return {"quality": float(held.quality[:, tier].mean()), "cost": float(held.cost[:, tier].mean())}


def _curve_figures(
    held: HeldOut, scores: Scores, name: str, curve: Curve, drawn: Floats
) -> dict[str, float | list[float] | None]:
    q_weak, q_strong = held.quality.T
    weak, strong = float(q_weak.mean()), float(q_strong.mean())
    cost_weak, cost_strong = (float(value) for value in held.cost.mean(axis=0))
    adequate = scores.calibrated.adequate if name == "evaluator" else None
    bounds = interval(drawn)
    return {
        "apgr": apgr(curve, weak, strong),
        "apgr_ci95": None if bounds is None else list(bounds),
        "apgr_cost": apgr_cost(curve, weak, strong, cost_weak, cost_strong),
        "cpt50": cpt(curve, weak, strong, 0.5),
        "cpt80": cpt(curve, weak, strong, 0.8),
        "adequacy_auroc": None if adequate is None else auroc(adequate, q_weak >= 0.5),
    }


def _served(held: HeldOut, scores: Scores, done: Pass, curves: Mapping[str, Curve], draws: int) -> Served:
    strategy, threshold = split_name(done.model, scores.policy)
    off_curve = None
    if strategy is not None and threshold is not None and strategy in curves and strategy != "random":
        point = max(0, point_at_threshold(curves[strategy], threshold))
        off_curve = round(
            abs(float(curves[strategy].strong_share[point]) - float(done.strong.mean())) * len(held)
        )
    routed = strategy is not None
    return Served(
        done.model,
        threshold,
        float(done.quality.mean()),
        float(done.strong.mean()),
        float(done.cost.mean()),
        *done.calls,
        _against_random(held, done, done.strong, np.array([0.0, 1.0]), draws) if routed else None,
        _against_random(held, done, done.cost, held.cost, draws) if routed else None,
        off_curve,
    )


def split_name(model: str, policy: Policy) -> tuple[str | None, float | None]:
    """Strategy and threshold behind a model name that was sent; (None, None) for a pinned tier."""
    if model in ("weak", "strong"):
        return None, None
    _, _, rest = model.partition("-")
    strategy, _, threshold = rest.partition("-")
    strategy = strategy or policy.default_strategy
    return strategy, float(threshold) if threshold else policy.thresholds[strategy]


def _against_random(held: HeldOut, done: Pass, spent: Floats, ends: Floats, draws: int) -> Difference | None:
    """Quality served minus that of a random mix which spends the same mean of `spent`, (n,).

    `ends` is what always-weak and always-strong spend, (2,) or (n, 2). Spending beyond always-strong buys a
    random mix nothing more.
    """
    columns = np.column_stack([done.quality, spent, held.quality, np.broadcast_to(ends, held.quality.shape)])

    def gap(means: Floats) -> Floats:
        quality, used, weak, strong, low, high = means.T  # each (draws,)
        share = np.clip((used - low) / np.where(high > low, high - low, np.nan), 0.0, 1.0)
        better: Floats = quality - (weak + share * (strong - weak))
        return better

    drawn = np.concatenate(
        [gap(weights @ columns / len(held)) for weights in draw_weights(len(held), draws, 0)]
    )
    return _told(drawn, float(gap(columns.mean(axis=0, keepdims=True))[0]))


def _share_difference(held: HeldOut, sweep: Sweep, share: float, draws: int) -> Difference | None:
    """A curve's quality minus random's at one share of strong calls."""

    def gap(curve: Curve, weak: float, strong: float, costs: tuple[float, float]) -> float:
        at = np.interp(share, curve.strong_share[::-1], curve.quality[::-1])
        return float(at) - (weak + share * (strong - weak))

    return _traced(held, sweep, gap, draws)


def _cost_difference(held: HeldOut, sweep: Sweep, draws: int) -> Difference | None:
    """A curve's APGR over cost minus that of mixing the two models at random, which is .5."""

    def gap(curve: Curve, weak: float, strong: float, costs: tuple[float, float]) -> float:
        area = apgr_cost(curve, weak, strong, *costs)
        return np.nan if area is None else area - 0.5

    return _traced(held, sweep, gap, draws)


def _traced(
    held: HeldOut,
    sweep: Sweep,
    gap: Callable[[Curve, float, float, tuple[float, float]], float],
    draws: int,
) -> Difference | None:
    """`gap` of the curve traced anew for every draw of prompts."""
    q_weak, q_strong = held.quality.T
    n = len(held)

    def of(weights: Floats) -> float:
        curve = trace(sweep, q_weak, q_strong, weights)
        weak, strong = weights @ held.quality / n
        cost_weak, cost_strong = weights @ held.cost / n
        return gap(curve, float(weak), float(strong), (float(cost_weak), float(cost_strong)))

    drawn = np.array([of(row) for weights in draw_weights(n, draws, 0) for row in weights])
    return _told(drawn, of(np.ones(n)))


def _told(drawn: Floats, value: float) -> Difference | None:
    """The figure itself with the interval and p of its draws."""
    found = difference(drawn, np.zeros_like(drawn))
    return None if found is None else Difference(value, found.low, found.high, found.p)

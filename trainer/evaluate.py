"""What a bundle is worth on prompts it has not seen: the figures of report.json, and what the page shows
beside.

Everything is computed from one `ScoredPairs` and the bundle's `FittedPolicy`; nothing is fitted here, so the
operating points are those chosen on the calibration split. What the data can't score is None. Cost: 10,000
prompts with 1,000 bootstrap draws take about ten seconds on one core.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.policy import Policy
from routing.reliability import brier, calibration_slope, ece, ece_excess, reliability_bins
from routing.table import Floats
from trainer.calibrate import (
    QUALITY,
    CalibratedScores,
    FittedPolicy,
    calibrate_scores,
    mean_costs,
    row_costs,
    strategy_sweeps,
)
from trainer.metrics import (
    Curve,
    Sweep,
    apgr,
    apgr_cost,
    auroc,
    cpt,
    point_at_threshold,
    point_for_quality,
    trace,
)
from trainer.metrics_bootstrap import bootstrap_apgr, difference, interval
from trainer.scored import ScoredPairs

NAMES = ("random", "length", "mf", "difficulty", "evaluator", "cascade", "oracle")
FIGURES = (
    "apgr",
    "apgr_ci95",
    "apgr_cost",
    "cpt50",
    "cpt80",
    "auroc",
    "adequacy_auroc",
    "brier",
    "ece",
    "ece_excess",
    "cal_slope",
    "calls_saved_at_95",
    "cost_at_95",
    "calls_saved_at_95_oracle",
    "cost_at_95_oracle",
)
_PLOT_POINTS = 250
_SMALLEST_SLICE = 20  # prompts; below this a group or decile gets no APGR


@dataclass(slots=True)
class Evaluation:
    """`report` is report.json to the letter; `details` is what report.html draws beside it."""

    report: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)


def evaluate_scored(
    scored: ScoredPairs,
    fitted: FittedPolicy,
    *,
    certificate: Mapping[str, Any] | None = None,
    price_ratio: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Judge a fitted policy on held-out prompts. Raises `ExamplesError` for costs that cannot be used."""
    scores = calibrate_scores(scored, fitted.maps)
    policy = _priced(fitted, scored, price_ratio)
    sweeps = strategy_sweeps(scored, scores, policy, price_ratio)
    curves = {name: trace(sweep, scored.q_weak, scored.q_strong) for name, sweep in sweeps.items()}
    boot = bootstrap_apgr(sweeps, scored.q_weak, scored.q_strong, draws, seed)
    costs, known = mean_costs(scored, price_ratio)
    quality = {"weak": float(scored.q_weak.mean()), "strong": float(scored.q_strong.mean())}
    strategies = {
        name: _figures(name, scored, scores, sweeps, curves, boot, fitted, costs if known else None, seed)
        for name in NAMES
    }
    report = {
        "pair": {"weak": scored.weak, "strong": scored.strong},
        "n": len(scored),
        "quality": quality,
        "cost": {
            "weak": costs.weak if known else None,
            "strong": costs.strong if known else None,
            "price_ratio": costs.weak_ratio if known else None,
        },
        "strategies": strategies,
        "certificate": dict(certificate) if certificate else None,
    }
    details = {
        "curves": {name: _thinned(curve) for name, curve in curves.items()},
        "reliability": _reliability(scored, scores),
        "differences": _differences(boot),
        "operating_points": _operating_points(fitted, curves, quality["strong"]),
        "break_even": _break_even(fitted, curves, scored, price_ratio),
        "groups": _slices(scored, sweeps, scores, _by_group(scored)),
        "prompt_length_deciles": _slices(scored, sweeps, scores, _deciles(scored.prompt_chars)),
        "answer_length_deciles": (
            {}
            if scored.answer_chars is None
            else _slices(scored, sweeps, scores, _deciles(scored.answer_chars))
        ),
    }
    return Evaluation(report, details)


def _priced(fitted: FittedPolicy, scored: ScoredPairs, price_ratio: float | None) -> Policy:
    """The policy, its joint rule put to the stated costs where the bundle was fitted without any."""
    policy = fitted.policy
    if fitted.costs_known or not policy.joint or row_costs(scored, price_ratio) is None:
        return policy
    costs, _ = mean_costs(scored, price_ratio)
    return Policy(
        version=policy.version,
        default=policy.default_strategy,
        thresholds=policy.thresholds,
        tiers=policy.tiers,
        joint=[rule.with_costs(costs) for rule in policy.joint],
        explore_share=policy.explore_share,
    )


def _figures(
    name: str,
    scored: ScoredPairs,
    scores: CalibratedScores,
    sweeps: Mapping[str, Sweep],
    curves: Mapping[str, Curve],
    boot: Mapping[str, Floats],
    fitted: FittedPolicy,
    costs: Any,
    seed: int,
) -> dict[str, Any]:
    """One strategy's row of the report; every key there, None where it can't be scored."""
    row: dict[str, Any] = dict.fromkeys(FIGURES)
    row.update(_adequacy_figures(name, scored, scores, seed))
    if name not in curves:
        return row
    curve = curves[name]
    weak, strong = float(scored.q_weak.mean()), float(scored.q_strong.mean())
    bounds = interval(boot[name])
    row["apgr"] = apgr(curve, weak, strong)
    row["apgr_ci95"] = list(bounds) if bounds and row["apgr"] is not None else None
    row["cpt50"], row["cpt80"] = cpt(curve, weak, strong, 0.5), cpt(curve, weak, strong, 0.8)
    row["auroc"] = auroc(_escalation(sweeps[name], len(scored)), scored.q_strong > scored.q_weak)
    share, cost, _ = _setting(curve, fitted.points_95.get(name), name)
    best = point_for_quality(curve, QUALITY * strong)
    best_share, best_cost = float(curve.strong_share[best]), float(curve.cost[best])
    if name == "random":
        best_share, best_cost = _mixed(curve, QUALITY * strong)
    row["calls_saved_at_95"] = None if share is None else 1.0 - share
    row["calls_saved_at_95_oracle"] = 1.0 - best_share
    if costs is not None:
        row["apgr_cost"] = apgr_cost(curve, weak, strong, costs.weak, costs.strong)
        row["cost_at_95"], row["cost_at_95_oracle"] = cost, best_cost
    return row


def _adequacy_figures(
    name: str, scored: ScoredPairs, scores: CalibratedScores, seed: int
) -> dict[str, float | None]:
    """How good P(adequate) is where one is stated: MF by the prompt, evaluator and cascade by the answer."""
    p = {"mf": scores.weak_adequate, "evaluator": scores.adequate, "cascade": scores.adequate}.get(name)
    if p is None:
        return {}
    label = scored.q_weak >= 0.5
    y = label.astype(np.float64)
    return {
        "adequacy_auroc": auroc(p, label),
        "brier": brier(p, y),
        "ece": ece(p, y),
        "ece_excess": ece_excess(p, y, seed=seed),
        "cal_slope": calibration_slope(p, y),
    }


def _escalation(sweep: Sweep, n: int) -> Floats:
    """The level at which strong loses each prompt, (n,): the strategy's escalation score."""
    level = np.repeat(sweep.level, np.diff(np.concatenate(([0], sweep.end))))
    released = np.flatnonzero(sweep.released)
    score = np.empty(n)
    score[sweep.row[released]] = level[released]
    return score


def _setting(
    curve: Curve, threshold: float | None, name: str
) -> tuple[float | None, float | None, float | None]:
    """Share of strong calls, cost and quality at a threshold; for `random` on the line between the ends."""
    if threshold is None:
        return None, None, None
    if name == "random":
        ends = ((values[0], values[-1]) for values in (curve.strong_share, curve.cost, curve.quality))
        share, cost, quality = (float(a + (b - a) * threshold) for a, b in ends)
        return share, cost, quality
    k = max(0, point_at_threshold(curve, threshold))
    return float(curve.strong_share[k]), float(curve.cost[k]), float(curve.quality[k])


def _mixed(curve: Curve, wanted: float) -> tuple[float, float]:
    """Least share of strong calls at which a random mix of both models reaches a quality, and its cost."""
    strong, weak = float(curve.quality[0]), float(curve.quality[-1])
    kept = 1.0 if weak >= wanted else float(np.clip((strong - wanted) / max(strong - weak, 1e-12), 0.0, 1.0))
    return 1.0 - kept, float(curve.cost[0] + kept * (curve.cost[-1] - curve.cost[0]))


def _thinned(curve: Curve) -> dict[str, list[float]]:
    keep = np.unique(np.linspace(0, curve.level.size - 1, _PLOT_POINTS).round().astype(np.int64))
    return {
        "strong_share": curve.strong_share[keep].tolist(),
        "quality": curve.quality[keep].tolist(),
        "cost": curve.cost[keep].tolist(),
    }


def _reliability(scored: ScoredPairs, scores: CalibratedScores) -> dict[str, list[dict[str, float]]]:
    label = (scored.q_weak >= 0.5).astype(np.float64)
    stated = {"evaluator": scores.adequate, "mf": scores.weak_adequate}
    return {
        name: [dataclasses.asdict(b) for b in reliability_bins(p, label)]
        for name, p in stated.items()
        if p is not None
    }


def _differences(boot: Mapping[str, Floats]) -> dict[str, dict[str, Any]]:
    """Paired differences of APGR, every served strategy against random and against MF."""
    out: dict[str, dict[str, Any]] = {}
    for name in ("length", "mf", "difficulty", "evaluator", "cascade"):
        for other in ("random", "mf"):
            if name == other or name not in boot or other not in boot:
                continue
            gap = difference(boot[name], boot[other])
            if gap is not None:
                out[f"{name} - {other}"] = dataclasses.asdict(gap)
    return out


def _operating_points(
    fitted: FittedPolicy, curves: Mapping[str, Curve], strong: float
) -> dict[str, dict[str, Any]]:
    """Where the thresholds chosen for 95 % on the calibration split lead on these prompts."""
    out = {}
    for name, curve in curves.items():
        threshold = fitted.points_95.get(name)
        share, cost, quality = _setting(curve, threshold, name)
        kept = None if quality is None or strong <= 0 else quality / strong
        out[name] = {"threshold": threshold, "strong_share": share, "cost": cost, "quality_kept": kept}
    return out


def _break_even(
    fitted: FittedPolicy, curves: Mapping[str, Curve], scored: ScoredPairs, price_ratio: float | None
) -> dict[str, float | None]:
    """Price of weak over strong below which judging every weak answer costs less than the alternatives.

    At the evaluator's 95 % point with share s of strong calls, check c (in strong's price) and weak at ratio
    r it costs r + c + s. Against always-strong that breaks even at r = 1 - c - s; against a random mix of the
    same quality with share m of strong calls, which costs m + (1 - m) r, at r = (m - s - c) / m. `perfect` is
    what an evaluator without error would reach against always-strong at strong's own quality or better.
    """
    perfect = float((scored.q_weak >= scored.q_strong).mean())
    result: dict[str, float | None] = {"always_strong": None, "random_mix": None, "perfect": perfect}
    if "evaluator" not in curves:
        return result
    costs, known = mean_costs(scored, price_ratio)
    check = costs.check / costs.strong if known else 0.0
    share, _, quality = _setting(curves["evaluator"], fitted.points_95.get("evaluator"), "evaluator")
    if share is None or quality is None:
        return result
    result["always_strong"] = 1.0 - check - share
    mix, _ = _mixed(curves["random"], quality)
    result["random_mix"] = (mix - share - check) / mix if mix > 0.0 else None
    return result


def _by_group(scored: ScoredPairs) -> dict[str, NDArray[np.int64]]:
    names = np.array(scored.group)
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def _deciles(values: Floats) -> dict[str, NDArray[np.int64]]:
    """Row numbers by tenth of a length, NaN left out; the key states the range."""
    rows = np.flatnonzero(np.isfinite(values))
    ordered = rows[np.argsort(values[rows], kind="stable")]
    parts = [part for part in np.array_split(ordered, 10) if part.size]
    return {f"{i + 1}: {values[p[0]]:.0f}-{values[p[-1]]:.0f}": p for i, p in enumerate(parts)}


def _slices(
    scored: ScoredPairs, sweeps: Mapping[str, Sweep], scores: CalibratedScores, parts: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Qualities, APGR of every strategy and the evaluator's AUROC inside each part of the prompts."""
    out: dict[str, dict[str, Any]] = {}
    for key, rows in parts.items():
        weights = np.zeros(len(scored))
        weights[rows] = len(scored) / rows.size
        weak, strong = float(scored.q_weak[rows].mean()), float(scored.q_strong[rows].mean())
        row: dict[str, Any] = {"n": int(rows.size), "weak": weak, "strong": strong, "apgr": {}}
        for name, sweep in sweeps.items():
            enough = rows.size >= _SMALLEST_SLICE
            curve = trace(sweep, scored.q_weak, scored.q_strong, weights)
            row["apgr"][name] = apgr(curve, weak, strong) if enough else None
        adequate = scores.adequate
        row["adequacy_auroc"] = (
            None if adequate is None else auroc(adequate[rows], scored.q_weak[rows] >= 0.5)
        )
        out[key] = row
    return out

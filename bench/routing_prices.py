"""At which prices judging the weak answer pays: break-even price ratios, and costs at other ratios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from routing.cost import Costs
from routing.policy import Policy
from trainer.calibrate import CalibratedScores, strategy_sweeps
from trainer.metrics import Curve, point_for_quality, trace
from trainer.scored import ScoredPairs

QUALITIES = (0.9, 0.95, 0.99, 1.0)  # of the strong model's, at which break-even prices are told
KEPT = 0.95  # of the strong model's quality, at which costs are compared
RATIOS = (0.02, 0.05, 0.1, 0.2, 0.37, 0.6)  # price of a weak answer over a strong one's


def break_even(curves: Mapping[str, Curve], strong: float, part: float) -> dict[str, float | None]:
    """Prices of weak over strong below which judging every weak answer pays, at `part` of strong's quality.

    With share s of strong calls the chain costs r + s. Against always-strong, which costs 1, it pays below
    r = 1 - s; against a random mix of that quality with share m, which costs m + (1 - m) r, below
    (m - s) / m. `cost_*` are least costs at the pair's own prices, over always-strong's.
    """
    curve, mix = curves["evaluator"], curves["random"]
    share = float(curve.strong_share[point_for_quality(curve, part * strong)])
    ends = float(mix.quality[-1]), float(mix.quality[0])
    blind = float(np.clip((part * strong - ends[0]) / max(ends[1] - ends[0], 1e-12), 0.0, 1.0))
    at_price = {
        f"cost_{name}": cost_of_quality(curves[name], part * strong) / float(mix.cost[0])
        for name in ("evaluator", "cascade")
        if name in curves
    }
    return {
        **at_price,
        "cost_random": float(mix.cost[-1] + blind * (mix.cost[0] - mix.cost[-1])) / float(mix.cost[0]),
        "quality": part,
        "strong_share": share,
        "random_share": blind,
        "always_strong": 1.0 - share,
        "random_mix": (blind - share) / blind if blind > 0.0 else None,
    }


def cost_of_quality(curve: Curve, wanted: float) -> float:
    """The least mean cost of the curve's points of at least this quality."""
    return float(curve.cost[curve.quality >= wanted - 1e-12].min())


def costs_by_ratio(pairs: ScoredPairs, scores: CalibratedScores, policy: Policy) -> list[dict[str, float]]:
    """Least cost, in strong answers, at `KEPT` of strong's quality at other price ratios.

    Of the joint rule (`cascade`), of judging every weak answer (`evaluator`) and of a random mix.
    """
    if not policy.joint or scores.adequate is None:
        return []
    q_weak, q_strong = pairs.q_weak, pairs.q_strong
    weak, strong = float(q_weak.mean()), float(q_strong.mean())
    kept = 1.0 if strong <= weak else min(1.0, (1.0 - KEPT) * strong / (strong - weak))
    out = []
    for ratio in RATIOS:
        rule = policy.joint[0].with_costs(Costs(ratio, 0.0, 1.0))
        thresholds, default = policy.thresholds, policy.default_strategy
        at = Policy(version=policy.version, default=default, thresholds=thresholds, joint=[rule])
        at_ratio = replace(pairs, cost_weak=np.full(len(pairs), ratio), cost_strong=np.ones(len(pairs)))
        sweeps = strategy_sweeps(at_ratio, scores, at, None)
        row = {"ratio": ratio, "random": 1.0 - kept * (1.0 - ratio)}
        for name in ("cascade", "evaluator"):
            curve = trace(sweeps[name], q_weak, q_strong)
            row[name] = cost_of_quality(curve, KEPT * strong)
        out.append(row)
    return out

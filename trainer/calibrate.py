"""From raw scores and labels to a policy: calibration maps, joint rule, thresholds.

Everything here is numpy on a `ScoredPairs` and takes a fraction of a second for thousands of prompts, so that
operating points can be refitted a thousand times in a coverage test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from routing.calibration import CalibrationMap, choose_map
from routing.cost import Costs
from routing.errors import ExamplesError
from routing.joint_rule import HIGHEST_PRICE
from routing.policy import DEFAULT_EXPLORE_SHARE, Policy
from routing.table import Floats
from trainer.calibrate_joint import fit_joint_rule
from trainer.metrics import Sweep, point_for_quality, sweep_cascade, sweep_scores, threshold_at, trace
from trainer.scored import ScoredPairs

QUALITY = 0.95  # of the strong model's: the operating point a policy is set to unless told otherwise
# Simple rules that are judged beside the others but never served.
BASELINES = ("random", "length", "oracle")


@dataclass(slots=True)
class CalibratedScores:
    """Scores after their maps, each (n,) or None: `mf` and `difficulty` are P(q_strong > q_weak), `adequate`
    and `weak_adequate` P(q_weak >= .5) with and without the answer seen."""

    mf: Floats | None = None
    difficulty: Floats | None = None
    adequate: Floats | None = None
    weak_adequate: Floats | None = None


@dataclass(slots=True)
class FittedPolicy:
    """A policy and the maps its scores need.

    `maps` are named like the fields of `CalibratedScores`; `points_95` are every strategy's thresholds at 95
    % of the strong model's quality on the calibration prompts (baselines included), for the report;
    `costs_known` is False where the examples told no cost and only quality counted.
    """

    policy: Policy
    maps: dict[str, CalibrationMap]
    points_95: dict[str, float] = field(default_factory=dict)
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    costs_known: bool = True

    def policy_dict(self) -> dict[str, Any]:
        """Data of policy.json; what `Policy.from_dict` does not read is for the report."""
        return {**self.policy.to_dict(), "points_95": self.points_95, "costs_known": self.costs_known}

    def calibration_dict(self) -> dict[str, Any]:
        """Data of calibration.json for this pair."""
        return {
            "maps": {name: fitted.to_dict() for name, fitted in self.maps.items()},
            "cross_validated_log_loss": self.losses,
        }

    @classmethod
    def from_dicts(cls, policy: Mapping[str, Any], calibration: Mapping[str, Any]) -> FittedPolicy:
        """Read both files' data. Raises `PolicyError`."""
        return cls(
            Policy.from_dict(policy),
            {name: CalibrationMap.from_dict(data) for name, data in calibration["maps"].items()},
            dict(policy.get("points_95", {})),
            costs_known=bool(policy.get("costs_known", True)),
        )


def fit_policy(
    scored: ScoredPairs,
    *,
    version: str = "unnamed",
    quality: float = QUALITY,
    price_ratio: float | None = None,
    explore_share: float = DEFAULT_EXPLORE_SHARE,
    seed: int = 0,
    unseen: tuple[Floats, Floats] | None = None,
    prompts: ScoredPairs | None = None,
) -> FittedPolicy:
    """Maps, joint rule and thresholds at `quality` (of strong's) from the calibration prompts.

    `unseen` are the evaluator's raw scores of other answers that it has not seen and whether those were
    adequate: they join the calibration prompts' in its map. `prompts` are all prompts where `scored` are only
    those with an answer: what the prompt alone tells is calibrated and set on them, and decides where the
    evaluator has learnt nothing.

    Costs are the rows' means, else weak : strong = `price_ratio`, else unknown: then only quality counts.
    """
    maps, losses = fit_maps(scored, seed, unseen)
    if prompts is not None:
        told, their_losses = fit_maps(prompts, seed)
        maps, losses = {**maps, **told}, {**losses, **their_losses}
    scores = calibrate_scores(scored, maps)
    costs, known = mean_costs(scored, price_ratio)
    served = _served(scores)
    joint = []
    if scores.adequate is not None:
        joint.append(
            fit_joint_rule(
                scored.q_weak, scored.q_strong, scores.adequate, scores.mf, scores.difficulty, costs, seed
            )
        )
    draft = Policy(
        version=version,
        default="random",
        thresholds={"random": 0.5, **dict.fromkeys(served, 0.5)},
        joint=joint,
        explore_share=explore_share,
    )
    sweeps = strategy_sweeps(scored, scores, draft, price_ratio)
    points = quality_points(sweeps, scored, quality)
    unjudged = None
    if prompts is not None:
        by_prompt = strategy_sweeps(prompts, calibrate_scores(prompts, maps), draft, price_ratio)
        points |= quality_points(by_prompt, prompts, quality)
        unjudged = next((name for name in ("mf", "difficulty") if name in served), None)
    policy = Policy(
        version=version,
        default=served[0] if served else "random",
        thresholds=_thresholds(points),
        joint=joint,
        explore_share=explore_share,
        unjudged=unjudged,
    )
    return FittedPolicy(policy, maps, quality_points(sweeps, scored, QUALITY), losses, known)


def _served(scores: CalibratedScores) -> list[str]:
    """The strategies whose scores there are; the first is the default."""
    there = {
        "cascade": scores.adequate is not None,
        "evaluator": scores.adequate is not None,
        "mf": scores.mf is not None,
        "difficulty": scores.difficulty is not None,
    }
    return [name for name, known in there.items() if known]


def _thresholds(points: Mapping[str, float]) -> dict[str, float]:
    """Of the strategies that can be served, each where it is one."""
    return {
        name: min(highest_threshold(name), max(1e-6, value))
        for name, value in points.items()
        if name not in ("length", "oracle")
    }


def highest_threshold(strategy: str) -> float:
    """Probabilities end at 1; the cascade's threshold is a price."""
    return HIGHEST_PRICE if strategy == "cascade" else 1.0


def fit_maps(
    scored: ScoredPairs, seed: int = 0, unseen: tuple[Floats, Floats] | None = None
) -> tuple[dict[str, CalibrationMap], dict[str, dict[str, float]]]:
    """One map per raw score, chosen by cross-validated log loss, and those losses."""
    adequate = (scored.q_weak >= 0.5).astype(np.float64)
    shift = (scored.q_strong > scored.q_weak).astype(np.float64)
    maps: dict[str, CalibrationMap] = {}
    losses: dict[str, dict[str, float]] = {}
    if scored.gain_raw is not None:
        maps["mf"], losses["mf"] = choose_map(scored.gain_raw, shift, input="raw", seed=seed)
    if scored.difficulty_raw is not None:
        maps["difficulty"], losses["difficulty"] = choose_map(
            scored.difficulty_raw, shift, input="raw", seed=seed
        )
    if scored.adequate_raw is not None:
        raw, labels = scored.adequate_raw, adequate
        if unseen is not None:
            # A slope from the hundred calibration answers of a small table is a guess; these are out of fold.
            raw, labels = np.concatenate([raw, unseen[0]]), np.concatenate([labels, unseen[1]])
        maps["adequate"], losses["adequate"] = choose_map(raw, labels, seed=seed)
    if scored.weak_adequate_raw is not None:
        maps["weak_adequate"], losses["weak_adequate"] = choose_map(
            scored.weak_adequate_raw, adequate, seed=seed
        )
    return maps, losses


def calibrate_scores(scored: ScoredPairs, maps: Mapping[str, CalibrationMap]) -> CalibratedScores:
    """Raw scores through their maps; a score without a map, or a map without a score, is None."""
    raw = {
        "mf": scored.gain_raw,
        "difficulty": scored.difficulty_raw,
        "adequate": scored.adequate_raw,
        "weak_adequate": scored.weak_adequate_raw,
    }
    done = {name: maps[name].apply(v) if v is not None and name in maps else None for name, v in raw.items()}
    return CalibratedScores(**done)


def row_costs(scored: ScoredPairs, price_ratio: float | None) -> tuple[Floats, Floats, Floats, Floats] | None:
    """Cost of weak, strong, scoring the prompt and judging, each (n,), or None where nothing tells them.

    The rows' own costs win; with `price_ratio` alone strong costs 1 and scorers as their columns say, or 0.
    Raises `ExamplesError` for a ratio that is not above 0 and for strong answers that cost nothing.
    """
    n = len(scored)
    zero = np.zeros(n)
    route = zero if scored.cost_route is None else scored.cost_route
    check = zero if scored.cost_check is None else scored.cost_check
    if scored.cost_weak is not None and scored.cost_strong is not None:
        if not scored.cost_strong.mean() > 0.0:
            raise ExamplesError(f"the answers of {scored.strong!r} cost nothing; give --price-ratio instead")
        return scored.cost_weak, scored.cost_strong, route, check
    if price_ratio is None:
        return None
    if not price_ratio > 0.0:
        raise ExamplesError(
            f"--price-ratio is the price of weak over that of strong, above 0; it is {price_ratio}"
        )
    return np.full(n, price_ratio), np.ones(n), route, check


def mean_costs(scored: ScoredPairs, price_ratio: float | None) -> tuple[Costs, bool]:
    """Mean costs for the policy, and whether anything told them (if not, only strong calls cost)."""
    costs = row_costs(scored, price_ratio)
    if costs is None:
        return Costs(0.0, 0.0, 1.0), False
    weak, strong, _, check = (float(values.mean()) for values in costs)
    return Costs(round(weak, 12), round(check, 12), round(strong, 12)), True


def strategy_sweeps(
    scored: ScoredPairs, scores: CalibratedScores, policy: Policy, price_ratio: float | None
) -> dict[str, Sweep]:
    """Every strategy the data can score, over all its thresholds. Without costs, cost counts strong calls."""
    n = len(scored)
    zero = np.zeros(n)
    costs = row_costs(scored, price_ratio)
    weak, strong, route, check = (zero, np.ones(n), zero, zero) if costs is None else costs
    spared = strong - weak
    sweeps = {
        "random": sweep_scores(np.full(n, 0.5), strong, spared),
        "length": sweep_scores(scored.prompt_chars, strong, spared),
        "oracle": sweep_scores(scored.q_strong - scored.q_weak, strong, spared),
    }
    if scores.mf is not None:
        sweeps["mf"] = sweep_scores(scores.mf, strong + route, spared)
    if scores.difficulty is not None:
        sweeps["difficulty"] = sweep_scores(scores.difficulty, strong + route, spared)
    if scores.adequate is not None:
        sweeps["evaluator"] = sweep_scores(1.0 - scores.adequate, weak + check + strong, strong)
        if (
            len(policy.joint) == 1
        ):  # over a ladder of more tiers a pair's columns cannot tell what it is worth
            rule = policy.joint[0]
            sweeps["cascade"] = sweep_cascade(
                rule, scores.adequate, scores.mf, scores.difficulty, weak, strong,
                route if rule.prompt_scores else zero, check,
            )  # fmt: skip
    return sweeps


def quality_points(sweeps: Mapping[str, Sweep], scored: ScoredPairs, quality: float) -> dict[str, float]:
    """Each strategy's threshold with the fewest strong calls at `quality` x strong's on these prompts.

    For `random` it is 1 - the share of strong calls.
    """
    wanted = quality * float(scored.q_strong.mean())
    points: dict[str, float] = {}
    for name, sweep in sweeps.items():
        curve = trace(sweep, scored.q_weak, scored.q_strong)
        if name == "random":
            weak, strong = float(scored.q_weak.mean()), float(scored.q_strong.mean())
            points[name] = 1.0 if weak >= wanted else min(1.0, max(0.0, (strong - wanted) / (strong - weak)))
        else:
            points[name] = threshold_at(curve, point_for_quality(curve, wanted))
    return points

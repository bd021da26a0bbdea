"""The joint rule over a ladder of more than two tiers: one step fitted after the other, from the top down.

For the step at tier k the dearer choice is *going on*: what the steps above it, already fitted, make of the
same prompts at the same price of cost. So the rule of two tiers is fitted N - 1 times, with q_s the quality
and c_s the cost of going on. Going on depends on the price lambda; the tables are therefore fitted at the
operating point, found over a grid of prices: the cheapest that keeps the wanted share of the last tier's
quality on the calibration prompts. Other thresholds move over the same tables.

Beside it stands the best pairwise chain: the cheapest two-tier cascade out of the same tiers at the same
quality. A ladder that does not beat it is not worth its middle. Costs (N - 1) fits a price: two seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routing.cost import Costs
from routing.errors import ExamplesError
from routing.joint_rule import JointRule
from routing.policy import Policy
from routing.table import Floats
from trainer.calibrate import FittedPolicy, calibrate_scores, fit_policy, row_costs
from trainer.calibrate_joint import fit_joint_rule
from trainer.scored import ScoredPairs

PRICES = (1e-6, *np.round(np.linspace(0.02, 1.0, 50), 6).tolist())


@dataclass(slots=True)
class LadderRows:
    """Prompts answered by all N tiers: `quality` and `cost` (N, n), calibrated `adequate` (N - 1, n) of every
    tier's answer but the last's, prompt scores (n,) or None, cost of a check (n,)."""

    quality: Floats
    cost: Floats
    adequate: Floats
    check: Floats
    mf: Floats | None
    difficulty: Floats | None


@dataclass(frozen=True, slots=True)
class Chain:
    """A fitted chain at one price: its rules from the first step up, and what it is worth on these rows."""

    price: float
    rules: tuple[JointRule, ...]
    quality: float
    cost: float


def fit_ladder_policy(
    steps: Sequence[ScoredPairs], *, quality: float, price_ratio: float | None = None, seed: int = 0
) -> tuple[FittedPolicy, dict[str, float]]:
    """A policy over the ladder, and the figures of the comparison with the best pairwise chain.

    `steps[k]` scores tier k's answers against the last tier, the same prompts in every one. The prompt rules
    are those of the first and the last tier. Raises `ExamplesError` when the steps do not belong together or
    an evaluator is missing.
    """
    base = fit_policy(steps[0], quality=quality, price_ratio=price_ratio, seed=seed)
    rows = _rows(steps, base, price_ratio)
    tiers = len(steps) + 1
    wanted = quality * float(rows.quality[-1].mean())
    ladder = _cheapest(rows, tuple(range(tiers)), wanted, seed)
    pairs = {k: _cheapest(rows, (k, tiers - 1), wanted, seed) for k in range(tiers - 1)}
    best = min(pairs, key=lambda k: pairs[k].cost)
    policy = Policy(
        version=base.policy.version,
        default="cascade",
        thresholds={**base.policy.thresholds, "cascade": ladder.price},
        tiers=tiers,
        joint=ladder.rules,
        explore_share=base.policy.explore_share,
    )
    points = {name: point for name, point in base.points_95.items() if name != "cascade"}
    always = float(rows.cost[-1].mean())
    compared = {
        "ladder_cost": ladder.cost / always,
        "ladder_quality": ladder.quality,
        "best_pair_from_tier": float(best),
        "best_pair_cost": pairs[best].cost / always,
        "best_pair_quality": pairs[best].quality,
    }
    return dataclasses.replace(base, policy=policy, points_95=points), compared


def _rows(steps: Sequence[ScoredPairs], base: FittedPolicy, price_ratio: float | None) -> LadderRows:
    first = steps[0]
    if any(step.prompt_id != first.prompt_id for step in steps):
        raise ExamplesError("the steps of a ladder must be scored on the same prompts, in the same order")
    scored = [calibrate_scores(step, base.maps) for step in steps]
    adequate = [scores.adequate for scores in scored]
    if any(column is None for column in adequate):
        raise ExamplesError("a ladder needs an evaluator, and answers of every tier but the last to judge")
    n = len(first)
    costs = [row_costs(step, price_ratio) for step in steps]
    weak = [np.zeros(n) if c is None else c[0] for c in costs]
    strong = np.ones(n) if costs[0] is None else costs[0][1]
    return LadderRows(
        quality=np.stack([*(step.q_weak for step in steps), first.q_strong]),
        cost=np.stack([*weak, strong]),
        adequate=np.stack([column for column in adequate if column is not None]),
        check=np.zeros(n) if costs[0] is None else costs[0][3],
        mf=scored[0].mf,
        difficulty=scored[0].difficulty,
    )


def _cheapest(rows: LadderRows, tiers: tuple[int, ...], wanted: float, seed: int) -> Chain:
    """The cheapest chain through these tiers that is worth `wanted`; always-strong where none is."""
    chains = [_fit_chain(rows, tiers, price, seed) for price in PRICES]
    good = [chain for chain in chains if chain.quality >= wanted]
    return min(good, key=lambda chain: (chain.cost, chain.price)) if good else chains[0]


def _fit_chain(rows: LadderRows, tiers: tuple[int, ...], price: float, seed: int) -> Chain:
    """Fit the steps from the top down at one price, and follow every prompt through them."""
    last = tiers[-1]
    top = float(rows.cost[last].mean())
    # What a prompt gets from here on: entered with the rule's choice, or arrived at after a rejection.
    entered = arrived = (rows.quality[last], rows.cost[last])
    rules: list[JointRule] = []
    for tier in reversed(tiers[:-1]):
        own, adequate = rows.quality[tier], rows.adequate[tier]
        cost = rows.cost[tier]
        means = Costs(float(cost.mean()), float(rows.check.mean()), max(float(arrived[1].mean()), 1e-12))
        rule = fit_joint_rule(own, arrived[0], adequate, rows.mf, rows.difficulty, means, seed)
        rules.insert(0, rule)
        here = price * means.strong / top  # `price` is lambda times the last tier's cost
        cuts = rule.cuts(here)
        index = rule.prompt_indices(rows.mf, rows.difficulty, own.size)
        kept = rule.losses(adequate, rows.mf, rows.difficulty) < here
        checked = (
            np.where(kept, own, arrived[0]),
            cost + rows.check + np.where(kept, 0.0, arrived[1]),
        )
        up, unchecked = index >= cuts.strong_from, index < cuts.check_from
        entered = (
            np.where(up, entered[0], np.where(unchecked, own, checked[0])),
            np.where(up, entered[1], np.where(unchecked, cost, checked[1])),
        )
        arrived = checked
    return Chain(price, tuple(rules), float(entered[0].mean()), float(entered[1].mean()))

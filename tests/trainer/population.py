"""Prompts with a known truth: both models' answers, and scorers of a stated strength, from a few normals."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from trainer.scored import ScoredPairs

_NORMAL = NormalDist()


def draw_population(
    n: int,
    seed: int = 0,
    q_weak: float = 0.645,
    q_strong: float = 0.858,
    evaluator_auroc: float = 0.75,
    router_auroc: float = 0.62,
    shared: float = 0.5,
    cost_weak: float = 0.1,
) -> ScoredPairs:
    """GSM8K-like by default. `shared` is the correlation of the two models' difficulty with the prompt's."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    own = np.sqrt(1.0 - shared**2)
    weak_right = shared * hard + own * rng.normal(size=n) < _NORMAL.inv_cdf(q_weak)
    strong_right = shared * hard + own * rng.normal(size=n) < _NORMAL.inv_cdf(q_strong)
    weak, strong = weak_right.astype(float), strong_right.astype(float)
    apart = np.sqrt(2.0) * _NORMAL.inv_cdf(evaluator_auroc)
    log_odds = 1.7 * (rng.normal(size=n) + apart * (weak - 0.5)) + 0.3  # overconfident and shifted
    router = rng.normal(size=n) + np.sqrt(2.0) * _NORMAL.inv_cdf(router_auroc) * (strong > weak)
    return ScoredPairs(
        weak="small",
        strong="large",
        prompt_id=[f"{seed:04x}{i:012x}" for i in range(n)],
        group=["even" if i % 2 == 0 else "odd" for i in range(n)],
        q_weak=weak,
        q_strong=strong,
        prompt_chars=np.exp(rng.normal(5.0, 1.0, n)).round(),
        answer_chars=np.exp(rng.normal(5.0, 1.0, n)).round(),
        cost_weak=np.full(n, cost_weak),
        cost_strong=np.ones(n),
        cost_route=np.full(n, 0.001),
        cost_check=np.full(n, 0.01),
        gain_raw=router / 10.0,
        weak_adequate_raw=1.0 / (1.0 + np.exp(-0.5 * log_odds)),
        difficulty_raw=router + rng.normal(size=n),
        adequate_raw=1.0 / (1.0 + np.exp(-log_odds)),
    )

"""A policy read back from its file decides as the one it was fitted with."""

from __future__ import annotations

import json

import numpy as np
import pytest

from routing.policy import Policy
from tests.trainer.population import draw_population
from trainer.calibrate import calibrate_scores, fit_policy, strategy_sweeps
from trainer.metrics import point_at_threshold, trace


@pytest.mark.parametrize("evaluator_auroc", [0.5, 0.75])
@pytest.mark.parametrize("seed", range(8))
def test_the_cascade_keeps_its_point_through_the_file(seed: int, evaluator_auroc: float) -> None:
    """Steps of the rule may lie close together: a file with rounded numbers once turned strong into weak."""
    scored = draw_population(
        66, seed, q_weak=0.4, q_strong=0.88, evaluator_auroc=evaluator_auroc, router_auroc=0.5, cost_weak=0.37
    )
    fitted = fit_policy(scored)
    read = Policy.from_dict(json.loads(json.dumps(fitted.policy.to_dict())))
    scores = calibrate_scores(scored, fitted.maps)
    shares = []
    for policy in (fitted.policy, read):
        curve = trace(
            strategy_sweeps(scored, scores, policy, None)["cascade"], scored.q_weak, scored.q_strong
        )
        shares.append(curve.strong_share[point_at_threshold(curve, policy.thresholds["cascade"])])
    assert np.isclose(*shares)

"""Curves against formulas known in closed form, ties included, and the bootstrap against the curves."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.population import draw_population
from trainer.calibrate import calibrate_scores, fit_policy, strategy_sweeps
from trainer.metrics import (
    apgr,
    apgr_cost,
    auroc,
    cpt,
    point_at_threshold,
    point_for_quality,
    sweep_scores,
    threshold_at,
    trace,
)
from trainer.metrics_bootstrap import bootstrap_apgr, difference, draw_weights, interval, mean_interval


def binary(n=4000, seed=0, p_weak=0.6, p_strong=0.85):
    rng = np.random.default_rng(seed)
    return (rng.random(n) < p_weak).astype(float), (rng.random(n) < p_strong).astype(float)


def apgr_of(score, q_weak, q_strong):
    one = np.ones(score.size)
    return apgr(trace(sweep_scores(score, one, one), q_weak, q_strong), q_weak.mean(), q_strong.mean())


def test_random_is_a_half_whether_tied_or_drawn():
    q_weak, q_strong = binary(40_000)
    assert apgr_of(np.zeros(40_000), q_weak, q_strong) == pytest.approx(0.5)
    drawn = apgr_of(np.random.default_rng(1).random(40_000), q_weak, q_strong)
    assert drawn == pytest.approx(0.5, abs=0.02)


def test_oracle_has_a_closed_form():
    """Gains first (share a), then equals, then losses (share b): trapezoid of a known polygon."""
    q_weak, q_strong = binary()
    a, b = float((q_strong > q_weak).mean()), float((q_strong < q_weak).mean())
    area = 0.5 * a * a + a * (1 - a - b) + b * (a - 0.5 * b)
    assert apgr_of(q_strong - q_weak, q_weak, q_strong) == pytest.approx(area / (a - b))
    assert apgr_of(q_weak - q_strong, q_weak, q_strong) == pytest.approx(1 - area / (a - b))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1])),
        min_size=2,
        max_size=5,
    )
)
def test_ties_are_averaged_over_all_their_orders(rows):
    score, q_weak, q_strong = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    value = apgr_of(score, q_weak, q_strong)
    if q_strong.mean() <= q_weak.mean() + 1e-12:
        assert value is None
        return
    orders = itertools.permutations(np.arange(score.size) * 1e-6)
    broken = [apgr_of(score + np.array(order), q_weak, q_strong) for order in orders]
    assert value == pytest.approx(np.mean(broken))


def test_curve_ends_at_the_single_models():
    scored = draw_population(500)
    fitted = fit_policy(scored)
    sweeps = strategy_sweeps(scored, calibrate_scores(scored, fitted.maps), fitted.policy, None)
    assert set(sweeps) == {"random", "length", "oracle", "mf", "difficulty", "evaluator", "cascade"}
    for sweep in sweeps.values():
        curve = trace(sweep, scored.q_weak, scored.q_strong)
        assert curve.strong_share[[0, -1]] == pytest.approx([1.0, 0.0], abs=1e-12)
        assert curve.quality[[0, -1]] == pytest.approx([scored.q_strong.mean(), scored.q_weak.mean()])
        assert (np.diff(curve.strong_share) <= 1e-12).all()


def test_costs_pay_for_scorers_and_rejected_answers():
    scored = draw_population(400, cost_weak=0.3)
    fitted = fit_policy(scored)
    sweeps = strategy_sweeps(scored, calibrate_scores(scored, fitted.maps), fitted.policy, None)
    ends = {name: trace(s, scored.q_weak, scored.q_strong).cost[[0, -1]] for name, s in sweeps.items()}
    assert ends["random"] == pytest.approx([1.0, 0.3])
    assert ends["mf"] == pytest.approx([1.001, 0.301])
    assert ends["evaluator"] == pytest.approx([1.31, 0.31])
    assert ends["cascade"] == pytest.approx([1.001, 0.301])


def test_apgr_over_cost():
    q_weak, q_strong = binary()
    n = q_weak.size
    one = np.ones(n)
    weak, strong = q_weak.mean(), q_strong.mean()
    score = q_strong - q_weak + np.random.default_rng(0).normal(size=n)
    free = trace(sweep_scores(score, one, 0.7 * one), q_weak, q_strong)
    assert apgr_cost(free, weak, strong, 0.3, 1.0) == pytest.approx(apgr(free, weak, strong))
    paid = trace(sweep_scores(score, 1.4 * one, one), q_weak, q_strong)  # weak .3 and check .1 always paid
    assert apgr_cost(paid, weak, strong, 0.3, 1.0) < apgr(free, weak, strong) - 0.1
    assert apgr_cost(paid, weak, strong, 1.0, 1.0) is None


def test_cpt():
    q_weak, q_strong = np.zeros(10), np.r_[np.ones(4), np.zeros(6)]
    curve = trace(sweep_scores(q_strong, np.ones(10), np.ones(10)), q_weak, q_strong)
    assert cpt(curve, 0.0, 0.4, 0.5) == pytest.approx(0.2)
    assert cpt(curve, 0.0, 0.4, 0.8) == pytest.approx(0.32)
    assert cpt(curve, 0.4, 0.4, 0.5) is None


def test_strong_that_is_not_better_scores_null():
    q = np.ones(20)
    assert apgr_of(np.arange(20.0), q, q) is None
    assert apgr_of(np.arange(20.0), q, np.zeros(20)) is None
    one = np.ones(20)
    draws = bootstrap_apgr({"x": sweep_scores(one, one, one)}, q, q, draws=10)["x"]
    assert np.isnan(draws).all()
    assert interval(draws) is None
    assert difference(draws, draws) is None


@given(st.lists(st.integers(0, 5), min_size=3, max_size=30), st.floats(0.2, 1.0))
def test_thresholds_lead_back_to_their_point(levels, quality):
    score = np.array(levels, dtype=float)
    q_weak, q_strong = binary(score.size)
    curve = trace(sweep_scores(score, np.ones(score.size), np.ones(score.size)), q_weak, q_strong)
    point = point_for_quality(curve, quality * q_strong.mean())
    threshold = threshold_at(curve, point)
    assert point_at_threshold(curve, threshold) == point
    assert curve.strong_share[point] == pytest.approx((score >= threshold).mean())


def test_auroc():
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == pytest.approx(0.75)
    assert auroc(np.zeros(10), np.arange(10) % 2 == 0) == pytest.approx(0.5)
    assert auroc(np.arange(4.0), np.ones(4, dtype=bool)) is None


def test_bootstrap_agrees_with_curves_of_the_drawn_rows():
    scored = draw_population(300)
    fitted = fit_policy(scored)
    sweeps = strategy_sweeps(scored, calibrate_scores(scored, fitted.maps), fitted.policy, None)
    weights = np.concatenate(list(draw_weights(300, 20, seed=3)))
    draws = bootstrap_apgr(sweeps, scored.q_weak, scored.q_strong, draws=20, seed=3)
    for name, sweep in sweeps.items():
        for b in range(20):
            w = weights[b]
            curve = trace(sweep, scored.q_weak, scored.q_strong, w)
            expected = apgr(curve, w @ scored.q_weak / 300, w @ scored.q_strong / 300)
            assert draws[name][b] == pytest.approx(expected), name


def test_difference_is_paired():
    q_weak, q_strong = binary(1000)
    rng = np.random.default_rng(0)
    good = q_strong - q_weak + rng.normal(size=1000)
    one = np.ones(1000)
    scores = {"good": good, "same": good + 1e-3 * rng.normal(size=1000), "bad": rng.normal(size=1000)}
    sweeps = {name: sweep_scores(score, one, one) for name, score in scores.items()}
    draws = bootstrap_apgr(sweeps, q_weak, q_strong, draws=400)
    real, none = difference(draws["good"], draws["bad"]), difference(draws["good"], draws["same"])
    assert real is not None
    assert none is not None
    assert real.low > 0
    assert real.p < 0.01
    assert none.low < 0.002
    assert none.high - none.low < 0.2 * (real.high - real.low)  # unpaired it would be as wide
    low, high = mean_interval(q_strong - q_weak, draws=400)
    assert low < (q_strong - q_weak).mean() < high


def test_ten_thousand_prompts_take_seconds():
    q_weak, q_strong = binary(10_000)
    one = np.ones(10_000)
    sweeps = {str(i): sweep_scores(np.random.default_rng(i).random(10_000), one, one) for i in range(7)}
    started = time.perf_counter()
    bootstrap_apgr(sweeps, q_weak, q_strong, draws=1000)
    assert time.perf_counter() - started < 30

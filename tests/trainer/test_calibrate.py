"""Fitting a policy, proving a promise, and refusing to: on prompts whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from routing.calibration import CalibrationMap
from routing.certificate import Promise
from routing.errors import ExamplesError, PolicyError
from routing.policy import Policy
from routing.signals import Signals
from tests.trainer.population import draw_population
from trainer.calibrate import (
    CalibratedScores,
    FittedPolicy,
    calibrate_scores,
    fit_policy,
    mean_costs,
    row_costs,
    strategy_sweeps,
)
from trainer.calibrate_promise import (
    expected_saving,
    keep_probabilities,
    promise_at,
    promise_quality,
    split_rows,
    threshold_for_budget,
)
from trainer.metrics import apgr, point_at_threshold, trace
from trainer.scored import ScoredPairs


@pytest.fixture(scope="module")
def population() -> ScoredPairs:
    return draw_population(12_000)


@pytest.fixture(scope="module")
def fitted(population) -> FittedPolicy:
    return fit_policy(population.subset(np.arange(3000)), version="v7")


def without(scored: ScoredPairs, *names: str) -> ScoredPairs:
    copy = scored.subset(np.arange(len(scored)))
    for name in names:
        setattr(copy, name, None)
    return copy


def apgr_by_strategy(fitted, scored):
    sweeps = strategy_sweeps(scored, calibrate_scores(scored, fitted.maps), fitted.policy, None)
    ends = scored.q_weak.mean(), scored.q_strong.mean()
    return {name: apgr(trace(s, scored.q_weak, scored.q_strong), *ends) for name, s in sweeps.items()}


def test_joint_rule_is_at_least_as_good_as_its_parts(population, fitted):
    figures = apgr_by_strategy(fitted, population.subset(np.arange(6000, 12_000)))
    assert figures["cascade"] > figures["evaluator"] + 0.01
    assert figures["evaluator"] > figures["mf"] + 0.05
    assert figures["mf"] > figures["difficulty"] > 0.55


@pytest.mark.parametrize(
    ("useless", "part"), [({"router_auroc": 0.5}, "evaluator"), ({"evaluator_auroc": 0.5}, "mf")]
)
def test_a_useless_scorer_does_not_spoil_the_joint_rule(useless, part):
    everything = draw_population(6400, seed=3, **useless)
    policy = fit_policy(everything.subset(np.arange(400)))
    figures = apgr_by_strategy(policy, everything.subset(np.arange(400, 6400)))
    assert figures["cascade"] > figures[part] - 0.015


def test_thresholds_keep_the_quality_on_the_calibration_prompts(population, fitted):
    calibration = population.subset(np.arange(3000))
    sweeps = strategy_sweeps(calibration, calibrate_scores(calibration, fitted.maps), fitted.policy, None)
    for name, threshold in fitted.points_95.items():
        if name == "random":
            continue
        curve = trace(sweeps[name], calibration.q_weak, calibration.q_strong)
        k = point_at_threshold(curve, threshold)
        assert curve.quality[k] >= 0.95 * calibration.q_strong.mean() - 1e-9, name


def test_round_trip_of_both_files(population, fitted):
    policy, calibration = (
        json.loads(json.dumps(d)) for d in (fitted.policy_dict(), fitted.calibration_dict())
    )
    again = FittedPolicy.from_dicts(policy, calibration)
    fresh = population.subset(np.arange(3000, 4000))
    assert apgr_by_strategy(again, fresh) == pytest.approx(apgr_by_strategy(fitted, fresh), abs=1e-3)
    assert again.points_95 == fitted.points_95
    assert again.policy.version == "v7"


def test_serving_rules_do_what_the_certificate_counted(population, fitted):
    """Row by row: `Rule.enter` and `Rule.accept` against `keep_probabilities`, for every served strategy."""
    rows = population.subset(np.arange(3000, 3400))
    scores = calibrate_scores(rows, fitted.maps)
    policy = Policy.from_dict(json.loads(json.dumps(fitted.policy_dict())))
    for strategy in ("cascade", "evaluator", "mf", "difficulty"):
        for threshold in (0.05, 0.2, policy.thresholds[strategy], 0.6):
            keep = keep_probabilities(fitted.policy, strategy, scores, np.array([threshold]), 0.0)[0]
            rule = policy.rule(strategy, threshold)
            for i in range(len(rows)):
                signals = Signals(scores.mf[i], scores.difficulty[i], scores.adequate[i])
                entry = rule.enter(signals)
                kept = entry.tier == 0 and (not entry.check or rule.accept(0, signals))
                assert kept == bool(keep[i]), (strategy, threshold, i)


def test_exploration_is_half_strong_half_checked(fitted, population):
    scores = calibrate_scores(population.subset(np.arange(50)), fitted.maps)
    keep = keep_probabilities(fitted.policy, "mf", scores, np.array([0.0, 1.0]), 0.1)
    assert keep[0] == pytest.approx(np.full(50, 0.05))
    assert keep[1] == pytest.approx(np.full(50, 0.95))


def test_parts_that_are_missing_leave_their_strategies_out(population):
    small = population.subset(np.arange(400))
    assert fit_policy(without(small, "adequate_raw")).policy.strategies == ("mf", "difficulty", "random")
    only = without(small, "gain_raw", "difficulty_raw", "weak_adequate_raw")
    policy = fit_policy(only).policy
    assert policy.strategies == ("cascade", "evaluator", "random")
    assert policy.rule("cascade", None).needs_prompt_scores == frozenset()
    none = without(only, "adequate_raw")
    assert fit_policy(none).policy.default_strategy == "random"
    assert calibrate_scores(none, {"mf": CalibrationMap()}) == CalibratedScores()


def test_costs_of_rows_win_over_the_ratio_and_there_is_no_default(population):
    small = population.subset(np.arange(100))
    assert mean_costs(small, 0.5)[0].weak_ratio == pytest.approx(0.1)
    bare = without(small, "cost_weak", "cost_strong")
    assert mean_costs(bare, 0.37)[0].weak_ratio == pytest.approx(0.37)
    assert row_costs(bare, None) is None
    assert not mean_costs(bare, None)[1]
    assert not fit_policy(bare).costs_known
    with pytest.raises(ExamplesError, match="--price-ratio is the price of weak over that of strong"):
        row_costs(bare, 0.0)
    free = without(small)
    free.cost_strong = np.zeros(100)
    with pytest.raises(ExamplesError, match="cost nothing"):
        row_costs(free, None)


def test_gsm8k_like_prompts_get_a_certificate(population):
    """n = 896, half to certify, quality .95: saved at least 5 % in half of the draws (here: nearly all)."""
    granted, saved = 0, []
    for draw in range(12):
        rows = np.random.default_rng(draw).choice(len(population), 896, replace=False)
        first, second = split_rows(896, 0.5, draw)
        calibration, certification = population.subset(rows[first]), population.subset(rows[second])
        outcome = promise_quality(fit_policy(calibration), calibration, certification, Promise(), draw)
        certificate = outcome.certificate
        granted += certificate.granted
        if certificate.granted:
            saved.append(certificate.saved)
            assert (
                outcome.fitted.policy.thresholds["cascade"] == certificate.threshold == certificate.passed[-1]
            )
            assert certificate.valid_until > certificate.issued_at
            assert certificate.certification_rows == 448
    assert granted >= 10
    assert np.median(saved) > 0.2


def test_fifty_prompts_are_refused_with_a_number(population):
    calibration, certification = population.subset(np.arange(25)), population.subset(np.arange(25, 50))
    outcome = promise_quality(fit_policy(calibration), calibration, certification, Promise())
    certificate = outcome.certificate
    assert not certificate.granted
    assert certificate.threshold is None
    assert certificate.valid_until == ""
    assert certificate.labels_needed is not None
    assert certificate.labels_needed > 50
    assert f"about {certificate.labels_needed} would" in certificate.reason


def test_no_number_is_enough_where_weak_is_hopeless():
    scored = draw_population(
        800, q_weak=0.05, q_strong=0.95, evaluator_auroc=0.5, router_auroc=0.5, shared=0.0
    )
    calibration, certification = scored.subset(np.arange(400)), scored.subset(np.arange(400, 800))
    outcome = promise_quality(
        fit_policy(calibration), calibration, certification, Promise(0.99, min_saved=0.2)
    )
    assert not outcome.certificate.granted
    assert outcome.certificate.labels_needed is None
    assert "no number of labels is enough" in outcome.certificate.reason


def test_max_worse_makes_it_harder(population):
    calibration, certification = population.subset(np.arange(448)), population.subset(np.arange(448, 896))
    fitted = fit_policy(calibration)
    free = promise_quality(fitted, calibration, certification, Promise()).certificate
    held = promise_quality(fitted, calibration, certification, Promise(max_worse=0.04)).certificate
    assert free.granted
    assert len(held.passed) < len(free.passed)
    if held.granted:
        assert held.worse_bound <= 0.04


def test_shared_prompts_are_refused(population, fitted):
    calibration, certification = population.subset(np.arange(100)), population.subset(np.arange(99, 200))
    for call in (
        lambda: promise_quality(fitted, calibration, certification, Promise()),
        lambda: promise_at(fitted, 0.2, calibration, certification, Promise()),
    ):
        with pytest.raises(PolicyError, match="1 of 101 prompts were already calibrated on"):
            call()


def test_budget_and_price(population, fitted):
    calibration, certification = population.subset(np.arange(2000)), population.subset(np.arange(2000, 3000))
    threshold = threshold_for_budget(fitted, calibration, 0.6, None)
    outcome = promise_at(fitted, threshold, calibration, certification, Promise())
    assert outcome.fitted.policy.thresholds["cascade"] == threshold
    assert expected_saving(outcome.fitted, calibration, None)[1] <= 0.6 + 1e-9
    assert outcome.certificate.granted
    truth = outcome.certificate.quality_estimate
    assert truth - 0.06 < outcome.certificate.quality < truth
    with pytest.raises(PolicyError, match=r"at most 5\.0% of always-strong; the cheapest costs 10\.1%"):
        threshold_for_budget(fitted, calibration, 0.05, None)
    bare = without(calibration, "cost_weak", "cost_strong")
    with pytest.raises(PolicyError, match="a budget needs costs"):
        threshold_for_budget(fit_policy(bare), bare, 0.5, None)


def test_a_policy_without_scorers_cannot_be_certified(population):
    bare = without(population.subset(np.arange(200)), "gain_raw", "difficulty_raw", "adequate_raw")
    with pytest.raises(PolicyError, match="cannot be certified"):
        promise_quality(
            fit_policy(bare), bare.subset(np.arange(100)), bare.subset(np.arange(100, 200)), Promise()
        )
    with pytest.raises(PolicyError, match="share of prompts for certification"):
        split_rows(10, 1.0, 0)


def test_an_evaluator_that_tells_nothing_is_not_asked():
    """Ranked by the prompt alone, with checks free of charge: still no check, since none changes anything."""
    scored = draw_population(2000, evaluator_auroc=0.5, seed=4)
    scored.cost_check = np.zeros(len(scored))
    policy = fit_policy(scored).policy
    rule = policy.rule("cascade", 0.25)
    scores = calibrate_scores(scored, fit_policy(scored).maps)
    pairs = zip(scores.mf, scores.difficulty, strict=True)
    entries = [rule.enter(Signals(mf, d)) for mf, d in pairs]
    assert sum(entry.check for entry in entries) < 0.3 * len(entries)


def test_prompts_without_answers_set_what_the_prompt_alone_decides(population):
    """Half of the prompts have answers; MF and difficulty are set on all of them, the rest on that half."""
    prompts = without(population.subset(np.arange(2000)), "adequate_raw")
    answered = population.subset(np.arange(1000))
    mixed = fit_policy(answered, prompts=prompts)
    whole, half = fit_policy(prompts), fit_policy(answered)
    for name in ("mf", "difficulty"):
        assert mixed.policy.thresholds[name] == whole.policy.thresholds[name]
        assert mixed.maps[name].to_dict() == whole.maps[name].to_dict()
    assert mixed.maps["adequate"].to_dict() == half.maps["adequate"].to_dict()
    assert mixed.policy.default_strategy == "cascade"
    assert (mixed.policy.unjudged, half.policy.unjudged) == ("mf", None)

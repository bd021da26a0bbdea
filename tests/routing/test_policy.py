"""Rules: what each strategy does at a threshold, on ladders of two and three tiers."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.cost import Costs
from routing.errors import MissingSignal, PolicyError, ScorerError
from routing.joint_rule import JointRule, Weights
from routing.policy import Policy
from routing.signals import Entry, Signals
from routing.table import Table

WEAK, CHECKED, STRONG = Entry(0, False), Entry(0, True), Entry(1, False)
unit = st.floats(0.0, 1.0)


def joint(weak=0.1, check=0.02) -> JointRule:
    """g1 = route score; g2 is 0 or 1 with probability g1 of 1, told apart perfectly by the answer."""
    prices = [i / 64 for i in range(65)]
    knots = [i / 8 for i in range(9)]
    least = [[min(0.0, t) * (1 - g) + min(1.0, t) * g for g in knots] for t in prices]
    return JointRule(
        prompt=Weights(mf=1.0),
        gain=Table(knots, knots),
        answer=Weights(fail=1.0),
        loss=Table([0.0, 1.0], [0.0, 1.0]),
        prices=prices,
        least_x=knots,
        least=least,
        costs=Costs(weak, check, 1.0),
    )


def policy(tiers=2, **changes) -> Policy:
    thresholds = {"cascade": 0.5, "evaluator": 0.4, "mf": 0.3, "difficulty": 0.2, "random": 0.6}
    return Policy(
        **{
            "version": "v1",
            "default": "cascade",
            "thresholds": thresholds,
            "tiers": tiers,
            "joint": [joint()],
            "explore_share": 0.0,
            **changes,
        }
    )


@pytest.mark.parametrize(("name", "signal"), [("mf", "route_score"), ("difficulty", "difficulty")])
def test_prompt_rule_shifts_up_from_the_threshold_on(name, signal):
    rule = policy().rule(name, 0.35)
    assert rule.enter(Signals(**{signal: 0.35})) == STRONG
    assert rule.enter(Signals(**{signal: 0.3499})) == WEAK
    assert rule.needs_prompt_scores == {name}
    assert not rule.needs_answer_score


def test_evaluator_always_checks_and_escalates_from_the_threshold_on():
    rule = policy().rule("evaluator", 0.25)
    assert rule.enter(Signals()) == CHECKED
    assert rule.accept(0, Signals(answer_score=0.76))
    assert not rule.accept(0, Signals(answer_score=0.75))
    assert rule.accept(1, Signals(answer_score=0.0))  # there is nothing above the last tier


def test_random_rule_sends_one_minus_t_to_strong():
    rule = policy().rule("random", 0.3)
    draws = [i / 1000 for i in range(1000)]
    assert sum(rule.enter(Signals(draw=d)) == STRONG for d in draws) == 700


@pytest.mark.parametrize(
    ("strategy", "signals"),
    [
        ("mf", Signals()),
        ("mf", Signals(route_score=math.nan)),
        ("difficulty", Signals(route_score=0.5)),
        ("cascade", Signals(difficulty=0.5)),
    ],
)
def test_a_missing_prompt_score_is_a_typed_error(strategy, signals):
    with pytest.raises(MissingSignal, match="needs the"):
        policy().rule(strategy, None).enter(signals)
    assert issubclass(MissingSignal, ScorerError)


@pytest.mark.parametrize("strategy", ["evaluator", "cascade"])
@pytest.mark.parametrize("score", [None, math.nan])
def test_a_missing_answer_score_is_a_typed_error(strategy, score):
    with pytest.raises(MissingSignal, match="answer_score"):
        policy().rule(strategy, None).accept(0, Signals(route_score=0.5, answer_score=score))


def test_unknown_strategy_names_what_there_is():
    with pytest.raises(PolicyError, match=r"no strategy 'knn'.*cascade, evaluator, mf, difficulty, random"):
        policy().rule("knn", None)
    with pytest.raises(PolicyError, match=r"'difficulty'.*it has mf"):
        policy(default="mf", thresholds={"mf": 0.5}).rule("difficulty", 0.5)


@pytest.mark.parametrize("threshold", [-0.01, 1.01, math.nan, math.inf, True, "0.5"])
def test_threshold_outside_the_unit_interval_is_refused(threshold):
    with pytest.raises(PolicyError, match=r"\[0, 1\]"):
        policy().rule("mf", threshold)


def test_defaults_and_cache():
    p = policy()
    assert p.default is p.rule(None, None)
    assert p.default.strategy == "cascade"
    assert p.rule("mf", None).threshold == 0.3
    assert p.rule("mf", 0.7) is p.rule("mf", 0.7)
    for i in range(5000):
        p.rule("mf", i / 5000)
    assert len(p._rules) <= 1024


@given(route=unit, answer=unit, low=unit, high=unit)
def test_a_higher_threshold_never_adds_a_strong_call(route, answer, low, high):
    low, high = sorted((low, high))
    p = policy()
    signals = Signals(route_score=route, difficulty=route, answer_score=answer, draw=route)
    for strategy in p.strategies:
        used = []
        for threshold in (low, high):
            rule = p.rule(strategy, threshold)
            entry = rule.enter(signals)
            used.append(entry.tier == 1 or (entry.check and not rule.accept(0, signals)))
        assert used[0] >= used[1], strategy


@given(route=unit, answer=unit, better=unit)
def test_a_better_answer_is_never_rejected_where_a_worse_one_is_kept(route, answer, better):
    answer, better = sorted((answer, better))
    for strategy in ("evaluator", "cascade"):
        rule = policy().rule(strategy, None)
        if rule.accept(0, Signals(route_score=route, answer_score=answer)):
            assert rule.accept(0, Signals(route_score=route, answer_score=better))


@given(route=unit, answer=unit)
def test_threshold_zero_is_always_strong(route, answer):
    p = policy()
    signals = Signals(route_score=route, difficulty=route, answer_score=answer, draw=answer * 0.999)
    for strategy in p.strategies:
        rule = p.rule(strategy, 0.0)
        entry = rule.enter(signals)
        assert entry == STRONG or (entry.check and not rule.accept(0, signals)), strategy


def test_three_tiers_climb_one_at_a_time():
    p = policy(tiers=3)
    cascade = p.rule("cascade", 0.5)
    assert cascade.enter(Signals(route_score=1.0)) == Entry(2, False)
    bad, good = Signals(route_score=0.5, answer_score=0.1), Signals(route_score=0.5, answer_score=0.9)
    assert [cascade.accept(tier, bad) for tier in range(3)] == [False, False, True]
    assert [cascade.accept(tier, good) for tier in range(3)] == [True, True, True]


@pytest.mark.parametrize(
    ("scores", "tier"), [((0.1, 0.0), 0), ((0.9, 0.2), 1), ((0.9, 0.8), 2), ((0.5, 0.5), 2)]
)
def test_prompt_rule_enters_any_tier_of_a_ladder(scores, tier):
    rule = policy(tiers=3).rule("mf", 0.5)
    assert rule.enter(Signals(tier_scores=scores)).tier == tier


def test_round_trip_through_json():
    p = policy(tiers=3, explore_share=0.02)
    again = Policy.from_dict(json.loads(json.dumps(p.to_dict())))
    assert again.to_dict() == p.to_dict()
    assert again.explore_share == 0.02
    for i in range(50):
        signals = Signals(route_score=i / 50, difficulty=0.5, answer_score=1 - i / 50, draw=i / 50)
        for strategy in p.strategies:
            assert again.rule(strategy, None).enter(signals) == p.rule(strategy, None).enter(signals)
            assert again.rule(strategy, None).accept(0, signals) == p.rule(strategy, None).accept(0, signals)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, "schema is 9"),
        ({"tiers": 0}, "at least one tier"),
        ({"explore_share": 2}, r"explore_share must lie in \[0, 1\]"),
        ({"thresholds": {"mf": 2.0}}, r"\[0, 1\]"),
        ({"thresholds": {"magic": 0.5}}, "unknown strategies"),
        ({"thresholds": None}, "wrong type"),
        ({"joint": []}, "no joint rule"),
        ({"default": "nothing"}, "no strategy 'nothing'"),
    ],
)
def test_a_policy_file_that_cannot_be_used_says_why(change, message):
    with pytest.raises(PolicyError, match=message):
        Policy.from_dict({**policy().to_dict(), **change})


def test_the_calibrated_price_of_a_cascade_may_exceed_one_but_a_client_may_not_ask_for_it():
    p = policy(thresholds={"cascade": 1.7})
    assert p.default.threshold == 1.7
    with pytest.raises(PolicyError, match=r"\[0, 1\]"):
        p.rule("cascade", 1.7)


def test_a_policy_file_without_a_field_names_it():
    data = policy().to_dict()
    del data["thresholds"]
    with pytest.raises(PolicyError, match="'thresholds'"):
        Policy.from_dict(data)


@pytest.mark.parametrize("strategy", ["cascade", "random", "mf", "evaluator"])
def test_propensities_are_the_frequencies(strategy):
    p = policy(explore_share=0.2)
    rule = p.rule(strategy, 0.5)
    rng = random.Random(0)
    taken: dict[Entry, int] = {}
    stated: dict[Entry, float] = {}
    draws = 20_000
    for _ in range(draws):
        signals = Signals(route_score=0.4, draw=rng.random())
        choice = p.choose(rule, signals)
        taken[choice.entry] = taken.get(choice.entry, 0) + 1
        stated[choice.entry] = choice.propensity
    assert sum(stated.values()) == pytest.approx(1.0)
    for entry, count in taken.items():
        assert count / draws == pytest.approx(stated[entry], abs=0.015)


def test_exploration_is_never_weak_unchecked():
    p = policy(explore_share=1.0, default="mf", thresholds={"mf": 1.0}, joint=[])
    entries = {p.choose(p.default, Signals(route_score=0.0, draw=i / 100)).entry for i in range(100)}
    assert entries == {STRONG, CHECKED}


@pytest.mark.parametrize(("score", "tier"), [(0.2, 0), (0.9, 1)])
def test_where_the_evaluator_has_learnt_nothing_the_prompt_alone_decides(score, tier):
    p = policy(default="cascade", unjudged="mf", explore_share=0.5)
    p = Policy.from_dict(json.loads(json.dumps(p.to_dict())))
    assert "mf" in p.default.needs_prompt_scores
    for draw in (0.0, 0.3, 0.9):  # no exploring there: a check would tell nothing
        choice = p.choose(p.default, Signals(route_score=score, difficulty=0.5, draw=draw, unjudged=True))
        assert (choice.entry, choice.propensity, choice.explored) == (Entry(tier, False), 1.0, False)
    told = Signals(route_score=score, difficulty=0.5, unjudged=True)
    known = Signals(route_score=score, difficulty=0.5)
    for rule in (p.rule("cascade", 0.3), p.rule("evaluator", None)):  # a client's own threshold, or strategy
        assert rule.enter(told) == rule.enter(known)


@pytest.mark.parametrize("name", ["evaluator", "none"])
def test_only_a_prompt_score_with_a_threshold_can_stand_in_for_the_evaluator(name):
    with pytest.raises(PolicyError, match="unjudged"):
        policy(unjudged=name)

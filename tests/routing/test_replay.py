"""Replay against a simulated service whose truth is known: estimates, intervals, and what has no support."""

from __future__ import annotations

import numpy as np
import pytest

from routing.errors import PolicyError
from routing.policy import Policy
from routing.replay import LoggedRow, replay
from routing.signals import Signals

WEAK_USD, STRONG_USD = 0.3, 1.0


def policy(strategy: str, threshold: float, explore_share: float) -> Policy:
    return Policy(
        version=strategy, default=strategy, thresholds={strategy: threshold}, explore_share=explore_share
    )


def service(n: int, under: Policy, seed: int) -> tuple[list[LoggedRow], np.ndarray]:
    """`n` requests decided by `under`, and every prompt's answer score, seen or not; low where it is hard."""
    rng = np.random.default_rng(seed)
    route = rng.uniform(size=n)
    answer = np.clip(1.0 - route + rng.normal(scale=0.25, size=n), 0.0, 1.0)
    rule, rows = under.default, []
    for score, quality in zip(route, answer, strict=True):
        signals = Signals(route_score=float(score), draw=float(rng.uniform()))
        choice = under.choose(rule, signals)
        entry = choice.entry.name(1)
        seen = entry == "checked"
        accepted = True
        if seen:
            signals.answer_score = float(quality)
            accepted = rule.accept(0, signals) if rule.needs_answer_score else True
        strong_ran = entry == "strong" or not accepted
        cost = (WEAK_USD if entry != "strong" else 0.0) + (STRONG_USD if strong_ran else 0.0)
        reason = "hard_prompt" if entry == "strong" else "adequate" if accepted else "inadequate"
        rows.append(
            LoggedRow(
                entry,
                reason if not choice.explored or seen else "explore",
                strong_ran,
                choice.propensity,
                under.explore_share,
                float(score),
                None,
                float(quality) if seen else None,
                cost,
                STRONG_USD,
            )
        )
    return rows, answer


def test_a_prompt_rule_needs_no_evidence() -> None:
    rows, _ = service(2_000, policy("mf", 0.5, 0.0), seed=1)
    result = replay(rows, policy("mf", 0.2, 0.0))
    expected = np.mean([row.route_score >= 0.2 for row in rows])
    assert result.strong_calls.value == pytest.approx(expected)
    assert result.checked == 0
    assert result.unsupported == 0


def test_a_policy_replayed_on_its_own_log_gives_the_log_back() -> None:
    under = policy("evaluator", 0.4, 0.0)
    rows, _ = service(1_500, under, seed=2)
    result = replay(rows, under)
    assert result.strong_calls.value == pytest.approx(result.logged_strong_calls)
    assert result.cost_usd.value == pytest.approx(result.logged_cost_usd)
    assert result.evidence == pytest.approx(1_500)
    assert result.unsupported == 0


def test_exploration_makes_an_evaluator_visible_that_was_never_in_force() -> None:
    """Logged by MF with a fifth explored: the interval covers the truth nineteen times in twenty."""
    logged, wanted = policy("mf", 0.5, 0.2), policy("evaluator", 0.4, 0.0)
    covered, errors, runs = 0, [], 20
    for seed in range(runs):
        rows, answer = service(1_000, logged, seed=100 + seed)
        truth = float(np.mean(1.0 - answer >= 0.4))
        result = replay(rows, wanted, seed=seed)
        covered += result.strong_calls.low <= truth <= result.strong_calls.high
        errors.append(result.strong_calls.value - truth)
        assert result.unsupported == 0
    assert covered >= 16  # 19 expected; fewer than 16 has a chance of under 0.3 %
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(runs)


def test_without_exploration_what_went_to_strong_is_only_bounded() -> None:
    rows, _ = service(1_000, policy("mf", 0.5, 0.0), seed=3)
    result = replay(rows, policy("evaluator", 0.4, 0.0))
    assert result.checked == 1_000
    assert result.unsupported == 1_000  # MF checks nothing, so no verdict was ever seen
    assert (result.strong_calls.low, result.strong_calls.high) == (0.0, 1.0)
    assert result.evidence == 0


def test_an_early_verdict_is_no_evidence_about_a_whole_answer() -> None:
    base = LoggedRow("checked", "adequate", False, 1.0, 0.0, 0.5, None, 0.9, WEAK_USD, STRONG_USD)
    early = LoggedRow("checked", "early_commit", False, 1.0, 0.0, 0.5, None, 0.9, WEAK_USD, STRONG_USD)
    rule = policy("evaluator", 0.4, 0.0).default
    assert base.rejects(rule) is False
    assert early.rejects(rule) is None


def test_what_a_rule_of_capability_did_stays_as_it_was() -> None:
    barred = LoggedRow("strong", "capability", True, 1.0, 0.0, None, None, None, STRONG_USD, STRONG_USD)
    result = replay([barred], policy("mf", 0.9, 0.0))
    assert result.strong_calls.value == 1.0
    assert result.cost_usd.value == STRONG_USD


def test_nothing_to_replay_and_ladders_of_three_are_refused() -> None:
    with pytest.raises(PolicyError, match="no row"):
        replay([], policy("mf", 0.5, 0.0))
    three = Policy(version="3", default="mf", thresholds={"mf": 0.5}, tiers=3)
    row = LoggedRow("strong", "hard_prompt", True, 1.0, 0.0, 0.9, None, None, 1.0, 1.0)
    with pytest.raises(PolicyError, match="two tiers"):
        replay([row], three)

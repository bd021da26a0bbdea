"""The driver of a routed request, over small attempts and a real policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.attempt import FailurePolicy, Outcome, Standing
from routing.cascade import Cascade, Race
from routing.errors import BackendBroken, BackendTimeout, ScorerError
from routing.policy import Policy
from routing.protocols import Answer
from routing.race import RaceBudget, RaceRule
from routing.rules import Rule
from routing.signals import Signals


@dataclass
class FakeAttempt:
    """A reply that behaves as told: `standing`, and whether its body breaks."""

    tier: int
    standing: Standing = "ok"
    breaks: bool = False
    text: str = "answer"
    delay_s: float = 0.0  # until its answer is whole, or usable
    whole: bool = False
    closed: bool = False

    async def ready(self) -> None:
        await asyncio.sleep(self.delay_s)
        if self.breaks:
            raise BackendBroken("broke")

    async def complete(self) -> None:
        await self.ready()
        self.whole = True

    def answers(self) -> Sequence[Answer]:
        return [Answer(self.text)] if self.whole else []

    async def close(self) -> None:
        self.closed = True


@dataclass
class FakeJudge:
    """Scores that are given; None fails."""

    prompt_score: float | None = 0.2
    answer_score: float | None = 0.9
    failing_check: str | None = None

    async def read_prompt(self, rule: Rule, signals: Signals) -> None:
        if self.prompt_score is None:
            raise ScorerError("no prompt score")
        signals.route_score = self.prompt_score

    def hard_check(self, answers: Sequence[Answer]) -> str | None:
        return self.failing_check

    async def score_answers(self, answers: Sequence[Answer]) -> float:
        if self.answer_score is None:
            raise ScorerError("no answer score")
        return self.answer_score


@dataclass
class Stage:
    """A ladder whose tiers behave as told; keeps every attempt that was begun."""

    behaviour: dict[int, FakeAttempt | Exception] = field(default_factory=dict)
    begun: list[FakeAttempt] = field(default_factory=list)
    judged: list[bool] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)  # attempts not whole yet when each one began

    async def begin(self, tier: int, judged: bool) -> FakeAttempt:
        self.unfinished.append(sum(not attempt.whole for attempt in self.begun))
        made = self.behaviour.get(tier, FakeAttempt(tier))
        self.judged.append(judged)
        if isinstance(made, Exception):
            raise made
        self.begun.append(made)
        return made


def make_policy(tiers: int = 2) -> Policy:
    return Policy(
        version="t", default="evaluator", thresholds={"evaluator": 0.5, "mf": 0.5, "random": 0.5}, tiers=tiers
    )


async def run(
    stage: Stage,
    judge: FakeJudge,
    strategy: str = "evaluator",
    tiers: int = 2,
    failure: FailurePolicy | None = None,
    allowed: Sequence[bool] | None = None,
    race: Race | None = None,
) -> Outcome:
    rule = make_policy(tiers).rule(strategy, None)
    made = Cascade(tiers, rule, stage.begin, judge, failure or FailurePolicy(), None, allowed, race=race)
    return await made.run(Signals())


async def test_adequate_weak_answer_is_served() -> None:
    stage = Stage()
    outcome = await run(stage, FakeJudge(answer_score=0.9))
    assert (outcome.route.decision, outcome.route.reason, outcome.route.tier) == ("weak", "adequate", 0)
    assert outcome.route.answer_score == 0.9
    assert [attempt.tier for attempt in stage.begun] == [0]
    assert stage.judged == [True]


async def test_inadequate_weak_answer_shifts_up_and_is_paid_for() -> None:
    stage = Stage()
    outcome = await run(stage, FakeJudge(answer_score=0.1))
    assert (outcome.route.decision, outcome.route.reason, outcome.route.tier) == (
        "escalated",
        "inadequate",
        1,
    )
    assert [attempt.tier for attempt in outcome.rejected] == [0]
    assert stage.begun[0].closed
    assert not stage.begun[1].closed
    assert stage.judged == [True, False]


@pytest.mark.parametrize(("score", "decision"), [(0.2, "weak"), (0.5, "strong"), (0.8, "strong")])
async def test_prompt_score_alone_decides_for_mf(score: float, decision: str) -> None:
    stage = Stage()
    outcome = await run(stage, FakeJudge(prompt_score=score), "mf")
    assert outcome.route.decision == decision
    assert outcome.route.route_score == score
    assert len(stage.begun) == 1
    assert stage.judged == [False]


async def test_hard_check_allows_no_appeal() -> None:
    outcome = await run(Stage(), FakeJudge(answer_score=1.0, failing_check="empty"))
    assert (outcome.route.decision, outcome.route.reason) == ("escalated", "hard_check")
    assert outcome.hard_check == "empty"


@pytest.mark.parametrize(
    "weak", [BackendTimeout("late", "first_byte"), FakeAttempt(0, "failed"), FakeAttempt(0, breaks=True)]
)
async def test_weak_failure_shifts_up(weak: FakeAttempt | Exception) -> None:
    outcome = await run(Stage({0: weak}), FakeJudge())
    assert (outcome.route.decision, outcome.route.reason, outcome.route.tier) == (
        "escalated",
        "weak_failed",
        1,
    )


async def test_context_window_reply_shifts_up() -> None:
    outcome = await run(Stage({0: FakeAttempt(0, "context_window")}), FakeJudge())
    assert (outcome.route.reason, outcome.route.tier) == ("context_window", 1)


async def test_clients_own_error_is_returned_at_once() -> None:
    stage = Stage({0: FakeAttempt(0, "client_error")})
    outcome = await run(stage, FakeJudge())
    assert outcome.attempt is stage.begun[0]
    assert len(stage.begun) == 1


async def test_a_request_that_one_tier_took_is_no_clients_error() -> None:
    stage = Stage({1: FakeAttempt(1, "client_error")})
    outcome = await run(stage, FakeJudge(answer_score=0.1))
    assert (outcome.route.decision, outcome.route.reason) == ("degraded", "strong_failed")
    assert outcome.attempt is stage.begun[0]
    outcome = await run(stage, FakeJudge(answer_score=0.1), failure=FailurePolicy(strong="error"))
    assert outcome.attempt is not None
    assert outcome.attempt.standing == "client_error", "as configured: the error itself"


async def test_strong_failure_serves_the_rejected_answer_degraded() -> None:
    stage = Stage({1: BackendBroken("gone")})
    outcome = await run(stage, FakeJudge(answer_score=0.1))
    assert (outcome.route.decision, outcome.route.reason, outcome.route.tier) == (
        "degraded",
        "strong_failed",
        0,
    )
    assert outcome.attempt is stage.begun[0]
    assert outcome.rejected == []


async def test_strong_failure_is_an_error_where_configured() -> None:
    stage = Stage({1: BackendBroken("gone")})
    outcome = await run(stage, FakeJudge(answer_score=0.1), failure=FailurePolicy(strong="error"))
    assert outcome.attempt is None
    assert isinstance(outcome.error, BackendBroken)
    assert outcome.route.reason == "strong_failed"


async def test_broken_weak_answer_is_never_served_degraded() -> None:
    outcome = await run(Stage({0: FakeAttempt(0, breaks=True), 1: BackendBroken("gone")}), FakeJudge())
    assert outcome.attempt is None
    assert isinstance(outcome.error, BackendBroken)


@pytest.mark.parametrize(("side", "tier"), [("strong", 1), ("weak", 0)])
async def test_scorer_failure_goes_where_configured(side: str, tier: int) -> None:
    failure = FailurePolicy(scorer=side)  # type: ignore[arg-type]
    for strategy, judge in (
        ("mf", FakeJudge(prompt_score=None)),
        ("evaluator", FakeJudge(answer_score=None)),
    ):
        outcome = await run(Stage(), judge, strategy, failure=failure)
        assert (outcome.route.tier, outcome.route.reason) == (tier, "scorer_failed")
        assert outcome.scorer_error is not None


async def test_passed_deadline_tries_no_other_tier() -> None:
    stage = Stage({0: BackendTimeout("over", "total")})
    outcome = await run(stage, FakeJudge())
    assert stage.begun == []
    assert isinstance(outcome.error, BackendTimeout)


async def test_barred_tier_is_stepped_over() -> None:
    outcome = await run(Stage(), FakeJudge(), allowed=[False, True])
    assert (outcome.route.decision, outcome.route.reason, outcome.route.tier) == ("strong", "capability", 1)


async def test_three_tiers_climb_one_by_one() -> None:
    stage = Stage()
    outcome = await run(stage, FakeJudge(answer_score=0.1), tiers=3)
    assert [attempt.tier for attempt in stage.begun] == [0, 1, 2]
    assert [attempt.tier for attempt in outcome.rejected] == [0, 1]
    assert (outcome.route.decision, outcome.route.tier) == ("escalated", 2)


BEHAVIOURS = ("ok", "failed", "context_window", "breaks", "refused")


def behave(tier: int, kind: str) -> FakeAttempt | Exception:
    if kind == "refused":
        return BackendBroken("refused")
    if kind == "breaks":
        return FakeAttempt(tier, breaks=True)
    return FakeAttempt(tier, kind)  # type: ignore[arg-type]


@given(st.sampled_from(list(product(BEHAVIOURS, repeat=2))), st.sampled_from([None, 0.1, 0.9]))
async def test_everything_but_the_shown_attempt_is_closed(
    kinds: tuple[str, ...], score: float | None
) -> None:
    stage = Stage({tier: behave(tier, kind) for tier, kind in enumerate(kinds)})
    outcome = await run(stage, FakeJudge(answer_score=score))
    for attempt in stage.begun:
        assert attempt.closed != (attempt is outcome.attempt)
    assert (outcome.attempt is None) == (outcome.error is not None)
    assert outcome.attempt not in outcome.rejected


def make_race(unsure: float = 0.0, slow_after_s: float = 0.0, share: float = 1.0) -> Race:
    return Race(RaceRule(unsure, slow_after_s), RaceBudget(share))


async def test_race_for_doubt_waits_for_the_verdict_and_cancels_the_loser() -> None:
    stage = Stage({0: FakeAttempt(0, delay_s=0.05), 1: FakeAttempt(1)})
    outcome = await run(stage, FakeJudge(answer_score=0.9), race=make_race(unsure=1.0))
    assert (outcome.route.decision, outcome.route.reason, outcome.race) == ("weak", "adequate", "lost")
    assert [attempt.tier for attempt in stage.begun] == [0, 1]
    assert stage.begun[1].closed


async def test_race_for_doubt_saves_the_second_wait() -> None:
    stage = Stage({0: FakeAttempt(0, delay_s=0.1), 1: FakeAttempt(1, delay_s=0.1)})
    outcome = await run(stage, FakeJudge(answer_score=0.1), race=make_race(unsure=1.0))
    assert stage.unfinished == [0, 1]  # the second began while the first was still writing
    assert (outcome.route.decision, outcome.route.reason, outcome.race) == ("escalated", "inadequate", "won")
    assert [attempt.tier for attempt in outcome.rejected] == [0]


async def test_race_against_a_slow_tier_takes_the_first_usable_answer() -> None:
    stage = Stage({0: FakeAttempt(0, delay_s=5.0), 1: FakeAttempt(1, delay_s=0.05)})
    outcome = await run(stage, FakeJudge(answer_score=0.9), race=make_race(slow_after_s=0.05))
    assert not stage.begun[0].whole
    assert (outcome.route.decision, outcome.route.reason, outcome.race) == ("escalated", "hedge", "won")
    assert stage.begun[0].closed


async def test_slow_tier_that_still_wins_is_served() -> None:
    stage = Stage({0: FakeAttempt(0, delay_s=0.1), 1: FakeAttempt(1, delay_s=5.0)})
    outcome = await run(stage, FakeJudge(answer_score=0.9), race=make_race(slow_after_s=0.02))
    assert (outcome.route.decision, outcome.route.reason, outcome.race) == ("weak", "adequate", "lost")
    assert stage.begun[1].closed


async def test_rival_that_breaks_does_not_win() -> None:
    stage = Stage({0: FakeAttempt(0, delay_s=0.1), 1: FakeAttempt(1, breaks=True)})
    outcome = await run(stage, FakeJudge(answer_score=0.9), race=make_race(slow_after_s=0.02))
    assert (outcome.route.decision, outcome.route.reason) == ("weak", "adequate")


async def test_race_budget_bounds_the_races() -> None:
    budget = RaceBudget(0.1)
    race = Race(RaceRule(unsure=1.0), budget)
    outcomes = [await run(Stage(), FakeJudge(), race=race) for _ in range(200)]
    raced = sum(outcome.race == "lost" for outcome in outcomes)
    assert raced <= 10 + 20  # the burst and a tenth
    assert raced >= 20
    assert sum(outcome.race == "denied" for outcome in outcomes) == 200 - raced


async def test_cancelled_request_leaves_no_attempt_open() -> None:
    stage = Stage({0: FakeAttempt(0, delay_s=5.0), 1: FakeAttempt(1, delay_s=5.0)})
    task = asyncio.create_task(run(stage, FakeJudge(), race=make_race(unsure=1.0)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(stage.begun) == 2
    assert all(attempt.closed for attempt in stage.begun)


async def test_answer_that_failed_a_hard_check_is_never_served_degraded() -> None:
    stage = Stage({1: BackendBroken("gone")})
    outcome = await run(stage, FakeJudge(failing_check="empty"))
    assert outcome.attempt is None
    assert isinstance(outcome.error, BackendBroken)

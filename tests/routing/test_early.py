"""Bounds on prefixes, and the watch over a stream that grows."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from routing.attempt import FailurePolicy, Outcome, Standing
from routing.cascade import Cascade
from routing.early import Checkpoint, EarlyRule
from routing.errors import BackendBroken, PolicyError, ScorerError
from routing.policy import Policy
from routing.prefix_watch import Early
from routing.protocols import Answer
from routing.signals import Signals

BOUNDS = EarlyRule(0.5, [Checkpoint(4, commit=-0.3, abandon=0.3), Checkpoint(8, commit=-0.2)])


@dataclass
class GrowingAttempt:
    """A stream of `total` tokens, `delay_s` apart; breaks before token `breaks_at`."""

    total: int = 20
    delay_s: float = 0.001
    breaks_at: int = 1_000
    tool_call_at: int = 1_000
    tier: int = 0
    standing: Standing = "ok"
    tokens: int = 0
    closed_at: int | None = None
    _next: asyncio.Future[None] | None = None

    @property
    def whole(self) -> bool:
        return self.tokens >= self.total

    def prefix(self) -> Sequence[Answer]:
        return [] if self.tokens >= self.tool_call_at else [Answer("w " * self.tokens, None)]

    def reading(self) -> asyncio.Future[None]:
        if self._next is None:
            self._next = asyncio.ensure_future(asyncio.sleep(self.delay_s))
        return self._next

    async def advance(self) -> bool:
        assert self.closed_at is None
        await self.reading()
        self._next = None
        self.tokens += 1
        if self.tokens == self.breaks_at:
            raise BackendBroken("broke")
        return not self.whole

    async def ready(self) -> None:
        await self.advance()

    async def complete(self) -> None:
        while not self.whole:
            await self.advance()

    def answers(self) -> Sequence[Answer]:
        return [Answer("w " * self.tokens)] if self.whole else []

    async def close(self) -> None:
        if self.closed_at is None:
            self.closed_at = self.tokens


@dataclass
class PrefixJudge:
    """P(adequate) by number of words: the entry of the longest length reached; a whole answer has `last`."""

    by_tokens: dict[int, float]
    last: float = 0.9
    delay_s: float = 0.0
    until: Callable[[], bool] = lambda: True  # a score takes until this holds
    fails: bool = False
    check_fails_from: int = 1_000
    scored: list[int] = field(default_factory=list)
    running: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def read_prompt(self, rule: object, signals: Signals) -> None:
        return

    def hard_check(self, answers: Sequence[Answer]) -> str | None:
        return "repetition" if len(answers[0].text.split()) >= self.check_fails_from else None

    async def score_answers(self, answers: Sequence[Answer]) -> float:
        tokens = len(answers[0].text.split())
        assert self.running == 0, "two scores at a time"
        self.running += 1
        self.asked.set()
        self.scored.append(tokens)
        try:
            await asyncio.sleep(self.delay_s)
            while not self.until():  # noqa: ASYNC110 - the stream goes on by itself
                await asyncio.sleep(0.001)
        finally:
            self.running -= 1
        if self.fails:
            raise ScorerError("on purpose")
        if answers[0].finish_reason is not None:
            return self.last
        return [score for least, score in sorted(self.by_tokens.items()) if tokens >= least][-1]


@dataclass
class Stage:
    """The weak stream, then plain attempts."""

    weak: GrowingAttempt
    strong_fails: bool = False
    begun: list[tuple[int, bool]] = field(default_factory=list)
    weak_closed_when_strong_began: bool = False

    async def begin(self, tier: int, judged: bool) -> GrowingAttempt:
        self.begun.append((tier, judged))
        if tier == 0 and len(self.begun) == 1:
            return self.weak
        self.weak_closed_when_strong_began = self.weak.closed_at is not None
        if tier == 1 and self.strong_fails:
            raise BackendBroken("strong is away")
        return GrowingAttempt(tier=tier)


async def run(
    stage: Stage, judge: PrefixJudge, bounds: EarlyRule = BOUNDS, interval_s: float = 0.0
) -> Outcome:
    policy = Policy(version="t", default="evaluator", thresholds={"evaluator": 0.5})
    cascade = Cascade(
        2, policy.rule(None, None), stage.begin, judge, FailurePolicy(), early=Early(bounds, interval_s)
    )
    return await cascade.run(Signals())


async def test_a_sure_prefix_is_committed_to_before_the_end() -> None:
    weak = GrowingAttempt()
    outcome = await run(Stage(weak), PrefixJudge({1: 0.95}))
    assert (outcome.route.decision, outcome.route.reason) == ("weak", "early_commit")
    assert outcome.attempt is weak
    assert 4 <= weak.tokens < 8
    assert outcome.route.answer_score == 0.95
    assert weak.closed_at is None, "the stream goes on to the client"


async def test_a_hopeless_prefix_is_given_up_before_strong_starts() -> None:
    stage = Stage(GrowingAttempt())
    outcome = await run(stage, PrefixJudge({1: 0.1}))
    assert (outcome.route.decision, outcome.route.reason) == ("escalated", "early_abandon")
    assert stage.weak.closed_at is not None
    assert stage.weak.closed_at < 8
    assert stage.weak_closed_when_strong_began
    assert outcome.rejected == [stage.weak], "what it cost is counted"


async def test_an_open_question_is_decided_by_the_whole_answer() -> None:
    for last, decision, reason in ((0.9, "weak", "adequate"), (0.2, "escalated", "inadequate")):
        stage = Stage(GrowingAttempt())
        judge = PrefixJudge({1: 0.5}, last)
        outcome = await run(stage, judge)
        assert (outcome.route.decision, outcome.route.reason) == (decision, reason)
        assert judge.scored == [4, 8, 20]
        assert outcome.route.answer_score == last


async def test_the_second_checkpoint_has_its_own_bounds() -> None:
    weak = GrowingAttempt()
    judge = PrefixJudge({1: 0.75})  # margin -0.25: not sure enough at 4, sure enough at 8
    outcome = await run(Stage(weak), judge)
    assert outcome.route.reason == "early_commit"
    assert judge.scored == [4, 8]


async def test_a_slow_score_delays_no_reading_and_the_longest_prefix_is_next() -> None:
    weak = GrowingAttempt(total=40, delay_s=0.005)
    judge = PrefixJudge({1: 0.5}, until=lambda: weak.tokens >= 15)
    outcome = await run(Stage(weak), judge)
    assert outcome.route.reason == "adequate"
    assert judge.scored[0] == 4
    assert judge.scored[1] >= 15, "the prefix as it was when the first score came"


async def test_a_commit_that_comes_after_a_tool_call_began_is_none() -> None:
    weak = GrowingAttempt(total=30, delay_s=0.005, tool_call_at=6)
    outcome = await run(Stage(weak), PrefixJudge({1: 0.95}, last=0.1, until=lambda: weak.tokens >= 6))
    assert outcome.route.decision == "escalated"


async def test_a_hard_check_on_a_prefix_ends_it() -> None:
    stage = Stage(GrowingAttempt(), strong_fails=True)
    outcome = await run(stage, PrefixJudge({1: 0.95}, check_fails_from=4))
    assert (outcome.route.reason, outcome.hard_check) == ("strong_failed", "repetition")
    assert outcome.error is not None, "an unusable answer does not stand in"


async def test_a_failing_prefix_score_leaves_the_stream_to_its_end() -> None:
    weak = GrowingAttempt()
    judge = PrefixJudge({1: 0.95}, fails=True)
    outcome = await run(Stage(weak), judge)
    assert weak.whole
    assert judge.scored == [4, 20]
    assert outcome.route.reason == "scorer_failed"


async def test_a_stream_that_breaks_before_a_decision_shifts_up() -> None:
    outcome = await run(Stage(GrowingAttempt(breaks_at=3)), PrefixJudge({1: 0.95}))
    assert (outcome.route.decision, outcome.route.reason) == ("escalated", "weak_failed")


async def test_when_strong_fails_the_abandoned_tier_is_asked_again() -> None:
    stage = Stage(GrowingAttempt(), strong_fails=True)
    outcome = await run(stage, PrefixJudge({1: 0.1}))
    assert stage.begun == [(0, True), (1, False), (0, False)]
    assert (outcome.route.decision, outcome.route.reason) == ("degraded", "strong_failed")
    assert outcome.attempt is not None
    assert outcome.attempt is not stage.weak


async def test_a_growing_prefix_is_scored_again_after_a_while() -> None:
    judge = PrefixJudge({1: 0.5})
    await run(Stage(GrowingAttempt(total=40, delay_s=0.004)), judge, interval_s=0.02)
    assert len(judge.scored) > 4, judge.scored


async def test_cancelling_stops_the_score_and_closes_the_stream() -> None:
    stage = Stage(GrowingAttempt(total=10_000))
    judge = PrefixJudge({1: 0.5}, delay_s=30.0)
    task = asyncio.create_task(run(stage, judge))
    await asyncio.wait_for(judge.asked.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert judge.running == 0
    assert stage.weak.closed_at is not None


def test_bounds_survive_json() -> None:
    data = json.loads(json.dumps(BOUNDS.to_dict(), allow_nan=False))
    again = EarlyRule.from_dict(data)
    assert again.checkpoints == BOUNDS.checkpoints
    assert again.checkpoints[1].abandon == math.inf
    assert again.decide(0, math.nan) == "wait"


def test_a_policy_keeps_bounds_for_the_threshold_they_were_fitted_at() -> None:
    policy = Policy(
        version="t", default="evaluator", thresholds={"evaluator": 0.5}, early={"evaluator": BOUNDS}
    )
    again = Policy.from_dict(json.loads(json.dumps(policy.to_dict())))
    bounds = again.early_rule(again.rule("evaluator", None))
    assert bounds is not None
    assert bounds.checkpoints == BOUNDS.checkpoints
    assert again.early_rule(again.rule("evaluator", 0.4)) is None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Checkpoint(0), "1 token"),
        (lambda: Checkpoint(4, commit=0.2, abandon=0.1), "below abandon"),
        (lambda: EarlyRule(0.5, []), "increasing"),
        (lambda: EarlyRule(0.5, [Checkpoint(8), Checkpoint(4)]), "increasing"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(make, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        make()

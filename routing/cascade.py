"""The driver of a routed request: every step in order, each one function.

    enter -> (attempt -> hard check -> score -> accept?) -> shift up -> ... -> commit

The driver knows neither HTTP nor JSON. It is given `begin`, which starts an attempt on a tier, and a
`Judge`, which checks and scores what came back; it returns the attempt to show to the client, with every
rejected attempt beside it so that its cost can be counted. Nothing of an attempt may reach the client
before it is returned here: that is the whole safety of streaming through a cascade.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from routing.attempt import Attempt, Begin, Choose, FailurePolicy, Judge, Outcome, StreamAttempt
from routing.decision import Reason, Route
from routing.errors import BackendError, BackendTimeout, ScorerError
from routing.prefix_watch import Early, PrefixWatch
from routing.race import RaceBudget, RaceRule
from routing.rules import Rule
from routing.signals import Entry, Signals


@dataclass(frozen=True, slots=True)
class Race:
    """How a request may race; shared by all requests of a server."""

    rule: RaceRule
    budget: RaceBudget


@dataclass(frozen=True, slots=True)
class Start:
    """A first tier that needs no score, and why; below the last its answer is judged as ever."""

    tier: int
    reason: Reason


Begun = tuple[Attempt | None, BackendError | None]


class Cascade:
    """One routed request over a ladder of `tiers` tiers."""

    def __init__(
        self,
        tiers: int,
        rule: Rule,
        begin: Begin,
        judge: Judge,
        failure: FailurePolicy,
        choose: Choose | None = None,
        allowed: Sequence[bool] | None = None,
        barred_reason: Reason = "capability",
        race: Race | None = None,
        early: Early | None = None,
        start: Start | None = None,
        cautious: bool = False,
    ) -> None:
        """`choose` explores; without it the rule alone decides. `allowed[i]` is False where tier i may not
        answer at all (window, capability). Without `race` tiers are tried one after the other; with `early`
        the attempts are streams, and the first tier's may be decided on before its end. `start` settles the
        first tier before any score; `cautious` sends prompts unlike the fitted ones to the last tier."""
        self._last = tiers - 1
        self._rule = rule
        self._begin = begin
        self._judge = judge
        self._failure = failure
        self._choose = choose
        self._allowed = list(allowed) if allowed is not None else [True] * tiers
        self._barred_reason = barred_reason
        self._race = race
        self._prefixes = early
        self._start_at = start
        self._cautious = cautious
        self._abandoned: int | None = None  # the tier whose stream was given up before its end
        self._open: list[Attempt] = []
        self._early: dict[int, asyncio.Task[Begun]] = {}  # attempts begun before their turn
        self._unusable: set[int] = set()  # tiers whose answer failed a hard check

    async def run(self, signals: Signals, policy_version: str = "") -> Outcome:
        """Decide, attempt, judge, shift up; never raises for a tier or a scorer that failed."""
        route = Route(self._last, "strong", "hard_prompt", self._rule.strategy, self._rule.threshold)
        route.policy_version = policy_version
        outcome = Outcome(route, None)
        try:
            entry = await self._enter(signals, outcome)
            route.entry = entry.name(self._last)
            await self._climb(entry, signals, outcome)
        except BaseException:
            await self._close_all_but(None)
            raise
        await self._close_all_but(outcome.attempt)
        return outcome

    async def _enter(self, signals: Signals, outcome: Outcome) -> Entry:
        """Score the prompt and choose the first tier; a tier that is not allowed is stepped over."""
        route = outcome.route
        if not any(self._allowed[: self._last]):
            route.reason = self._barred_reason
            return Entry(self._last, False)
        if self._start_at is not None:
            route.reason = self._start_at.reason
            return self._step_over(Entry(self._start_at.tier, self._start_at.tier < self._last), route)
        try:
            await self._judge.read_prompt(self._rule, signals)
            entry = self._choose_entry(signals, route)
            if self._cautious and signals.unfamiliar:
                entry, route.reason, route.propensity = Entry(self._last, False), "out_of_distribution", 1.0
        except ScorerError as error:
            outcome.scorer_error = str(error)
            route.reason = "scorer_failed"
            entry = Entry(self._last if self._failure.scorer == "strong" else 0, False)
        route.route_score, route.difficulty = signals.route_score, signals.difficulty
        return self._step_over(entry, route)

    def _step_over(self, entry: Entry, route: Route) -> Entry:
        """The first tier from the entry upwards that may answer."""
        tier = entry.tier
        while not self._allowed[tier] and tier < self._last:
            tier += 1
            route.reason = self._barred_reason
        return entry if tier == entry.tier else Entry(tier, entry.check and tier < self._last)

    def _choose_entry(self, signals: Signals, route: Route) -> Entry:
        if self._choose is None:
            entry, explored = self._rule.enter(signals), False
        else:
            choice = self._choose(self._rule, signals)
            entry, explored, route.propensity = choice.entry, choice.explored, choice.propensity
        route.reason = "explore" if explored else _entry_reason(self._rule.strategy, entry, self._last)
        return entry

    async def _climb(self, entry: Entry, signals: Signals, outcome: Outcome) -> None:
        """Attempt tiers upwards from the entry until one is committed to."""
        tier, check = entry.tier, entry.check
        entered = tier
        while True:
            judged = check and tier < self._last
            attempt, error = await self._attempt(tier, judged)
            if attempt is not None and attempt.standing == "client_error" and not _was_taken(outcome):
                self._commit(outcome, attempt, entered)
                return
            if attempt is not None and attempt.standing == "ok":
                try:
                    good = await self._settle(tier, attempt, judged, signals, outcome)
                except BackendError as broken:
                    error = broken
                else:
                    if good:
                        self._commit(outcome, attempt, entered)
                        return
                    outcome.rejected.append(attempt)
                    tier, check = self._next(tier), True
                    continue
            if not await self._fall_up(tier, attempt, error, outcome):
                return
            tier = self._next(tier)

    async def _settle(
        self, tier: int, attempt: Attempt, judged: bool, signals: Signals, outcome: Outcome
    ) -> bool:
        """Whether this attempt is the answer. Raises `BackendError` when it proves unusable."""
        if not judged:
            await attempt.ready()
            return True
        if self._prefixes is not None and tier == 0 and self._rule.needs_answer_score:
            return await self._settle_early(self._prefixes, cast(StreamAttempt, attempt), signals, outcome)
        if self._race is None:
            return await self._verdict(tier, attempt, signals, outcome)
        verdict = asyncio.ensure_future(self._verdict(tier, attempt, signals, outcome))
        try:
            if await self._overtaken(self._race, tier, verdict, outcome):
                outcome.route.reason, outcome.race = "hedge", "won"
                return False
            good = await verdict
        finally:
            verdict.cancel()
            await asyncio.gather(verdict, return_exceptions=True)
        if outcome.race is None and self._early:
            outcome.race = "lost" if good else "won"
        return good

    async def _settle_early(
        self, early: Early, attempt: StreamAttempt, signals: Signals, outcome: Outcome
    ) -> bool:
        """Judge prefixes of the first tier's stream, and the whole of it where they leave it open."""
        watch = PrefixWatch(attempt, self._judge, self._rule, early, signals)
        sighting = await watch.run()
        if sighting == "whole":
            return await self._verdict(0, attempt, signals, outcome)
        route = outcome.route
        route.answer_score = signals.answer_score
        if sighting == "commit":
            route.reason = "early_commit"
            return True
        self._abandoned, route.reason = attempt.tier, "early_abandon"
        if sighting == "hard_check":
            route.reason, outcome.hard_check = "hard_check", watch.failed
            self._unusable.add(attempt.tier)
        await attempt.close()  # its work ends here, before the next tier's begins
        return False

    async def _verdict(self, tier: int, attempt: Attempt, signals: Signals, outcome: Outcome) -> bool:
        await attempt.complete()
        return await self._accept(tier, attempt, signals, outcome)

    async def _overtaken(
        self, race: Race, tier: int, verdict: asyncio.Future[bool], outcome: Outcome
    ) -> bool:
        """Start the next tier when it is time. True when it was ready before a slow tier's verdict."""
        race.budget.earn()
        unsure = race.rule.is_unsure(outcome.route.route_score, self._rule.threshold)
        if not unsure:
            if not race.rule.slow_after_s:
                return False
            done, _ = await asyncio.wait({verdict}, timeout=race.rule.slow_after_s)
            if done:
                return False
        if not race.budget.take():
            outcome.race = "denied"
            return False
        following = self._next(tier)
        rival = self._early[following] = asyncio.create_task(self._begin_ready(following))
        if unsure:
            return False
        either: list[asyncio.Future[Any]] = [verdict, rival]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return not verdict.done() and _usable(rival.result())

    async def _begin_ready(self, tier: int) -> Begun:
        """Begin an attempt and wait until it is usable; a judged one is read when its turn comes."""
        judged = tier < self._last
        attempt, error = await self._start(tier, judged)
        if attempt is not None and attempt.standing == "ok" and not judged:
            try:
                await attempt.ready()
            except BackendError as broken:
                return attempt, broken
        return attempt, error

    async def _attempt(self, tier: int, judged: bool) -> Begun:
        """The attempt on a tier: the one that was begun early, else a new one."""
        early = self._early.pop(tier, None)
        return await (early if early is not None else self._start(tier, judged))

    async def _start(self, tier: int, judged: bool) -> Begun:
        try:
            attempt = await self._begin(tier, judged)
        except BackendError as error:
            return None, error
        self._open.append(attempt)
        return attempt, None

    async def _accept(self, tier: int, attempt: Attempt, signals: Signals, outcome: Outcome) -> bool:
        """Hard checks first, since they cost nothing and allow no appeal; then the evaluator."""
        route, answers = outcome.route, attempt.answers()
        failed = self._judge.hard_check(answers)
        if failed is not None:
            route.reason, outcome.hard_check = "hard_check", failed
            self._unusable.add(tier)
            return False
        if not self._rule.needs_answer_score:
            return True
        try:
            signals.answer_score = await self._judge.score_answers(answers)
            accepted = self._rule.accept(tier, signals)
        except ScorerError as error:
            outcome.scorer_error = str(error)
            route.reason = "scorer_failed"
            return self._failure.scorer == "weak"
        route.answer_score = signals.answer_score
        route.reason = "adequate" if accepted else "inadequate"
        return accepted

    async def _fall_up(
        self, tier: int, attempt: Attempt | None, error: BackendError | None, outcome: Outcome
    ) -> bool:
        """A tier gave no usable answer. True: go on upwards. False: the outcome is settled."""
        route = outcome.route
        context = attempt is not None and attempt.standing == "context_window"
        if tier < self._last and not (isinstance(error, BackendTimeout) and error.stage == "total"):
            route.reason = "context_window" if context else "weak_failed"
            if attempt is not None:
                outcome.rejected.append(attempt)
            return True
        degraded = await self._rescue(outcome)
        if degraded is not None:
            outcome.attempt = degraded
            route.tier, route.decision, route.reason = degraded.tier, "degraded", "strong_failed"
            return False
        route.tier = tier
        if tier == self._last and not context:
            route.reason = "strong_failed"
        outcome.attempt, outcome.error = (attempt, None) if error is None else (None, error)
        route.decision = "escalated" if outcome.rejected else "strong"
        return False

    async def _rescue(self, outcome: Outcome) -> Attempt | None:
        """What stands in where the last tier fails: a rejected answer that came whole, else the tier whose
        stream was given up early, asked once more."""
        if self._failure.strong != "weak":
            return None
        held = [a for a in outcome.rejected if a.standing == "ok" and a.tier not in self._unusable]
        if held and _is_complete(held[-1]):
            outcome.rejected.remove(held[-1])
            return held[-1]
        if self._abandoned is None or self._abandoned in self._unusable:
            return None
        again, error = await self._start(self._abandoned, False)
        if again is None or error is not None or again.standing != "ok":
            return None
        try:
            await again.ready()
        except BackendError:
            return None
        return again

    def _commit(self, outcome: Outcome, attempt: Attempt, entered: int) -> None:
        route = outcome.route
        route.tier, outcome.attempt = attempt.tier, attempt
        if attempt.tier != entered:
            route.decision = "escalated"
        else:
            route.decision = "strong" if attempt.tier == self._last else "weak"

    def _next(self, tier: int) -> int:
        tier += 1
        while tier < self._last and not self._allowed[tier]:
            tier += 1
        return tier

    async def _close_all_but(self, shown: Attempt | None) -> None:
        for task in self._early.values():
            task.cancel()
        await asyncio.gather(*self._early.values(), return_exceptions=True)
        for attempt in self._open:
            if attempt is not shown:
                await attempt.close()


def _was_taken(outcome: Outcome) -> bool:
    """Whether another tier has answered the request: that this one refuses it is no fault of the client."""
    return any(attempt.standing == "ok" for attempt in outcome.rejected)


def _entry_reason(strategy: str, entry: Entry, last: int) -> Reason:
    if strategy == "random":
        return "random"
    return "hard_prompt" if entry.tier == last else "easy_prompt"


def _usable(begun: Begun) -> bool:
    attempt, error = begun
    return error is None and attempt is not None and attempt.standing == "ok"


def _is_complete(attempt: Attempt) -> bool:
    """A rejected answer may stand in only when it arrived whole."""
    try:
        return bool(attempt.answers())
    except (BackendError, RuntimeError):
        return False

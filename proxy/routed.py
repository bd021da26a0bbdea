"""A routed request: the cascade decides, and only then something goes out.

capability rules -> cascade (attempt, judge, shift up) -> what it committed to, with the field `upshift`
"""

from __future__ import annotations

import logging
import random

import orjson

from proxy.answer_form import AnswerForm
from proxy.answer_headers import decision_headers, passed_on
from proxy.attempt import TierAttempt
from proxy.exchange import Exchange
from proxy.judge import RequestJudge
from proxy.keepalive import with_signs_of_life
from proxy.load_shift import LoadShift
from proxy.loop.shadow import Shadows
from proxy.models import Routed
from proxy.record import Record
from proxy.recorder import Recorder
from proxy.relay import StreamRelay, plain_body
from proxy.rules import Rules
from proxy.scoring import Scorers
from proxy.settings import RoutingSettings
from proxy.tier_calls import TierCalls
from proxy.wire_error import ApiError, from_backend_error
from routing.attempt import FailurePolicy, Outcome
from routing.cascade import Cascade, Race, Start
from routing.decision import Route
from routing.errors import BackendError
from routing.prefix_watch import Early
from routing.race import RaceBudget, RaceRule
from routing.rules import Rule
from routing.signals import Signals
from routing.tier import Ladder

_log = logging.getLogger("upshift.routed")
_MAX_CHOICES = 128  # OpenAI's own bound; each is held and judged. A pinned tier has a bound of its own
_CERTIFICATE_ENDED = (b"x-upshift-certificate", b"ended")
_MODEL_CHARS = 256
_DECIDED = frozenset(
    {
        "easy_prompt",
        "hard_prompt",
        "adequate",
        "inadequate",
        "early_commit",
        "early_abandon",
        "random",
        "explore",
    }
)  # what the policy itself says; the rest any bundle would have met


class RoutedCalls:
    """Answers routed requests under one bundle."""

    def __init__(
        self,
        settings: RoutingSettings,
        ladder: Ladder,
        scorers: Scorers,
        tiers: TierCalls,
        recorder: Recorder,
        load: LoadShift,
        rules: Rules,
        shadows: Shadows | None = None,
        on_trial: bool = False,
    ) -> None:
        """`on_trial`: what the policy decides is told as a canary's."""
        self._load = load
        self._settings = settings
        self._ladder = ladder
        self._scorers = scorers
        self._tiers = tiers
        self._recorder = recorder
        self._rules = rules
        self._shadows = shadows
        self.on_trial = on_trial
        self.certificate_ended = False  # by drift or by time: told in a header
        self.all_strong = False  # after an alarm, where that is configured
        self._told_no_bounds = False
        self._failure = FailurePolicy(settings.on_scorer_failure, settings.on_strong_failure)
        self._race = Race(
            RaceRule(settings.race_unsure, settings.race_slow_after_s), RaceBudget(settings.race_budget_share)
        )

    async def answer(self, exchange: Exchange, target: Routed) -> None:
        """Decide and send. Raises `ApiError`."""
        call, record, scorers = exchange.call, exchange.record, self._scorers
        if call.choices > _MAX_CHOICES:
            raise ApiError(400, f"'n' must be at most {_MAX_CHOICES}, got {call.choices}.", param="n")
        judge = RequestJudge(scorers, call, self._settings.scorer_timeout_s, record.stages)
        allowed, barred = self._rules.allowed_tiers(call, judge.prompt)
        call.prompt_bytes = len(judge.prompt.encode("utf-8", "surrogatepass"))
        start = self._rules.start(call, judge.prompt, exchange.session, target.plain)
        if self.all_strong and target.plain:
            start = Start(self._ladder.last, "out_of_distribution")
        record.strategy = target.rule.strategy
        record.scorers = scorers.policy.scorers
        record.explore_share = scorers.policy.explore_share if target.plain else None
        self._recorder.note_prompt(record, judge.prompt)

        async def begin(tier: int, judged: bool) -> TierAttempt:
            return await self._tiers.begin(exchange, tier, judged=judged)

        base = target.rule
        rule = self._load.rule(base) if target.plain else base
        choose = scorers.policy.choose if target.plain else None
        mode = target.stream_mode or self._settings.stream_mode
        race = self._race if call.stream and mode == "race" else None
        early = self._early(rule, judge) if call.stream and mode == "early" else None
        cascade = Cascade(
            len(self._ladder), rule, begin, judge, self._failure, choose, allowed, barred, race, early,
            start, cautious=target.plain and self._settings.out_of_distribution == "strong",
        )  # fmt: skip
        signals = Signals(draw=random.random())
        work = cascade.run(signals, scorers.policy.version)
        silence_s = self._settings.stream_keepalive_s
        if call.stream and silence_s:
            outcome = await with_signs_of_life(work, silence_s, exchange.show_life)
        else:
            outcome = await work
        route = record.route = outcome.route
        if rule is not base and route.decision == "weak" and self._load.spared(base, signals):
            route.reason = "load"
        if self.on_trial and route.reason in _DECIDED:
            route.reason = "canary"
        if route.route_score is not None:
            record.unfamiliar = signals.unfamiliar
        record.scorer_error, record.hard_check, record.race = (
            outcome.scorer_error, outcome.hard_check, outcome.race,
        )  # fmt: skip
        if outcome.scorer_error is not None:  # a rule that lacks a score says so itself
            record.scorer_failed = judge.failed or "policy/missing_score"
        await self._show(exchange, outcome, route, target.plain)

    def _early(self, rule: Rule, judge: RequestJudge) -> Early | None:
        """How prefixes are judged; None where the policy has no bounds for this rule: streams are held."""
        if not rule.needs_answer_score or not judge.prefix_tells:
            return None
        bounds = self._scorers.policy.early_rule(rule)
        if bounds is None:
            if not self._told_no_bounds:
                self._told_no_bounds = True
                _log.warning(
                    "stream_mode 'early': the bundle has no bounds for strategy %r at threshold %g; "
                    "such streams are held to their end",
                    rule.strategy, rule.threshold,
                )  # fmt: skip
            return None
        return Early(bounds, self._settings.early_interval_s)

    async def _show(self, exchange: Exchange, outcome: Outcome, route: Route, plain: bool) -> None:
        """Send what the cascade committed to."""
        record, tier = exchange.record, self._ladder[route.tier]
        for rejected in outcome.rejected:
            assert isinstance(rejected, TierAttempt)
            self._recorder.settle(record, rejected)
        if outcome.error is not None:
            raise from_backend_error(outcome.error, tier.name) from outcome.error
        attempt = outcome.attempt
        assert isinstance(attempt, TierAttempt)
        try:
            if attempt.standing != "ok":
                exchange.headers += decision_headers(route, tier.name, tier.model)
                await self._tiers.relay_error(exchange, attempt)
                return
            if route.decision == "degraded":
                record.outcome = "degraded"
            self._rules.sessions.served(exchange.session, attempt.tier)
            model = _served_model(attempt, tier.model)
            exchange.headers += decision_headers(route, tier.name, model)
            exchange.headers += passed_on(attempt.headers)
            if self.certificate_ended:
                exchange.headers.append(_CERTIFICATE_ENDED)
            shadows = self._shadows if plain else None
            sampled = shadows is not None and shadows.draw(exchange, attempt, route)
            form = AnswerForm(exchange.call.api, model)
            if exchange.call.stream:
                relay = StreamRelay(attempt, lambda usage: self._field(record, attempt, route, model), form)
                await exchange.send_stream(attempt.status, relay.pieces())
            else:
                body = plain_body(attempt, lambda usage: self._field(record, attempt, route, model), form)
                await exchange.send_plain(attempt.status, body)
            if shadows is not None and sampled:
                shadows.take(exchange, attempt, route)
        except BackendError as error:
            attempt.disown()
            raise from_backend_error(error, tier.name) from error
        finally:
            await attempt.close()
            self._recorder.settle(record, attempt, served=True)
            self._rules.learn(attempt.tier, exchange.call, attempt.usage)

    def _field(self, record: Record, attempt: TierAttempt, route: Route, model: str) -> bytes:
        """The body field `upshift`, once the usage is known."""
        self._recorder.settle(record, attempt, served=True)
        return orjson.dumps(
            {
                "tier": self._ladder[route.tier].name,
                "model": model,
                "decision": route.decision,
                "reason": route.reason,
                "strategy": route.strategy,
                "threshold": route.threshold,
                "route_score": route.route_score,
                "evaluator_score": route.answer_score,
                "policy": route.policy_version,
                "cost_usd": record.cost_usd,
            }
        )


def _served_model(attempt: TierAttempt, default: str) -> str:
    """As its backend names it, where that can stand in a header."""
    name = attempt.model
    return name if 0 < len(name) <= _MODEL_CHARS and name.isprintable() else default

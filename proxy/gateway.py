"""The driver of a proxied request: every step in order.

    read -> parse -> resolve the model -> pinned: relay, routed: cascade, then relay -> record

It is a plain ASGI application, below FastAPI's middleware: a proxied request pays for nothing it does not
use. Work that the client need not wait for (metrics, the decision log) comes after its last byte.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from proxy.admission import Admission
from proxy.answer_form import AnswerForm
from proxy.answer_headers import Cors, decision_headers, opening_headers, passed_on, request_id, traced
from proxy.arms import Arm, Arms
from proxy.attempt import TierAttempt
from proxy.call import Api, Call, parse_call
from proxy.exchange import Exchange, note_bug, send_error
from proxy.held_bytes import HOLD, Hold
from proxy.limits import ACCOUNT
from proxy.load_shift import LoadShift
from proxy.loop.shadow import Budget, Shadows
from proxy.metrics import Metrics
from proxy.models import ModelNames, Pinned, Routed
from proxy.operating_point import OperatingPoint
from proxy.pinned_form import PinnedForm, pinned_body
from proxy.pinned_relay import PinnedRelay
from proxy.record import Record
from proxy.recorder import Recorder
from proxy.request_deadline import request_deadline
from proxy.routed import RoutedCalls
from proxy.rules import Rules
from proxy.scoring import Scorers
from proxy.sessions import Sessions
from proxy.settings import Settings
from proxy.tier_calls import TierCalls
from proxy.token_counts import token_counts
from proxy.wire import ClientGone, ClientWatch, Receive, Scope, Send, header, read_body
from proxy.wire_error import ApiError, from_backend_error
from routing.decision import Route
from routing.errors import BackendError
from routing.protocols import Backend
from routing.tier import Ladder

_LABELS: dict[Api, str] = {"chat": "chat_completions", "completions": "completions"}
SHUTTING_DOWN = ApiError(503, "The server is shutting down.", code="shutting_down", retry=True)


class Gateway:
    """`/v1/chat/completions` and `/v1/completions`."""

    def __init__(
        self,
        settings: Settings,
        ladder: Ladder,
        backends: Sequence[Backend],
        scorers: Scorers,
        metrics: Metrics,
        recorder: Recorder,
        canary: Scorers | None = None,
        shadow_budget: Budget | None = None,
        point: OperatingPoint | None = None,
    ) -> None:
        """`canary`: a bundle on trial; without `shadow_budget` no answer is sampled."""
        self.settings = settings
        self.ladder = ladder
        self.cors = Cors(settings.server.cors_origins)
        self.names = ModelNames(ladder, settings.routing.strategy, settings.routing.threshold, point)
        self.backends = backends
        self.metrics = metrics
        self.recorder = recorder
        server = settings.server
        self.admission = Admission(
            server.max_in_flight_requests, server.max_queued_requests,
            server.queue_timeout_s, server.shed_retry_after_s,
        )  # fmt: skip
        self._counts = token_counts(ladder)
        routing = settings.routing
        self._sessions = Sessions(routing.sticky_ttl_s, routing.sticky_sessions)
        self._tiers = TierCalls(ladder, backends, recorder, routing.held_time_share, self._counts)
        shadow = settings.loop.shadow
        self.shadows = None
        if shadow.share and shadow_budget is not None:
            self.shadows = Shadows(shadow, ladder, backends, recorder, self.admission, shadow_budget)
        trial = None if canary is None else self._arm(canary, on_trial=True)
        self.arms = Arms(self._arm(scorers), trial, settings.loop.canary.share)

    @property
    def scorers(self) -> Scorers:
        """Of the bundle in force."""
        return self.arms.stable.scorers

    @property
    def rules(self) -> Rules:
        """Of the bundle in force."""
        return self.arms.stable.rules

    def _arm(self, scorers: Scorers, on_trial: bool = False) -> Arm:
        routing, ladder = self.settings.routing, self.ladder
        rules = Rules(ladder, self._counts, routing, scorers.familiar, self._sessions)
        load = LoadShift(scorers.policy, self.backends[-1], routing.load_shift_from_requests)
        routed = RoutedCalls(
            routing, ladder, scorers, self._tiers, self.recorder, load, rules, self.shadows, on_trial
        )
        return Arm(scorers, rules, routed)

    async def serve(self, api: Api, scope: Scope, receive: Receive, send: Send, label: str = "") -> Record:
        """One request from its first byte to its row in the log; `label` names the API in metrics."""
        record = Record(label or _LABELS[api], request_id(scope), account=scope.get(ACCOUNT))
        self.recorder.open(record, scope)
        self.metrics.in_flight.inc()
        try:
            if await self._admitted(scope, send, record):
                record.stages["queue"] = time.perf_counter() - record.started
                try:
                    await self._answer(api, scope, receive, send, record)
                finally:
                    self.admission.leave()
        except ClientGone:
            record.outcome = "cancelled"
        except Exception:
            note_bug(record)
            raise
        finally:
            self.metrics.in_flight.dec()
            record.total_s = time.perf_counter() - record.started
            self.recorder.finish(record)
        return record

    async def _admitted(self, scope: Scope, send: Send, record: Record) -> bool:
        """Whether there is a place for the request; one that is shed is told when to come again."""
        try:
            await self.admission.enter_for(scope)
        except ApiError as error:
            headers = opening_headers(record.request_id, self.cors.headers(scope))
            await send_error(send, record, headers, error)
            return False
        return True

    async def refuse(self, label: str, scope: Scope, send: Send, error: ApiError | ClientGone) -> None:
        """End a request that failed before it came here; counted like any other."""
        record = Record(label, request_id(scope))
        if isinstance(error, ApiError):
            headers = opening_headers(record.request_id, self.cors.headers(scope))
            await send_error(send, record, headers, error)
        else:
            record.outcome = "cancelled"
        record.total_s = time.perf_counter() - record.started
        self.recorder.finish(record)

    async def _answer(self, api: Api, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        headers = opening_headers(record.request_id, self.cors.headers(scope))
        try:
            body = await read_body(scope, receive, self.settings.server.max_body_bytes)
            call = parse_call(api, body, self.settings.server.max_messages)
            session = header(scope, b"x-upshift-session")
            arm, target = self._decider(call, header(scope, b"x-upshift-strategy"), session)
            deadline = request_deadline(scope, self.settings.server.request_timeout_s, record.stages["queue"])
        except ApiError as error:
            await send_error(send, record, headers, error)
            return
        if self.arms.running and isinstance(target, Routed) and target.plain:
            record.arm = "stable" if arm is self.arms.stable else "canary"
        exchange = Exchange(
            send, call, record, headers, deadline,
            {"x-request-id": record.request_id, **traced(scope)}, scope.get(HOLD) or Hold(),
            self._sessions.key_of(call, session),
        )  # fmt: skip
        record.stream = call.stream
        record.stages["read"] = time.perf_counter() - record.started - record.stages["queue"]
        async with ClientWatch(scope, receive) as client:
            try:
                if isinstance(target, Pinned):
                    await self._pinned(exchange, target)
                else:
                    await arm.routed.answer(exchange, target)
            except ApiError as error:
                await exchange.fail(error)
            except asyncio.CancelledError:
                if not client.gone:  # the grace of a shutdown is over: say so instead of breaking off
                    await exchange.fail(SHUTTING_DOWN)
                raise
        if client.gone:
            record.outcome = "cancelled"

    def _decider(
        self, call: Call, strategy: bytes | None, session: bytes | None
    ) -> tuple[Arm, Pinned | Routed]:
        """Who decides, and by what. Raises `ApiError`."""
        named = strategy.decode("latin-1") if strategy else None
        arm = self.arms.stable
        target = self.names.resolve(call.model, named, call.options, arm.scorers.policy)
        if self.arms.running and isinstance(target, Routed) and target.plain:
            arm = self.arms.pick(call, session)
            if arm is not self.arms.stable:
                target = self.names.resolve(call.model, named, call.options, arm.scorers.policy)
        return arm, target

    async def _pinned(self, exchange: Exchange, target: Pinned) -> None:
        """No routing: the backend's answer as it is, the decision in headers only."""
        record, tier = exchange.record, self.ladder[target.tier]
        record.strategy = "pinned"
        route = record.route = Route(target.tier, "pinned", "pinned", "pinned")
        attempt = await self._begin_pinned(exchange, target.tier)
        exchange.headers += decision_headers(route, tier.name, tier.model)
        try:
            if not 200 <= attempt.status < 300:
                await self._tiers.relay_error(exchange, attempt)
                return
            exchange.headers += passed_on(attempt.headers)
            form = AnswerForm(exchange.call.api, tier.model)
            if exchange.call.stream:
                pieces = PinnedForm(form).pieces(PinnedRelay(attempt).pieces())
                await exchange.send_stream(attempt.status, pieces)
                if attempt.standing == "failed":
                    attempt.disown()
                    record.outcome = "upstream_error"
            else:
                await attempt.complete()
                self.recorder.settle(record, attempt, served=True)
                await exchange.send_plain(attempt.status, pinned_body(attempt, form))
        except BackendError as error:
            attempt.disown()
            raise from_backend_error(error, tier.name) from error
        finally:
            await attempt.close()
            self.recorder.settle(record, attempt, served=True)

    async def _begin_pinned(self, exchange: Exchange, tier: int) -> TierAttempt:
        try:
            return await self._tiers.begin(exchange, tier, judged=False, pinned=True)
        except BackendError as error:
            raise from_backend_error(error, self.ladder[tier].name) from error

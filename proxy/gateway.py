"""The driver of a proxied request: every step in order.

    authenticate -> read -> parse -> resolve the model -> pinned: relay, routed: cascade, then relay -> record

It is a plain ASGI application, below FastAPI's middleware: a proxied request pays for nothing it does not
use. Work that the client need not wait for (metrics, the decision log) comes after its last byte.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from proxy.admission import Admission
from proxy.answer_headers import (
    Cors,
    decision_headers,
    opening_headers,
    passed_on,
    processing_ms,
    request_id,
    traced,
)
from proxy.attempt import TierAttempt, begin_attempt
from proxy.auth import KeyRing
from proxy.call import Api, Call, parse_call
from proxy.judge import RequestJudge
from proxy.keepalive import COMMENT, with_signs_of_life
from proxy.metrics import Metrics
from proxy.models import ModelNames, Pinned, Routed
from proxy.pinned_relay import PinnedRelay
from proxy.record import Record, TierUse
from proxy.recorder import Recorder, failure_outcome
from proxy.relay import StreamRelay, plain_body
from proxy.rules import allowed_tiers
from proxy.scoring import Scorers
from proxy.settings import Settings
from proxy.wire import (
    ClientGone,
    ClientWatch,
    Headers,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    send_end,
    send_pieces,
    send_start,
    send_whole,
)
from proxy.wire_error import ApiError, from_backend_error, from_backend_reply
from routing.cascade import Cascade, FailurePolicy, Outcome, Race
from routing.deadline import Deadline
from routing.decision import Route
from routing.errors import BackendError
from routing.policy import Signals
from routing.protocols import Backend
from routing.race import RaceBudget, RaceRule
from routing.tier import Ladder

_SSE = (b"content-type", b"text/event-stream; charset=utf-8")
_LABELS: dict[Api, str] = {"chat": "chat_completions", "completions": "completions"}
SHUTTING_DOWN = ApiError(503, "The server is shutting down.", code="shutting_down", retry=True)
_NO_CACHE = (b"cache-control", b"no-cache")


@dataclass(slots=True)
class Request:
    """One request on its way through the steps."""

    send: Send
    call: Call
    record: Record
    headers: Headers
    deadline: Deadline
    forwarded: Mapping[str, str]
    started: bool = False  # the response's first byte is out: no error status, no switch any more


class Gateway:
    """`/v1/chat/completions` and `/v1/completions`."""

    def __init__(
        self,
        settings: Settings,
        ladder: Ladder,
        backends: Sequence[Backend],
        scorers: Scorers,
        keys: KeyRing,
        metrics: Metrics,
        recorder: Recorder,
    ) -> None:
        self.settings = settings
        self.ladder = ladder
        self.scorers = scorers
        self.keys = keys
        self.cors = Cors(settings.server.cors_origins)
        self.names = ModelNames(ladder, settings.routing.strategy, settings.routing.threshold)
        self.backends = backends
        self.metrics = metrics
        self.recorder = recorder
        server = settings.server
        self.admission = Admission(
            server.max_in_flight_requests, server.max_queued_requests,
            server.queue_timeout_s, server.shed_retry_after_s,
        )  # fmt: skip
        routing = settings.routing
        self._failure = FailurePolicy(routing.on_scorer_failure, routing.on_strong_failure)
        self._race = Race(
            RaceRule(routing.race_unsure, routing.race_slow_after_s), RaceBudget(routing.race_budget_share)
        )

    async def serve(self, api: Api, scope: Scope, receive: Receive, send: Send, label: str = "") -> Record:
        """One request from its first byte to its row in the log; `label` names the API in metrics."""
        record = Record(label or _LABELS[api], request_id(scope))
        self.metrics.in_flight.inc()
        try:
            if await self._admitted(scope, send, record):
                try:
                    await self._answer(api, scope, receive, send, record)
                finally:
                    self.admission.leave()
        except ClientGone:
            record.outcome = "cancelled"
        finally:
            self.metrics.in_flight.dec()
            record.total_s = time.perf_counter() - record.started
            self.recorder.finish(record)
        return record

    async def _admitted(self, scope: Scope, send: Send, record: Record) -> bool:
        """Whether there is a place for the request; one that is shed is told when to come again."""
        try:
            await self.admission.enter()
        except ApiError as error:
            headers = opening_headers(record.request_id, self.cors.headers(scope))
            await self._send_error(send, record, headers, error)
            record.outcome = "shed"
            return False
        return True

    async def refuse(self, label: str, scope: Scope, send: Send, error: ApiError | ClientGone) -> None:
        """End a request that failed before it came here; counted like any other."""
        record = Record(label, request_id(scope))
        if isinstance(error, ApiError):
            headers = opening_headers(record.request_id, self.cors.headers(scope))
            await self._send_error(send, record, headers, error)
        else:
            record.outcome = "cancelled"
        record.total_s = time.perf_counter() - record.started
        self.recorder.finish(record)

    async def _answer(self, api: Api, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        headers = opening_headers(record.request_id, self.cors.headers(scope))
        try:
            self.keys.check(header(scope, b"authorization"))
            body = await read_body(scope, receive, self.settings.server.max_body_bytes)
            call = parse_call(api, body, self.settings.server.max_messages)
            strategy = header(scope, b"x-upshift-strategy")
            target = self.names.resolve(
                call.model,
                strategy.decode("latin-1") if strategy else None,
                call.options,
                self.scorers.policy,
            )
        except ApiError as error:
            await self._send_error(send, record, headers, error)
            return
        request = Request(
            send, call, record, headers, Deadline(self.settings.server.request_timeout_s),
            {"x-request-id": record.request_id, **traced(scope)},
        )  # fmt: skip
        record.stream = call.stream
        async with ClientWatch(receive) as client:
            try:
                if isinstance(target, Pinned):
                    await self._pinned(request, target)
                else:
                    await self._routed(request, target)
            except ApiError as error:
                await self._fail(request, error)
            except asyncio.CancelledError:
                if not client.gone:  # the grace of a shutdown is over: say so instead of breaking off
                    await self._fail(request, SHUTTING_DOWN)
                raise
        if client.gone:
            record.outcome = "cancelled"

    async def _pinned(self, request: Request, target: Pinned) -> None:
        """No routing: the backend's bytes as they are, the decision in headers only."""
        call, record, tier = request.call, request.record, self.ladder[target.tier]
        record.strategy = "pinned"
        route = record.route = Route(target.tier, "pinned", "pinned", "pinned")
        use = self.recorder.begin(record, target.tier)
        attempt = await self._begin_pinned(request, target.tier, use)
        request.headers += decision_headers(route, tier.name, tier.model)
        try:
            if attempt.status >= 400:
                await self._relay_error(request, attempt)
                return
            request.headers += passed_on(attempt.headers)
            if call.stream:
                await self._stream(request, attempt, PinnedRelay(attempt).pieces())
                if attempt.standing == "failed":
                    record.outcome = "upstream_error"
            else:
                await attempt.complete()
                self.recorder.settle(record, attempt, served=True)
                request.headers.append((b"x-upshift-cost-usd", b"%.10g" % record.cost_usd))
                request.headers.append(processing_ms(record.started))
                record.status = attempt.status
                await send_whole(request.send, attempt.status, request.headers, attempt.body)
        except BackendError as error:
            raise from_backend_error(error, tier.name) from error
        finally:
            await attempt.close()
            self.recorder.settle(record, attempt, served=True)

    async def _begin_pinned(self, request: Request, tier: int, use: TierUse) -> TierAttempt:
        try:
            return await self._begin(request, tier, judged=False, pinned=True)
        except BackendError as error:
            self.recorder.end(use, failure_outcome(error))
            raise from_backend_error(error, self.ladder[tier].name) from error

    async def _routed(self, request: Request, target: Routed) -> None:
        """The cascade decides; nothing goes out before it has."""
        call, record, scorers = request.call, request.record, self.scorers
        judge = RequestJudge(scorers, call, self.settings.routing.scorer_timeout_s)
        allowed, barred = allowed_tiers(call, self.ladder, judge.prompt)
        record.strategy = target.rule.strategy
        self.recorder.note_prompt(record, judge.prompt)

        async def begin(tier: int, judged: bool) -> TierAttempt:
            use = self.recorder.begin(record, tier)
            try:
                attempt = await self._begin(request, tier, judged=judged)
            except BackendError as error:
                self.recorder.end(use, failure_outcome(error))
                raise
            if attempt.standing != "ok":
                self.recorder.end(use, "error")
            return attempt

        choose = scorers.policy.choose if target.plain else None
        mode = target.stream_mode or self.settings.routing.stream_mode
        race = self._race if call.stream and mode == "race" else None
        cascade = Cascade(
            len(self.ladder), target.rule, begin, judge, self._failure, choose, allowed, barred, race
        )
        work = cascade.run(Signals(draw=random.random()), scorers.policy.version)
        silence_s = self.settings.routing.stream_keepalive_s
        if call.stream and silence_s:
            outcome = await with_signs_of_life(work, silence_s, lambda: self._show_life(request))
        else:
            outcome = await work
        route = record.route = outcome.route
        record.scorer_error, record.hard_check, record.race = (
            outcome.scorer_error, outcome.hard_check, outcome.race,
        )  # fmt: skip
        await self._show(request, outcome, route)

    async def _show(self, request: Request, outcome: Outcome, route: Route) -> None:
        """Send what the cascade committed to."""
        record, tier = request.record, self.ladder[route.tier]
        for rejected in outcome.rejected:
            assert isinstance(rejected, TierAttempt)
            self.recorder.settle(record, rejected)
        if outcome.error is not None:
            raise from_backend_error(outcome.error, tier.name) from outcome.error
        attempt = outcome.attempt
        assert isinstance(attempt, TierAttempt)
        try:
            if attempt.standing != "ok":
                request.headers += decision_headers(route, tier.name, tier.model)
                await self._relay_error(request, attempt)
                return
            if route.decision == "degraded":
                record.outcome = "degraded"
            model = _served_model(attempt, tier.model)
            request.headers += decision_headers(route, tier.name, model)
            request.headers += passed_on(attempt.headers)
            if request.call.stream:
                relay = StreamRelay(attempt, lambda usage: self._field(record, attempt, route, model))
                await self._stream(request, attempt, relay.pieces())
            else:
                body = plain_body(attempt, lambda usage: self._field(record, attempt, route, model))
                request.headers.append((b"x-upshift-cost-usd", b"%.10g" % record.cost_usd))
                request.headers.append(processing_ms(record.started))
                record.status = attempt.status
                await send_whole(request.send, attempt.status, request.headers, body)
        except BackendError as error:
            raise from_backend_error(error, tier.name) from error
        finally:
            await attempt.close()
            self.recorder.settle(record, attempt, served=True)

    def _field(self, record: Record, attempt: TierAttempt, route: Route, model: str) -> bytes:
        """The body field `upshift`, once the usage is known."""
        self.recorder.settle(record, attempt, served=True)
        return orjson.dumps(
            {
                "tier": self.ladder[route.tier].name,
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

    async def _stream(self, request: Request, attempt: TierAttempt, pieces: AsyncIterator[bytes]) -> None:
        """A committed stream: from the first byte on a failure is an error event and a proper end."""
        record = request.record
        record.status = attempt.status
        first = await anext(pieces, b"")  # a stream that breaks before any byte is still an error status
        await self._start_stream(request)
        record.first_byte_s = time.perf_counter() - record.started
        await request.send({"type": "http.response.body", "body": first, "more_body": True})
        await send_pieces(request.send, pieces)
        await send_end(request.send)

    async def _start_stream(self, request: Request) -> None:
        """Headers out, unless signs of life have sent them already."""
        if not request.started:
            request.headers += [_SSE, _NO_CACHE, processing_ms(request.record.started)]
            request.started = True
            await send_start(request.send, 200, request.headers)

    async def _show_life(self, request: Request) -> None:
        await self._start_stream(request)
        await request.send({"type": "http.response.body", "body": COMMENT, "more_body": True})

    async def _begin(self, request: Request, tier: int, *, judged: bool, pinned: bool = False) -> TierAttempt:
        left_s, stage = request.deadline.left_s(), "total"
        held = judged or not request.call.stream  # nothing reaches the client before it is complete
        if left_s is not None and held and tier < self.ladder.last and not pinned:
            left_s, stage = left_s * self.settings.routing.held_time_share, "share"
        return await begin_attempt(
            self.backends[tier], tier, self.ladder[tier], request.call, judged=judged, pinned=pinned,
            headers=request.forwarded, timeout_s=left_s, timeout_stage=stage,
        )  # fmt: skip

    async def _relay_error(self, request: Request, attempt: TierAttempt) -> None:
        """A backend's error reply, in OpenAI's shape."""
        tier = self.ladder[attempt.tier]
        error = from_backend_reply(attempt.status, attempt.body, attempt.headers, tier.name)
        await self._fail(request, error, upstream=attempt.standing == "failed")

    async def _fail(self, request: Request, error: ApiError, upstream: bool = True) -> None:
        """Report a failure: a status while that is possible, an error event after the first byte."""
        record = request.record
        if request.started:
            record.outcome = "timeout" if error.status == 504 else "upstream_error"
            event = b"data: " + error.body() + b"\n\n"
            await send_end(request.send, event)
            return
        await self._send_error(request.send, record, request.headers, error, upstream=upstream)

    async def _send_error(
        self, send: Send, record: Record, headers: Headers, error: ApiError, upstream: bool = False
    ) -> None:
        record.status = error.status
        if error.status == 504:
            record.outcome = "timeout"
        elif upstream or error.status >= 500:
            record.outcome = "upstream_error"
        else:
            record.outcome = "client_error"
        kept = (item for item in headers if item[0] != b"content-type")  # the backend's, of what failed
        headers = [*kept, *error.headers(), processing_ms(record.started)]
        await send_whole(send, error.status, headers, error.body())


def _served_model(attempt: TierAttempt, default: str) -> str:
    name = attempt.data.get("model") if attempt.data is not None else attempt.reader.model
    return name if isinstance(name, str) and name else default

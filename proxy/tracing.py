"""OpenTelemetry traces of requests, with the semantic conventions for generative AI; off by default.

    SERVER `POST chat_completions`            one a request, under the caller's span where it sent one
      CLIENT `chat MODEL`                     one an attempt on a tier; its id goes on to the backend
        event `gen_ai.evaluation.result`      the evaluator's verdict on that attempt

A request in flight carries only ids (W3C trace context). Spans are built from its record after its last byte
and exported in batches by a thread: 3 us while it runs, 17 us after its end, and the thread's encoding. No
prompt, answer, key or header is ever an attribute. Names: OpenTelemetry semantic conventions 1.37,
"Generative AI" and "HTTP".
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.record import Record, TierUse
from proxy.wire import Scope, header
from routing.errors import SettingsError
from routing.tier import Ladder

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Event

    from proxy.settings import TelemetrySettings

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 1
_OPERATIONS = {"chat_completions": "chat", "chat": "chat", "responses": "chat",
               "completions": "text_completion", "embeddings": "embeddings"}  # fmt: skip
_QUEUED_SPANS = 8_192  # beyond it spans are dropped: tracing never holds up a request
_EXPORT_INTERVAL_MS = 1_000


@dataclass(slots=True)
class Trace:
    """The ids of one request; `parent_id` 0: the trace begins here."""

    trace_id: int
    span_id: int
    parent_id: int
    sampled: bool
    started_ns: int  # the wall clock's nanoseconds at the record's `started`

    def onward(self, use: TierUse | None) -> str:
        """`traceparent` for an attempt; None: a backend that is no tier has no span of its own."""
        span = self.span_id
        if use is not None:
            span = use.span_id = _new_id(64)
        return f"00-{self.trace_id:032x}-{span:016x}-{'01' if self.sampled else '00'}"


class Tracing:
    """Spans to one OTLP/HTTP collector. Needs the extra `otel`."""

    def __init__(self, settings: TelemetrySettings, ladder: Ladder) -> None:
        """Raises `SettingsError` when the SDK is not installed."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"telemetry.traces_url is set, but {error.name} is missing: pip install 'upshift[otel]'"
            ) from error
        self._share = settings.traces_share
        self._ladder = ladder
        self._resource = Resource.create({"service.name": settings.service_name})
        self._scope = InstrumentationScope("upshift")
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(endpoint=settings.traces_url),
            max_queue_size=_QUEUED_SPANS,
            schedule_delay_millis=_EXPORT_INTERVAL_MS,
        )

    def begin(self, scope: Scope, started: float) -> Trace:
        """The trace of a request: the caller's, sampled as it says, or a new one."""
        now_ns = time.time_ns() - int((time.perf_counter() - started) * 1e9)
        given = _PARENT.fullmatch(header(scope, b"traceparent") or b"")
        if given is not None and int(given[1], 16) and int(given[2], 16):
            sampled = bool(int(given[3], 16) & _SAMPLED)
            return Trace(int(given[1], 16), _new_id(64), int(given[2], 16), sampled, now_ns)
        return Trace(_new_id(128), _new_id(64), 0, random.random() < self._share, now_ns)

    def finish(self, record: Record) -> None:
        """Export the spans of a finished request."""
        trace = record.trace
        if trace is None or not trace.sampled:
            return
        for use in record.uses:
            self._export(
                trace, f"{_operation(record)} {self._ladder[use.tier].model}",
                span_id=use.span_id or _new_id(64), parent_id=trace.span_id,
                server=False, begin_s=use.began - record.started, seconds=use.seconds,
                attributes=self._attempt_attributes(record, use), events=self._verdict(record, use),
                failed=use.outcome != "ok",
            )  # fmt: skip
        self._export(
            trace, f"POST {record.api}", span_id=trace.span_id, parent_id=trace.parent_id, server=True,
            begin_s=0.0, seconds=record.total_s, attributes=_request_attributes(record), events=(),
            failed=record.status >= 500 or record.outcome in ("upstream_error", "timeout"),
        )  # fmt: skip

    def close(self) -> None:
        """Export what waits. Blocks for as long as the collector takes, at most a few seconds."""
        self._processor.force_flush(5_000)
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _attempt_attributes(self, record: Record, use: TierUse) -> dict[str, Any]:
        tier = self._ladder[use.tier]
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": _operation(record),
            "gen_ai.provider.name": "openai",  # the protocol that is spoken; whose server it is, nobody says
            "gen_ai.request.model": tier.model,
            "upshift.tier": tier.name,
            "upshift.served": use.served,
            "upshift.cost_usd": use.cost_usd,
        }
        if use.outcome == "ok":
            attributes["gen_ai.response.model"] = use.model or tier.model
        else:
            attributes["error.type"] = use.outcome
        if use.prompt_tokens:
            attributes["gen_ai.usage.input_tokens"] = use.prompt_tokens
        if use.completion_tokens:
            attributes["gen_ai.usage.output_tokens"] = use.completion_tokens
        return attributes

    def _verdict(self, record: Record, use: TierUse) -> Sequence[Event]:
        """The evaluator's word on this attempt, where it was the one judged."""
        from opentelemetry.sdk.trace import Event

        route, trace = record.route, record.trace
        assert trace is not None
        if route is None or route.answer_score is None or use is not _judged(record):
            return ()
        accepted = use.served and route.decision != "degraded"
        attributes: dict[str, Any] = {
            "gen_ai.evaluation.name": "adequate",
            "gen_ai.evaluation.score.value": route.answer_score,
            "gen_ai.evaluation.score.label": "pass" if accepted else "fail",
        }
        at_ns = trace.started_ns + int((use.began - record.started + use.seconds) * 1e9)
        return (Event("gen_ai.evaluation.result", attributes, at_ns),)

    def _export(
        self, trace: Trace, name: str, *, span_id: int, parent_id: int, server: bool, begin_s: float,
        seconds: float, attributes: dict[str, Any], events: Sequence[Event], failed: bool,
    ) -> None:  # fmt: skip
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(identity: int, remote: bool = False) -> SpanContext:
            return SpanContext(trace.trace_id, identity, remote, TraceFlags(_SAMPLED))

        start_ns = trace.started_ns + int(begin_s * 1e9)
        self._processor.on_end(
            ReadableSpan(
                name,
                context=context(span_id),
                parent=context(parent_id, remote=server) if parent_id else None,
                resource=self._resource,
                attributes=attributes,
                events=events,
                kind=SpanKind.SERVER if server else SpanKind.CLIENT,
                status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
                start_time=start_ns,
                end_time=start_ns + int(seconds * 1e9),
                instrumentation_scope=self._scope,
            )
        )


def open_tracing(settings: TelemetrySettings, ladder: Ladder) -> Tracing | None:
    """Tracing where a collector is configured. Raises `SettingsError`."""
    return Tracing(settings, ladder) if settings.traces_url else None


def _operation(record: Record) -> str:
    return _OPERATIONS.get(record.api, record.api)


def _judged(record: Record) -> TierUse | None:
    """The attempt that `answer_score` is about: the one served when it was found adequate, else the last
    whole answer that was not served."""
    route = record.route
    whole = [use for use in record.uses if use.outcome == "ok"]
    kept = route is not None and (route.reason == "adequate" or route.decision == "degraded")
    return next((use for use in reversed(whole) if use.served == kept), None)


def _request_attributes(record: Record) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": "POST",
        "http.response.status_code": record.status,
        "gen_ai.operation.name": _operation(record),
        "upshift.request_id": record.request_id,
        "upshift.outcome": record.outcome,
        "upshift.strategy": record.strategy,
        "upshift.cost_usd": record.cost_usd,
    }
    route = record.route
    if route is not None:
        attributes |= {"upshift.decision": route.decision, "upshift.reason": route.reason}
        if route.policy_version:
            attributes["upshift.policy"] = route.policy_version
        if route.route_score is not None:
            attributes["upshift.route_score"] = route.route_score
    if record.first_byte_s is not None:
        attributes["gen_ai.server.time_to_first_token"] = record.first_byte_s
    if record.outcome not in ("ok", "degraded"):
        attributes["error.type"] = record.error or record.outcome
    return attributes


def _new_id(bits: int) -> int:
    return random.getrandbits(bits) or 1

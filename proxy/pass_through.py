"""Calls that go to one backend as they are: embeddings, and the Responses API of a tier that has it.

No cascade, nothing held back: the backend's bytes reach the client, unchanged where they have the API's form,
the headers say which backend it was, and tokens are counted from the `usage` object wherever it stands.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

import orjson

from proxy.answer_headers import (
    decision_headers,
    opening_headers,
    passed_on,
    processing_ms,
    request_id,
    traced,
)
from proxy.attempt import decode_event
from proxy.backends.http import HttpReply
from proxy.call import decode_fields
from proxy.completion import Usage
from proxy.exchange import failed_outcome, note_bug
from proxy.gateway import SHUTTING_DOWN, Gateway
from proxy.held_bytes import HOLD, Hold, read_whole
from proxy.limits import ACCOUNT
from proxy.record import Record
from proxy.request_deadline import request_deadline
from proxy.sse import MAX_EVENT_BYTES, event_data, whole_events
from proxy.wire import (
    ClientGone,
    ClientWatch,
    Headers,
    Receive,
    Scope,
    Send,
    send_end,
    send_start,
    send_whole,
)
from proxy.wire_error import ApiError, error_code, from_backend_error, from_backend_reply
from routing.deadline import Deadline
from routing.decision import Route
from routing.errors import BackendBroken, BackendError
from routing.protocols import Backend, BackendReply, BackendRequest
from routing.tier import Tier

_TAIL_BYTES = 4096  # a usage object stands within this much of either end
_USAGE = re.compile(rb'"usage" ?: ?(\{(?:[^{}]|\{[^{}]*\})*\})')
_END = re.compile(rb'"response\.(?:completed|incomplete|failed)"|"type" ?: ?"error"|\ndata: ?\[DONE\]')
_NUMBER = re.compile(rb'"sequence_number" ?: ?(\d+)')
_SSE: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Form(Protocol):
    """Completes what a backend leaves out of an API's answers; what conforms stays the same bytes."""

    def plain(self, body: bytes) -> bytes: ...

    def events(self, events: bytes) -> bytes: ...


Declines = Callable[[int, bytes], bool]  # (status, body of an error): this backend has no such API


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call goes. `index` is the tier's place on the ladder; None for a backend that is no tier."""

    tier: Tier
    backend: Backend
    index: int | None = None


@dataclass(slots=True)
class _Exchange:
    send: Send
    record: Record
    headers: Headers
    hold: Hold
    deadline: Deadline
    needs: str
    form: Form | None
    started: bool = False


class PassThrough:
    """One call to one backend, with the gateway's accounts and limits."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def serve(
        self, label: str, scope: Scope, receive: Receive, send: Send, target: Target,
        path: str, body: bytes, *, stream: bool = False, method: str = "POST",
        declines: Declines | None = None, needs: str = "", form: Form | None = None,
    ) -> bool:  # fmt: skip
        """Answer the request whose body has been read; `label` names the API in metrics, `needs` the field
        without which an answer is none, `form` what an answer has to look like. Raises `ApiError` 400 for a
        deadline that is none.

        False: `declines` recognised the error, nothing was sent, somebody else has to answer.
        """
        gateway = self._gateway
        deadline = request_deadline(scope, gateway.settings.server.request_timeout_s)
        record = Record(
            label, request_id(scope), strategy="pinned", stream=stream, account=scope.get(ACCOUNT)
        )
        gateway.recorder.open(record, scope)
        exchange = _Exchange(
            send, record, opening_headers(record.request_id, gateway.cors.headers(scope)),
            scope.get(HOLD) or Hold(), deadline, needs, form,
        )  # fmt: skip
        forwarded = {"x-request-id": record.request_id, **traced(scope)}
        request = BackendRequest(path, body, stream, forwarded, None, method)
        answered = True
        gateway.metrics.in_flight.inc()
        try:
            answered = await self._admitted(exchange, target, request, scope, receive, declines)
        except Exception:
            note_bug(record)
            raise
        finally:
            gateway.metrics.in_flight.dec()
            if answered:
                record.total_s = time.perf_counter() - record.started
                gateway.recorder.finish(record)
        return answered

    async def _admitted(
        self, exchange: _Exchange, target: Target, request: BackendRequest, scope: Scope, receive: Receive,
        declines: Declines | None,
    ) -> bool:  # fmt: skip
        """Wait for a place, then do the work as long as the client is there."""
        admission = self._gateway.admission
        try:
            await admission.enter_for(scope)
        except ApiError as error:
            await self._fail(exchange, error)
            return True
        except ClientGone:
            exchange.record.outcome = "cancelled"
            return True
        answered = True
        try:
            async with ClientWatch(scope, receive) as client:
                try:
                    answered = await self._exchange(exchange, target, request, declines)
                except asyncio.CancelledError:
                    if not client.gone:  # a shutdown whose grace is over
                        await self._fail(exchange, SHUTTING_DOWN)
                    raise
            if client.gone:
                exchange.record.outcome = "cancelled"
        finally:
            admission.leave()
        return answered

    async def _exchange(
        self, exchange: _Exchange, target: Target, request: BackendRequest, declines: Declines | None
    ) -> bool:
        record, tier = exchange.record, target.tier
        route = Route(target.index or 0, "pinned", "pinned", "pinned")
        recorder, use = self._gateway.recorder, None
        if target.index is not None:
            record.route = route
            use = recorder.begin(record, target.index)
        request.timeout_s = exchange.deadline.left_s()
        request.headers = recorder.onward(record, use, request.headers)
        exchange.headers += decision_headers(route, tier.name, tier.model)
        try:
            reply = await target.backend.send(request)
            try:
                if not 200 <= reply.status < 300:
                    body = await read_whole(reply, exchange.hold)
                    if declines is not None and declines(reply.status, body):
                        if use is not None:
                            recorder.end(use, "error")  # this record is never finished
                        return False
                    raise from_backend_reply(reply.status, body, reply.headers, tier.name)
                await self._relay(exchange, target, reply, request.stream)
            except BackendBroken:
                if isinstance(reply, HttpReply):
                    reply.disown()
                raise
            finally:
                await reply.close()
        except BackendError as error:
            await self._fail(exchange, from_backend_error(error, tier.name))
        except ApiError as error:
            await self._fail(exchange, error)
        return True

    async def _relay(self, exchange: _Exchange, target: Target, reply: BackendReply, stream: bool) -> None:
        record = exchange.record
        record.status = reply.status
        if stream:
            await self._relay_stream(exchange, target, reply)
            return
        body = await read_whole(reply, exchange.hold)
        check_answer(body, exchange.needs)
        self._count(record, target, body[:_TAIL_BYTES] + body[-_TAIL_BYTES:])
        exchange.headers += passed_on(reply.headers)
        exchange.headers += [
            (b"x-upshift-cost-usd", b"%.10g" % record.cost_usd),
            processing_ms(record.started),
        ]
        if exchange.form is not None:
            body = exchange.form.plain(body)
        await send_whole(exchange.send, reply.status, exchange.headers, body)

    async def _relay_stream(self, exchange: _Exchange, target: Target, reply: BackendReply) -> None:
        """Whole events as they come. Raises `BackendBroken` when the end is not one the API knows."""
        kind = reply.headers.get("content-type", "")
        if not kind.lower().startswith("text/event-stream"):
            raise BackendBroken(f"a stream was asked for, {kind or 'no content type'} came")
        tail = b"\n"
        async for piece in whole_pieces(reply.chunks(), exchange.hold):
            tail = (tail + piece)[-_TAIL_BYTES:]
            if not exchange.started:
                await self._start_stream(exchange, reply)
            if exchange.form is not None:
                piece = exchange.form.events(piece)
            await exchange.send({"type": "http.response.body", "body": piece, "more_body": True})
        if not _END.search(tail):
            raise BackendBroken("the stream ended before its last event")
        self._count(exchange.record, target, tail)
        await send_end(exchange.send)

    async def _start_stream(self, exchange: _Exchange, reply: BackendReply) -> None:
        record = exchange.record
        record.first_byte_s = time.perf_counter() - record.started
        exchange.headers += [*passed_on(reply.headers), *_SSE, processing_ms(record.started)]
        exchange.started = True
        await send_start(exchange.send, reply.status, exchange.headers)

    def _count(self, record: Record, target: Target, ends: bytes) -> None:
        """Tokens and cost, from the last usage object in `ends`; the answer was served."""
        usage = Usage()
        for found in _USAGE.findall(ends):
            usage = _read_usage(found)
        if target.index is None:
            record.other_tokens = usage.prompt_tokens + usage.completion_tokens
        else:
            use = record.uses[-1]
            self._gateway.recorder.end(use, "ok", usage, target.tier)
            use.served = True

    async def _fail(self, exchange: _Exchange, error: ApiError) -> None:
        """An error status while that is possible, else an event in the form of the Responses API."""
        record = exchange.record
        record.error = error.code or error.kind
        record.outcome = failed_outcome(error)
        if exchange.started:
            detail = {"type": "error", **{k: v for k, v in error.payload().items() if k != "type"}}
            await send_end(exchange.send, b"event: error\ndata: " + orjson.dumps(detail) + b"\n\n")
            return
        record.status = error.status
        if error.status in (400, 404, 413, 422):
            record.outcome = "client_error"
        kept = (item for item in exchange.headers if item[0] != b"content-type")
        headers = [*kept, *error.headers(), processing_ms(record.started)]
        await send_whole(exchange.send, error.status, headers, error.body())


async def whole_pieces(pieces: AsyncIterator[bytes], hold: Hold) -> AsyncIterator[bytes]:
    """The same bytes, cut only between events, so that an error event of ours never follows half of another.
    Raises `BackendBroken` for an event that is too long."""
    held: list[bytes] = []
    count = 0
    async for piece in pieces:
        data, whole = piece, 0
        if not held or b"\n" in piece:
            data = b"".join([*held, piece])
            if whole := whole_events(data):
                yield data[:whole]
            hold.take(-count)
            held, count = [], 0
        if rest := data[whole:]:
            hold.take(len(rest))
            held.append(rest)
            count += len(rest)
            if count > MAX_EVENT_BYTES:
                raise BackendBroken(f"an event is longer than {MAX_EVENT_BYTES} bytes")
    if held and (rest := b"".join(held).strip(b"\r\n")):
        last = rest + b"\n\n"
        if (data := event_data(last)) and data != b"[DONE]":
            decode_event(data)  # a last event may lack its blank line, but not its half
        yield last


def lacks_api(status: int, body: bytes) -> bool:
    """Whether an error means that the URL is unknown, and not the model or a stored response."""
    if status not in (404, 405, 501):
        return False
    words = error_code(body)
    return "model" not in words and "resp_" not in words


def check_answer(body: bytes, needs: str) -> None:
    """Raises `BackendBroken` for a 200 that is no answer: no JSON object, an error, or not what it needs."""
    try:
        fields = decode_fields(body)
    except ApiError as error:
        raise BackendBroken("the answer is not a JSON object") from error
    if fields.get("error", b"null") != b"null" and "object" not in fields:
        raise BackendBroken("an error came with status 200")
    if not fields or fields.get(needs, b"[]" if needs else b"") in (b"[]", b"null", b'""'):
        raise BackendBroken(f"the answer holds no {needs or 'field'}")


def _read_usage(found: bytes) -> Usage:
    """`prompt_tokens` and `completion_tokens`, or the Responses API's `input_tokens` and `output_tokens`."""
    try:
        data = orjson.loads(found)
    except orjson.JSONDecodeError:
        return Usage()
    prompt = data.get("prompt_tokens", data.get("input_tokens"))
    completion = data.get("completion_tokens", data.get("output_tokens"))
    if not isinstance(prompt, int | None) or not isinstance(completion, int | None):
        return Usage()
    return Usage(prompt or 0, completion or 0, known=prompt is not None)

"""One request on its way to an answer: what is known of it, and the only ways to send something back.

Whatever is sent passes here, so one place knows whether the first byte is out: before it a failure is a
status, after it an error event and a proper end.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from proxy.answer_headers import processing_ms
from proxy.call import Call
from proxy.held_bytes import Hold
from proxy.keepalive import COMMENT
from proxy.record import Outcome, Record
from proxy.wire import Headers, Send, send_end, send_pieces, send_start, send_whole
from proxy.wire_error import ApiError, Overloaded
from routing.deadline import Deadline

_SSE = (b"content-type", b"text/event-stream; charset=utf-8")
_OF_AN_ANSWER = frozenset(
    {b"content-type", b"content-length", b"x-upshift-cost-usd", b"openai-processing-ms"}
)
_NO_CACHE = (b"cache-control", b"no-cache")


@dataclass(slots=True)
class Exchange:
    """One request. `headers` grow as more is known; `forwarded` are the client's headers a backend gets."""

    send: Send
    call: Call
    record: Record
    headers: Headers
    deadline: Deadline
    forwarded: Mapping[str, str]
    hold: Hold
    session: bytes | None = None  # which session the call belongs to, where sessions are kept
    started: bool = False  # the response's first byte is out: no error status, no switch any more

    async def send_plain(self, status: int, body: bytes) -> None:
        """An answer in one piece, with what it cost."""
        self.headers.append((b"x-upshift-cost-usd", b"%.10g" % self.record.cost_usd))
        self.headers.append(processing_ms(self.record.started))
        self.record.status = status
        await send_whole(self.send, status, self.headers, body)

    async def send_stream(self, status: int, pieces: AsyncIterator[bytes]) -> None:
        """A committed stream. Raises `BackendError` when it breaks, before or after the first byte."""
        record = self.record
        record.status = status
        first = await anext(pieces, b"")  # a stream that breaks before any byte is still an error status
        await self._start_stream()
        record.first_byte_s = time.perf_counter() - record.started
        await self.send({"type": "http.response.body", "body": first, "more_body": True})
        await send_pieces(self.send, pieces)
        await send_end(self.send)

    async def show_life(self) -> None:
        """A comment while the answer is held back; it gives up the headers' chance to tell a decision."""
        await self._start_stream()
        await self.send({"type": "http.response.body", "body": COMMENT, "more_body": True})

    async def fail(self, error: ApiError, upstream: bool = True) -> None:
        """Report a failure: a status while that is possible, an error event after the first byte."""
        if self.started:
            self.record.error = error.code or error.kind
            self.record.outcome = failed_outcome(error)
            await send_end(self.send, b"data: " + error.body() + b"\n\n")
            return
        await send_error(self.send, self.record, self.headers, error, upstream=upstream)

    async def _start_stream(self) -> None:
        """Headers out, unless signs of life have sent them already."""
        if not self.started:
            self.headers += [_SSE, _NO_CACHE, processing_ms(self.record.started)]
            self.started = True
            await send_start(self.send, 200, self.headers)


def failed_outcome(error: ApiError) -> Outcome:
    """What a request counts as that failed by no fault of its client."""
    if isinstance(error, Overloaded):
        return "shed"
    return "timeout" if error.status == 504 else "upstream_error"


def note_bug(record: Record) -> None:
    """A request ends by an exception that nobody expected: the server answers it with 500, or breaks off."""
    record.outcome, record.error = "upstream_error", "internal_error"


async def send_error(
    send: Send, record: Record, headers: Headers, error: ApiError, upstream: bool = False
) -> None:
    """An error as the whole answer. `upstream`: a backend's fault, whatever the status."""
    record.status, record.error = error.status, error.code or error.kind
    if upstream or error.status >= 500:
        record.outcome = failed_outcome(error)
    else:
        record.outcome = "client_error"
    kept = (item for item in headers if item[0] not in _OF_AN_ANSWER)  # of what failed
    headers = [*kept, *error.headers(), processing_ms(record.started)]
    await send_whole(send, error.status, headers, error.body())

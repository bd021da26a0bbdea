"""One HTTP/1.1 connection to a backend: bytes out, and a parsed reply in, one exchange at a time.

It is written for what a proxy does and nothing else: no redirects, cookies or decompression. One write sends
a whole request, a reply that comes in one piece wakes its reader once, and limits of time cost one timer in
a connection's life instead of one for every wait. httptools (llhttp) does the parsing and the framing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from routing.errors import BackendBroken, BackendError, BackendStale

_HIGH_BYTES = 1 << 17  # read and not yet taken: beyond it the backend has to wait
_HEAD_BYTES = 1 << 18  # longest head of a reply
_NEVER = float("inf")
_TICK_S = 0.002  # the event loop's clock counts milliseconds: a timer may come this much early


class HttpConnection(asyncio.Protocol):
    """`send`, `wait` until `begun`, then `take` and `wait` until `complete`; or there is a `failure`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[HttpConnection], None]) -> None:
        self._loop = loop
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._limit_at = _NEVER
        self._exchanges = 0
        self._busy = False
        self._reusable = True
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        """Forget the exchange before this one."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.begun = False  # status and headers are there
        self.complete = False  # the body has come to its end; some of it may still be to take
        self.failure: BackendError | None = None
        self._pieces: list[bytes] = []
        self._held = 0  # bytes of the body not yet taken, or of a head not yet complete
        self._heard = False  # any byte of the reply
        self._paused = False

    # --- what a backend does with it ---

    @property
    def usable(self) -> bool:
        """Whether another exchange may begin on it."""
        return self._reusable and not self._busy and self._transport is not None

    def send(self, head: bytes, body: bytes) -> None:
        """Write a request. Raises `BackendStale` when the connection has been closed meanwhile."""
        if self._transport is None:
            raise BackendStale("the connection was closed before a request")
        assert not self._busy, "one exchange at a time"
        if self._exchanges:
            self._reset()
        self._exchanges += 1
        self._busy = True
        if len(body) < 1 << 16:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    async def wait(self, limit_at: float = _NEVER) -> None:
        """Until there is more of the reply, or its end. Raises `TimeoutError` at `limit_at` (loop time)."""
        self._limit_at = limit_at
        if limit_at < self._timer_at:
            self._set_timer(limit_at)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """What has come of the body and was not taken before; b'' for nothing."""
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces = []
        self._held = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self) -> bool:
        """The exchange is over. False, and closed, where the connection cannot be used again."""
        self._busy = False
        if self.complete and self._reusable and self._transport is not None:
            return True
        self.abort()
        return False

    def abort(self) -> None:
        """Close at once, whatever is under way: the backend sees it and stops."""
        self._reusable = False
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type
        self._parser = HttpResponseParser(self)
        # What other clients accept from servers in the field, and what cannot change where a reply ends.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or not self._busy or self.complete:
            self.abort()  # bytes that nobody asked for: what follows could be taken for the next reply
            return
        self._heard = True
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._reusable = False
            if not self.complete:
                self._fail(BackendBroken("the reply is not valid HTTP"))
            self._wake()  # a whole reply may stand before what could not be read
            return
        if not self.begun:
            self._held += len(data)
            if self._held > _HEAD_BYTES:
                self._fail(BackendBroken(f"the head of the reply is longer than {_HEAD_BYTES} bytes"))
            return
        if (
            self._held > _HIGH_BYTES
            and not self._paused
            and not self.complete
            and self._transport is not None
        ):
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self._parser = None
        self._reusable = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._busy and not self.complete and self.failure is None:
            if self.begun and exc is None and self._ends_with_connection:
                self.complete = True
                self._wake()
            else:
                self._fail(self._broken_off(exc))
        self._on_lost(self)

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self.complete:
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.begun:  # afterwards come trailers, which nobody reads
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue and its like precede the reply
            self.headers = {}
            return
        self.status = status
        self.begun = True
        self._held = 0

    def on_body(self, body: bytes) -> None:
        if self.begun and not self.complete:
            self._pieces.append(body)
            self._held += len(body)

    def on_message_complete(self) -> None:
        if self.begun and not self.complete:
            assert self._parser is not None
            self.complete = True
            self._reusable = self._reusable and self._parser.should_keep_alive()

    # --- inside ---

    @property
    def _ends_with_connection(self) -> bool:
        """Whether the body has no other end (RFC 9112, section 6.3, rule 8)."""
        return "content-length" not in self.headers and "chunked" not in self.headers.get(
            "transfer-encoding", ""
        )

    def _broken_off(self, exc: Exception | None) -> BackendError:
        how = "closed" if exc is None else "reset"
        if self.begun:
            return BackendBroken("the body ended before its end")
        if self._heard:
            return BackendBroken(f"the connection was {how} inside the head of the reply")
        kind = BackendStale if self._exchanges > 1 else BackendBroken
        return kind(f"the connection was {how} before a reply")

    def _fail(self, error: BackendError) -> None:
        self.failure = error
        self.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._check_time)

    def _check_time(self) -> None:
        """The timer's limit may have been moved since it was set; then it is set again."""
        self._timer, self._timer_at = None, _NEVER
        waiter = self._waiter
        if waiter is None or waiter.done() or self._limit_at == _NEVER:
            return
        if self._loop.time() >= self._limit_at - _TICK_S:
            waiter.set_exception(TimeoutError())
        else:
            self._set_timer(self._limit_at)

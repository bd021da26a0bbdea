"""A client's connection: uvicorn's HTTP protocol with bounds on silence and a shutdown that loses nothing.

A client that stops in the middle of its request, or that takes nothing of its answer, is cut off after a
limit; the cut reaches the request as a disconnect, which frees the backend. The timers cost nothing while a
connection moves: one is set only when a request is incomplete or the write buffer is full.

At shutdown uvicorn closes every connection whose request it has not parsed yet, also one whose first bytes it
has read. Here such a request is answered, and an idle connection may bring one more for a moment: a client
that sent its request just before it saw the close would otherwise fail.

Headers and trailers are bounded, which httptools leaves to its user: what comes since the request began, or
since the last piece of its body, may not be more than `max_header_bytes`. However steadily they trickle,
headers may take no longer than `client_read_timeout_s` in all, and the whole request than
`client_body_timeout_s`. A connection that brings no request at all is closed after the same time, and what
comes beyond `max_connections` is told so: idle clients must not use up the files that backends need.

What cannot be read ends a connection, but takes no answer from a request before it: the 400 never comes in
the place, or in the middle, of an answer that is still owed.
"""

from __future__ import annotations

import asyncio
import resource
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.cycle import Cycle
from proxy.settings import ServerSettings
from proxy.wire_error import ApiError, Overloaded


class Connection(HttpToolsProtocol):
    """See the module. `limits` is set by `connection_class`."""

    limits = ServerSettings()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reading = False  # a request has begun and is not complete
        self._draining = False
        self._in_head = False
        self._chunk_bytes = 0  # the piece being parsed
        self._head_bytes = 0  # come since the request began, or since the last piece of its body
        self._deaf = False  # what came could not be read: nothing that follows is listened to
        self._begun_at = 0.0  # on the loop's clock
        self._answering: Cycle | None = None  # the request at work; `cycle` is the last one that came
        self._default_headers = self.server_state.default_headers
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Too many at a time are told so; one that stays silent is closed like one that has fallen silent."""
        super().connection_made(transport)
        limits = self.limits
        if limits.max_connections and len(self.connections) > limits.max_connections:
            self._deaf = True
            self._end_with(
                Overloaded(f"{limits.max_connections} connections are open", limits.shed_retry_after_s)
            )
        elif limits.client_read_timeout_s:
            self.timeout_keep_alive_task = self.loop.call_later(
                limits.client_read_timeout_s, self.timeout_keep_alive_handler
            )

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._chunk_bytes = len(data)
        self._head_bytes += self._chunk_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(400, "Invalid HTTP request received.")
        except httptools.HttpParserUpgrade:
            pass  # refused with its headers
        if self._reading and self._head_bytes > self.limits.max_header_bytes:
            self._refuse_head()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
        if self._reading:
            self._watch_reading()

    def on_message_begin(self) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._reading = self._in_head = True
        self._head_bytes, self._begun_at = self._chunk_bytes, self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """As uvicorn's own, for HTTP without upgrades, and with our cycle."""
        limit = self.limits.max_header_bytes
        if self._head_bytes > limit and sum(len(name) + len(value) for name, value in self.headers) > limit:
            self._refuse_head()
        parser = self.parser
        version = parser.get_http_version()
        if (fault := self._fault(version)) is not None:
            self._refuse(400, fault)
        if self._deaf:
            return
        self._in_head = False
        self._head_bytes = 0
        scope: Any = self.scope
        scope["method"] = parser.get_method().decode("ascii")
        scope["http_version"] = version
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        keep_alive = version != "1.0" and parser.should_keep_alive() and not self._draining
        before = self.cycle
        self.cycle = cycle = Cycle(
            scope, self.transport, self.flow, keep_alive, self.expect_100_continue,
            self.on_response_complete, self._default_headers,
        )  # fmt: skip
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # a pipelined request waits for the answer before it
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _fault(self, version: str) -> str | None:
        """What makes the headers those of no request, or of one that two servers could read in two ways
        (RFC 9112, sections 3.2, 6.1 and 6.3)."""
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and (version == "1.0" or value.strip().lower() != b"chunked"):
                return "The only transfer coding is 'chunked', of HTTP/1.1."
        if hosts > 1 or (not hosts and version != "1.0"):
            return f"There must be one Host header, {hosts} came."
        if self.parser.should_upgrade():
            return "No other protocol is spoken here: leave out the header Upgrade."
        return None

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if not self._deaf and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        self._reading = False
        if not self.transport.is_closing():
            super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        limit_s = self.limits.client_write_timeout_s
        if limit_s and self._write_timer is None:
            self._write_timer = self.loop.call_later(limit_s, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._read_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        self._reading = False
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnect()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """Answer what has begun, then close; an idle connection is closed a moment later."""
        self._draining = True
        if not self._idle:
            if self.cycle is not None:
                self.cycle.keep_alive = False
        elif self.limits.shutdown_idle_s:
            self.loop.call_later(self.limits.shutdown_idle_s, self._close_if_idle)
        else:
            self.transport.close()

    def abort(self) -> None:
        """Cut the connection, whatever is still to be written."""
        if not self.transport.is_closing() or self._write_timer is not None:
            self.transport.abort()

    @property
    def _idle(self) -> bool:
        return not self._reading and (self.cycle is None or self.cycle.response_complete)

    def _close_if_idle(self) -> None:
        if self._idle and not self.transport.is_closing():
            self.transport.close()

    def _watch_reading(self) -> None:
        silence_s, whole_s = self.limits.client_read_timeout_s, self.limits.client_body_timeout_s
        if self._in_head:
            whole_s = min(whole_s, silence_s) or whole_s or silence_s
        wait_s = silence_s or whole_s
        if whole_s:
            wait_s = min(wait_s, max(0.0, self._begun_at + whole_s - self.loop.time()))
        if wait_s or whole_s:
            self._read_timer = self.loop.call_later(wait_s, self._stop_reading)

    def _stop_reading(self) -> None:
        self._read_timer = None
        if self.flow.read_paused:  # the server holds the client back, not the other way round
            self._watch_reading()
            return
        self.transport.abort()

    def _refuse_head(self) -> None:
        """Too many bytes of headers, trailers or chunk extensions."""
        self._refuse(431, f"The headers are larger than {self.limits.max_header_bytes} bytes.")

    def _refuse(self, status: int, message: str) -> None:
        """What came cannot be read, nor what follows it. Requests before it are owed their answers first."""
        if self._deaf:
            return
        self._deaf = True
        in_body, self._reading = self._reading and not self._in_head, False
        owed = self._answering
        if owed is None or owed.response_complete:
            self._end_with(ApiError(status, message, code="invalid_http"))
        elif in_body and owed is self.cycle:  # its own body
            if owed.response_started:
                self.transport.abort()
            else:
                self._end_with(ApiError(status, message, code="invalid_http"))
        else:
            if in_body:
                self.pipeline.popleft()  # the request whose body it is waits last
            self.cycle = self.pipeline[0][0] if self.pipeline else owed
            self.cycle.keep_alive = False

    def _end_with(self, error: ApiError) -> None:
        if self.transport.is_closing():
            return
        body = error.body()
        head = [b"HTTP/1.1 %d %s" % (error.status, HTTPStatus(error.status).phrase.encode())]
        head += [name + b": " + value for name, value in error.headers()]
        head += [b"content-length: %d" % len(body), b"connection: close", b"", body]
        self.transport.write(b"\r\n".join(head))
        self.transport.close()

    def _abort(self) -> None:
        self._write_timer = None
        self.transport.abort()


def connection_class(server: ServerSettings) -> type[Connection]:
    """`Connection` with the limits of `server`."""
    if not server.max_connections:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = 0 if files == resource.RLIM_INFINITY else max(1, files * 3 // 4)
        server = server.model_copy(update={"max_connections": most})
    return type("Connection", (Connection,), {"limits": server})

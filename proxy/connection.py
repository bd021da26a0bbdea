"""A client's connection: uvicorn's HTTP protocol with bounds on silence and a shutdown that loses nothing.

A client that stops in the middle of its request, or that takes nothing of its answer, is cut off after a
limit; the cut reaches the request as a disconnect, which frees the backend. The timers cost nothing while a
connection moves: one is set only when a request is incomplete or the write buffer is full.

At shutdown uvicorn closes every connection whose request it has not parsed yet, also one whose first bytes it
has read. Here such a request is answered, and an idle connection may bring one more for a moment: a client
that sent its request just before it saw the close would otherwise fail.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.cycle import Cycle
from proxy.settings import ServerSettings


class Connection(HttpToolsProtocol):
    """See the module. `limits` is set by `connection_class`."""

    limits = ServerSettings()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reading = False  # a request has begun and is not complete
        self._draining = False
        self._answering: Cycle | None = None  # the request at work; `cycle` is the last one that came
        self._default_headers = self.server_state.default_headers
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
        if self._reading:
            self._watch_reading()

    def on_message_begin(self) -> None:
        self._reading = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """As uvicorn's own, for HTTP without upgrades, and with our cycle."""
        parser = self.parser
        scope: Any = self.scope
        version = parser.get_http_version()
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

    def on_message_complete(self) -> None:
        self._reading = False
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
        if limit_s := self.limits.client_read_timeout_s:
            self._read_timer = self.loop.call_later(limit_s, self._stop_reading)

    def _stop_reading(self) -> None:
        self._read_timer = None
        if self.flow.read_paused:  # the server holds the client back, not the other way round
            self._watch_reading()
            return
        self.transport.abort()

    def _abort(self) -> None:
        self._write_timer = None
        self.transport.abort()


def connection_class(server: ServerSettings) -> type[Connection]:
    """`Connection` with the limits of `server`."""
    return type("Connection", (Connection,), {"limits": server})

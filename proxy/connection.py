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

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.settings import ServerSettings


class Connection(HttpToolsProtocol):
    """See the module. `limits` is set by `connection_class`."""

    limits = ServerSettings()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reading = False  # a request has begun and is not complete
        self._draining = False
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
        super().on_headers_complete()
        if self._draining:
            self.cycle.keep_alive = False

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
        super().connection_lost(exc)

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

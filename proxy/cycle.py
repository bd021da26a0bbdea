"""One request and its answer on a client's connection: uvicorn's cycle with one write an answer.

The head of an answer waits for the first bytes of its body and leaves with them: a write is a system call,
the dearest thing on the way of a small answer. Who works on a request can also ask to be called when the
client leaves (`scope["extensions"]["upshift.disconnect"]`), which spares a second task for every request.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from proxy.wire_error import ApiError

ON_DISCONNECT = "upshift.disconnect"
_log = logging.getLogger("uvicorn.error")
_BODILESS = frozenset({204, 304})


class Cycle(RequestResponseCycle):
    """See the module. Built by `proxy.connection`, called by the application."""

    def __init__(
        self, scope: dict[str, Any], transport: asyncio.Transport, flow: FlowControl,
        keep_alive: bool, expect_100_continue: bool, on_response: Callable[[], None],
        default_headers: list[tuple[bytes, bytes]],
    ) -> None:  # fmt: skip
        scope["extensions"] = {ON_DISCONNECT: self.call_on_disconnect}
        self.logger = _log
        self.scope = scope  # type: ignore[assignment]
        self.transport = transport
        self.flow = flow
        self.default_headers = default_headers
        self.message_event = asyncio.Event()
        self.on_response = on_response
        self.disconnected = False
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expect_100_continue
        self.body = bytearray()
        self.more_body = True
        self.response_started = False
        self.response_complete = False
        self.chunked_encoding = False
        self.expected_content_length = 0
        self._head = b""  # ready, and waiting for the body
        self._until_close = False  # the answer ends with the connection
        self._on_disconnect: Callable[[], object] | None = None

    def call_on_disconnect(self, callback: Callable[[], object] | None) -> None:
        """Call it once when the client leaves before its answer is complete; None: no longer."""
        self._on_disconnect = callback
        if callback is not None and self.disconnected:
            self.disconnect()

    def disconnect(self) -> None:
        """The client has gone."""
        self.disconnected = True
        self.message_event.set()
        told, self._on_disconnect = self._on_disconnect, None
        if told is not None:
            told()

    async def run_asgi(self, app: Any) -> None:
        """As uvicorn's own, but a bug is told in OpenAI's shape, and logged without what it quotes."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the client gets an answer or an end
            if not isinstance(error, asyncio.CancelledError):
                frames = "".join(traceback.format_tb(error.__traceback__))
                _log.error("unexpected %s while answering a request\n%s", type(error).__name__, frames)
        finally:
            self.on_response, done = lambda: None, self.on_response
            del self.scope["extensions"]  # it refers back to this: a cycle for each request
        if self.response_complete or self.disconnected:
            return
        if self.response_started:
            self.transport.close()
            return
        bug = ApiError(500, "The server had an error while processing your request.", retry=None)
        body = bug.body()
        headers = [*bug.headers(), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        self.on_response = done
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.start" and not self.response_started:
            self._start(message["status"], [*self.default_headers, *message.get("headers", ())])
        else:
            raise RuntimeError(f"an ASGI message {kind!r} that does not belong here")

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        length: bytes | None = None
        lines = []
        for name, value in headers:
            if name == b"content-length":
                length = value
            elif name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if length is not None:
            self.expected_content_length = int(length)
        elif self.scope["method"] != "HEAD" and status not in _BODILESS:
            self._until_close = self.scope["http_version"] == "1.0"  # such a client knows no chunks
            self.chunked_encoding = not self._until_close
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise RuntimeError("a header of the answer holds a line break")
        self._head = b"%b%b\r\n" % (STATUS_LINE[status], head)

    def _send_body(self, body: bytes, more: bool) -> None:
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            body, self.expected_content_length = b"", 0
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        elif not self._until_close:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the answer is longer than its content-length")
        if head or body:
            self.transport.write(head + body)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("the answer is shorter than its content-length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

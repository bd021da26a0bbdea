"""A backend over HTTP: any OpenAI-compatible URL, on pooled keep-alive connections.

The client below it is our own (`proxy.backends.connection`): half of what a proxied request costs is spent
here, and a general client does much that a proxy never needs. It stays behind this file. Four limits hold
together: connect, first byte, between bytes, and what is left of the request's deadline, which also ends an
answer that keeps trickling.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from proxy.backends.connection import HttpConnection
from proxy.backends.pool import ConnectionPool
from routing.errors import BackendBroken, BackendError, BackendTimeout, BackendUnavailable
from routing.protocols import BackendRequest

_HEADS_KEPT = 64
_NEVER = float("inf")
_SECRET_CHARS = 8  # a shorter key could be any word of an answer
_REDACTED = b"[redacted]"
End = Literal["done", "broken", "abandoned", "disowned"]


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """Seconds; 0 means no limit."""

    connect_s: float = 5.0
    first_byte_s: float = 300.0
    between_bytes_s: float = 60.0


class HttpReply:
    """A reply whose body is read once. `headers` have lower-case names.

    `on_end` is called once: `done` (read to its end), `broken`, or `abandoned` (closed before its end); after
    `done` it may hear `disowned`: what came was no answer.
    """

    __slots__ = (
        "_between_s", "_connection", "_end_at", "_kept", "_max_bytes", "_on_disowned", "_pool", "_secret",
        "_stage", "_total",
        "headers", "on_end", "status",
    )  # fmt: skip

    def __init__(
        self,
        connection: HttpConnection,
        pool: ConnectionPool,
        between_s: float,
        end_at: float = _NEVER,
        stage: str = "total",
        max_bytes: int = 0,
        secret: bytes = b"",
    ) -> None:
        """`end_at` is on the event loop's clock; `max_bytes` 0 means no bound; `secret` is taken out."""
        self._connection: HttpConnection | None = connection
        self._pool = pool
        self._between_s = between_s or _NEVER
        self._end_at = end_at
        self._stage = stage
        self._max_bytes = max_bytes
        self._secret = secret
        self._kept = b""  # may be the beginning of the secret
        self._total = 0
        self.on_end: Callable[[End], None] | None = None
        self._on_disowned: Callable[[End], None] | None = None
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers

    async def read(self) -> bytes:
        """The whole body. Raises `BackendBroken`, `BackendTimeout`."""
        first = await self.piece()
        if self._connection is None and not self._kept:
            return first
        pieces = [first]
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `BackendBroken`, `BackendTimeout`."""
        while piece := await self.piece():
            yield piece

    async def piece(self) -> bytes:
        """What has come since the last one, at least a byte; b'' at the end. Raises as `chunks`."""
        connection = self._connection
        if connection is None:
            return self._rest()
        clock = asyncio.get_running_loop().time
        while True:
            if self._end_at != _NEVER and clock() >= self._end_at:
                raise self._fail(BackendTimeout("the time for an answer is up", self._stage))
            if piece := connection.take():
                self._count(piece)
                if connection.complete:
                    self._finish(connection)
                if piece := self._without_secret(piece):
                    return piece
                continue
            if connection.complete:
                self._finish(connection)
                return self._rest()
            if connection.failure is not None:
                raise self._fail(connection.failure)
            now = clock()
            limit_at, stage = min((now + self._between_s, "between_bytes"), (self._end_at, self._stage))
            try:
                await connection.wait(limit_at)
            except TimeoutError as error:
                raise self._fail(BackendTimeout(f"no byte for {limit_at - now:.3g} s", stage)) from error

    async def close(self) -> None:
        """Back to the pool when the body was read to its end; otherwise the connection is closed at once."""
        connection = self._connection
        if connection is None:
            return
        if connection.complete:
            self._finish(connection)
        else:
            self._connection = None
            connection.abort()
            self._tell("abandoned")

    def _count(self, piece: bytes) -> None:
        self._total += len(piece)
        if self._max_bytes and self._total > self._max_bytes:
            raise self._fail(BackendBroken(f"the answer is larger than {self._max_bytes} bytes"))

    def _without_secret(self, piece: bytes) -> bytes:
        """A backend may quote its key in an error. A piece that ends like the beginning of the key waits for
        the next one."""
        if not self._secret:
            return piece
        secret, data = self._secret, self._kept + piece
        if secret in data:
            data = data.replace(secret, _REDACTED)
        self._kept = b""
        if self._connection is None:
            return data
        start = data.find(secret[:1], max(0, len(data) - len(secret) + 1))
        while start >= 0 and not secret.startswith(data[start:]):
            start = data.find(secret[:1], start + 1)
        if start < 0:
            return data
        self._kept = data[start:]
        return data[:start]

    def _rest(self) -> bytes:
        kept, self._kept = self._kept, b""
        return kept

    def disown(self) -> None:
        """What came is no answer, whatever HTTP says of it: the backend has failed."""
        if self.on_end is not None:
            self._tell("broken")
        elif self._on_disowned is not None:
            told, self._on_disowned = self._on_disowned, None
            told("disowned")

    def _finish(self, connection: HttpConnection) -> None:
        self._connection = None
        self._pool.give_back(connection)
        self._tell("done")

    def _fail(self, error: BackendError) -> BackendError:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._tell("broken")
        return error

    def _tell(self, end: End) -> None:
        told, self.on_end = self.on_end, None
        if end == "done":
            self._on_disowned = told
        if told is not None:
            told(end)


class HttpBackend:
    """One base URL. Made outside an event loop; connections open with the first request."""

    def __init__(
        self,
        url: str,
        api_key: str = "",
        timeouts: HttpTimeouts | None = None,
        tls: ssl.SSLContext | bool = True,
        max_answer_bytes: int = 0,
    ) -> None:
        """`tls`: whom to trust (False: anyone); `max_answer_bytes` bounds one answer's body; 0: no bound."""
        self._url = parts = urlsplit(url.rstrip("/"))
        self._timeouts = timeouts or HttpTimeouts()
        self._max_bytes = max_answer_bytes
        self._tls = tls
        self._secret = api_key.encode() if len(api_key) >= _SECRET_CHARS else b""
        self._headers = {
            "host": parts.netloc.rpartition("@")[2],
            "content-type": "application/json",
            "accept-encoding": "identity",
        }
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        elif parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._heads: dict[tuple[str, str], bytes] = {}
        self._pool: ConnectionPool | None = None

    async def send(self, request: BackendRequest) -> HttpReply:
        """Raises `BackendUnavailable`, `BackendTimeout`, `BackendStale`, `BackendBroken`."""
        pool = self._pool or self._open_pool()
        limits = self._timeouts
        now = asyncio.get_running_loop().time()
        limit_s, stage, end_at = limits.first_byte_s or _NEVER, "first_byte", _NEVER
        if request.timeout_s is not None:
            end_at = now + request.timeout_s
            if request.timeout_s < limit_s:
                limit_s, stage = request.timeout_s, request.timeout_stage
        connection = None if request.fresh else pool.take()
        if connection is None:
            connection = await self._connect(pool, limit_s, stage)
        try:
            connection.send(self._head(request), request.body)
            while not connection.begun:
                if connection.failure is not None:
                    raise connection.failure
                await connection.wait(now + limit_s)
            if "content-encoding" in connection.headers and connection.status < 300:
                _check_encoding(connection.headers)
        except TimeoutError as error:
            connection.abort()
            raise BackendTimeout(f"no reply within {limit_s:.3g} s", stage) from error
        except BaseException:
            connection.abort()
            raise
        return HttpReply(
            connection, pool, limits.between_bytes_s, end_at, request.timeout_stage, self._max_bytes,
            self._secret,
        )  # fmt: skip

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    async def _connect(self, pool: ConnectionPool, limit_s: float, stage: str) -> HttpConnection:
        connect_s = self._timeouts.connect_s or _NEVER
        message = f"no connection within {min(connect_s, limit_s):.3g} s"
        try:
            async with asyncio.timeout(min(connect_s, limit_s)):
                return await pool.open()
        except TimeoutError as error:
            raise BackendTimeout(message, "connect" if connect_s <= limit_s else stage) from error
        except (OSError, ValueError, RuntimeError) as error:  # uvloop raises RuntimeError for a lost socket
            raise BackendUnavailable(_describe(error)) from error

    def _open_pool(self) -> ConnectionPool:
        tls = None
        if self._url.scheme == "https":
            tls = self._tls if isinstance(self._tls, ssl.SSLContext) else _context(self._tls)
        port = self._url.port or (80 if tls is None else 443)
        self._pool = ConnectionPool(self._url.hostname or "", port, tls)
        return self._pool

    def _head(self, request: BackendRequest) -> bytes:
        """The request's line and headers. What is the same for every request is put together once."""
        key = (request.method, request.path)
        own = self._headers
        if not own.keys().isdisjoint(request.headers):
            lines = _lines({name: value for name, value in own.items() if name not in request.headers})
            fixed = self._request_line(*key) + lines
        elif (kept := self._heads.get(key)) is not None:
            fixed = kept
        else:
            if len(self._heads) >= _HEADS_KEPT:  # paths with ids in them
                self._heads.clear()
            fixed = self._heads[key] = self._request_line(*key) + _lines(own)
        return b"%b%bcontent-length: %d\r\n\r\n" % (fixed, _lines(request.headers), len(request.body))

    def _request_line(self, method: str, path: str) -> bytes:
        target = self._url.path + path
        if not target.isascii() or not target.isprintable() or " " in target:
            raise BackendBroken(f"the path {target[:200]!r} is not that of a URL")
        return f"{method} {target} HTTP/1.1\r\n".encode()


def _check_encoding(headers: Mapping[str, str]) -> None:
    """Raises `BackendBroken` for an answer that nobody here could read."""
    encoding = headers["content-encoding"].strip().lower()
    if encoding not in ("", "identity"):
        raise BackendBroken(f"the answer is encoded ({encoding[:40]}), which was not asked for")


def _context(verify: bool) -> ssl.SSLContext:
    return ssl.create_default_context() if verify else ssl._create_unverified_context()


def _lines(headers: Mapping[str, str]) -> bytes:
    """Header lines. Raises `BackendBroken` for a value that would be more than one."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise BackendBroken("a header holds a line break")
    return lines.encode("latin-1")


def _describe(error: Exception) -> str:
    """The kind of failure, without addresses."""
    if isinstance(error, socket.gaierror):
        return "the host name does not resolve"
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return "the TLS handshake failed"
    if isinstance(error, ConnectionError):
        return "the connection was refused"
    return f"no connection: {type(error).__name__}"

"""A backend over HTTP: any OpenAI-compatible URL, on pooled keep-alive connections.

aiohttp's client is used directly: on the machine this was measured on it costs a third of plain httpx per
request. It stays behind this file; everything it can raise is translated here. Four limits hold together:
connect, first byte, between bytes, and what is left of the request's deadline, which also ends an answer
that keeps trickling.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from routing.errors import BackendBroken, BackendError, BackendStale, BackendTimeout, BackendUnavailable
from routing.protocols import BackendRequest

_PIECE_BYTES = 1 << 16
_URLS_KEPT = 64
_WHOLE_BYTES = 1 << 20  # where aiohttp begins to warn of blocking the event loop
_NO_CEILING_S = 1e9  # aiohttp rounds timeouts above its threshold up to a full second: never here
End = Literal["done", "broken", "abandoned"]

# Sockets opened for the request of this context: none means that a pooled connection was used, and one that
# the other side had closed already is safe to repeat on.
_opened: ContextVar[list[int] | None] = ContextVar("opened", default=None)


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """Seconds; 0 means no limit."""

    connect_s: float = 5.0
    first_byte_s: float = 300.0
    between_bytes_s: float = 60.0


class HttpReply:
    """A reply whose body is read once. `headers` have lower-case names.

    `on_end` is called once: `done` (read to its end), `broken`, or `abandoned` (closed before its end).
    """

    __slots__ = ("_between_s", "_end_at", "_max_bytes", "_response", "_stage", "headers", "on_end", "status")

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        between_s: float,
        end_at: float | None = None,
        stage: str = "total",
        max_bytes: int = 0,
    ) -> None:
        """`end_at` is on the event loop's clock; `max_bytes` 0 means no bound."""
        self._response = response
        self._between_s = between_s or None
        self._end_at = end_at
        self._stage = stage
        self._max_bytes = max_bytes
        self.on_end: Callable[[End], None] | None = None
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    async def read(self) -> bytes:
        """The whole body. Raises `BackendBroken`, `BackendTimeout`."""
        pieces = [piece async for piece in self.chunks()]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `BackendBroken`, `BackendTimeout`."""
        content = self._response.content
        clock = asyncio.get_running_loop().time
        total = 0
        while True:
            if self._end_at is not None and clock() >= self._end_at:
                raise self._fail(BackendTimeout("the time for an answer is up", self._stage))
            try:
                piece = content.read_nowait(-1) if content.total_bytes and not content.at_eof() else b""
                if not piece:
                    limit_s, stage = self._silence(clock())
                    async with asyncio.timeout(limit_s):
                        piece = await content.readany()
            except TimeoutError as error:
                raise self._fail(BackendTimeout(f"no byte for {limit_s:.3g} s", stage)) from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise self._fail(BackendBroken(_describe(error))) from error
            if not piece:
                self._response.release()
                self._tell("done")
                return
            total += len(piece)
            if self._max_bytes and total > self._max_bytes:
                raise self._fail(BackendBroken(f"the answer is larger than {self._max_bytes} bytes"))
            yield piece

    async def close(self) -> None:
        """Back to the pool when the body was read to its end; otherwise the connection is closed at once."""
        if self._response.content.at_eof():
            self._response.release()
            self._tell("done")
        else:
            self._response.close()
            self._tell("abandoned")

    def _silence(self, now: float) -> tuple[float | None, str]:
        """How long the next byte may take, and which limit that is."""
        if self._end_at is not None and (self._between_s is None or self._end_at - now < self._between_s):
            return self._end_at - now, self._stage
        return self._between_s, "between_bytes"

    def _fail(self, error: BackendError) -> BackendError:
        self._response.close()
        self._tell("broken")
        return error

    def _tell(self, end: End) -> None:
        told, self.on_end = self.on_end, None
        if told is not None:
            told(end)


class HttpBackend:
    """One base URL. Made outside an event loop; its session opens with the first request."""

    def __init__(
        self,
        url: str,
        api_key: str = "",
        timeouts: HttpTimeouts | None = None,
        verify_tls: bool = True,
        max_answer_bytes: int = 0,
    ) -> None:
        """`max_answer_bytes` bounds one answer's body; 0: no bound."""
        self._url = url.rstrip("/")
        self._timeouts = timeouts or HttpTimeouts()
        self._max_bytes = max_answer_bytes
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._tls: ssl.SSLContext | bool = verify_tls
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: BackendRequest) -> HttpReply:
        """Raises `BackendUnavailable`, `BackendTimeout`, `BackendStale`, `BackendBroken`."""
        session = self._session or self._open()
        limits = self._timeouts
        first_byte_s, stage = limits.first_byte_s or None, "first_byte"
        end_at = None
        if request.timeout_s is not None:
            end_at = asyncio.get_running_loop().time() + request.timeout_s
            if first_byte_s is None or request.timeout_s < first_byte_s:
                first_byte_s, stage = request.timeout_s, request.timeout_stage
        headers = CIMultiDict(self._headers)
        headers.update(request.headers)
        opened: list[int] = []
        token = _opened.set(opened)
        try:
            async with asyncio.timeout(first_byte_s):
                response = await session.request(
                    request.method,
                    self._target(request.path),
                    data=_payload(request.body),
                    headers=headers,
                    allow_redirects=False,
                )
        except aiohttp.ConnectionTimeoutError as error:
            raise BackendTimeout(f"no connection within {limits.connect_s:.3g} s", "connect") from error
        except TimeoutError as error:
            raise BackendTimeout(f"no reply within {first_byte_s:.3g} s", stage) from error
        except aiohttp.ClientConnectorError as error:
            raise BackendUnavailable(_describe(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if not opened and _closed_unanswered(error):
                raise BackendStale(_describe(error)) from error
            raise BackendBroken(_describe(error)) from error
        finally:
            _opened.reset(token)
        return HttpReply(response, limits.between_bytes_s, end_at, request.timeout_stage, self._max_bytes)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=30.0, ttl_dns_cache=60, ssl=self._tls, socket_factory=_open_socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._timeouts.connect_s or None, ceil_threshold=_NO_CEILING_S
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("user-agent", "accept"),
            read_bufsize=_PIECE_BYTES,
        )
        return self._session

    def _target(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            if len(self._urls) >= _URLS_KEPT:  # paths with ids in them
                self._urls.clear()
            url = self._urls[path] = URL(self._url + path, encoded=True)
        return url


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    """A large body is written in pieces, so that other requests get their turn in between."""
    return io.BytesIO(body) if len(body) > _WHOLE_BYTES else body or None


def _open_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A new connection's socket, noted in the context of the request that needs it."""
    family, kind, protocol, _, _ = address
    opened = _opened.get()
    if opened is not None:
        opened.append(1)
    new = socket.socket(family, kind, protocol)
    new.setblocking(False)
    return new


def _closed_unanswered(error: Exception) -> bool:
    """Whether a connection was closed before any byte of a reply."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return not isinstance(error.message, aiohttp.http.RawResponseMessage)
    return isinstance(error, ConnectionResetError | BrokenPipeError | aiohttp.ClientOSError)


def _describe(error: Exception) -> str:
    """The kind of failure, without addresses or bytes of the answer."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name does not resolve"
    if isinstance(error, aiohttp.ClientSSLError):
        return "the TLS handshake failed"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "the connection was refused"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the body ended before its end"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before a reply"
    return type(error).__name__

"""A backend over HTTP: any OpenAI-compatible URL, on pooled keep-alive connections.

aiohttp's client is used directly: on the machine this was measured on it costs a third of plain httpx per
request. It stays behind this file; everything it can raise is translated here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from routing.errors import BackendBroken, BackendTimeout, BackendUnavailable
from routing.protocols import BackendRequest

_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """Seconds; 0 means no limit."""

    connect_s: float = 5.0
    first_byte_s: float = 300.0
    between_bytes_s: float = 60.0


class HttpReply:
    """A reply whose body is read once. `headers` have lower-case names."""

    __slots__ = ("_between_s", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, between_s: float) -> None:
        self._response = response
        self._between_s = between_s or None
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    async def read(self) -> bytes:
        """The whole body. Raises `BackendBroken`, `BackendTimeout`."""
        pieces = [piece async for piece in self.chunks()]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `BackendBroken`, `BackendTimeout`."""
        content = self._response.content
        while True:
            try:
                piece = content.read_nowait(-1) if content.total_bytes and not content.at_eof() else b""
                if not piece:
                    async with asyncio.timeout(self._between_s):
                        piece = await content.readany()
            except TimeoutError as error:
                self._response.close()
                raise BackendTimeout(f"no byte for {self._between_s} s", "between_bytes") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                self._response.close()
                raise BackendBroken(_describe(error)) from error
            if not piece:
                self._response.release()
                return
            yield piece

    async def close(self) -> None:
        """Back to the pool when the body was read to its end; otherwise the connection is closed at once."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class HttpBackend:
    """One base URL. Made outside an event loop; its session opens with the first request."""

    def __init__(
        self, url: str, api_key: str = "", timeouts: HttpTimeouts | None = None, verify_tls: bool = True
    ) -> None:
        self._url = url.rstrip("/")
        self._timeouts = timeouts or HttpTimeouts()
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._tls: ssl.SSLContext | bool = verify_tls
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: BackendRequest) -> HttpReply:
        """Raises `BackendUnavailable`, `BackendTimeout`, `BackendBroken`."""
        session = self._session or self._open()
        limits = self._timeouts
        first_byte_s = limits.first_byte_s or None
        stage = "first_byte"
        if request.timeout_s is not None and (first_byte_s is None or request.timeout_s < first_byte_s):
            first_byte_s, stage = request.timeout_s, "total"
        headers = CIMultiDict(self._headers)
        headers.update(request.headers)
        try:
            async with asyncio.timeout(first_byte_s):
                response = await session.request(
                    request.method,
                    self._target(request.path),
                    data=request.body or None,
                    headers=headers,
                    allow_redirects=False,
                )
        except aiohttp.ConnectionTimeoutError as error:
            raise BackendTimeout(f"no connection within {limits.connect_s} s", "connect") from error
        except TimeoutError as error:
            raise BackendTimeout(f"no reply within {first_byte_s:.3g} s", stage) from error
        except aiohttp.ClientConnectorError as error:
            raise BackendUnavailable(_describe(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise BackendBroken(_describe(error)) from error
        return HttpReply(response, limits.between_bytes_s)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0, ttl_dns_cache=60, ssl=self._tls)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect_s or None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("user-agent", "accept"),
            read_bufsize=_PIECE_BYTES,
        )
        return self._session

    def _target(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self._url + path, encoded=True)
        return url


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

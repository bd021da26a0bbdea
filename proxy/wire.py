"""ASGI in and out: read a body within bounds, send an answer, and stop the work when the client has gone."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from proxy.cycle import ON_DISCONNECT
from proxy.held_bytes import HOLD, Hold
from proxy.wire_error import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON_TYPE = re.compile(rb"\s*(?:application/json|[\w.-]+/[\w.+-]+\+json)\s*(?:;|\Z)", re.IGNORECASE)


class ClientGone(Exception):
    """The client closed its connection before the request was whole."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that name (lower case)."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The request's body, gzip undone. Raises `ApiError` 413, 415, 400, 503, and `ClientGone`."""
    kind = header(scope, b"content-type")
    if kind is not None and not kind.startswith(b"application/json") and not _JSON_TYPE.match(kind):
        raise ApiError(
            415, f"Content-Type '{kind[:80].decode('latin-1')}' is not supported; use application/json."
        )
    length = header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    hold: Hold = scope.get(HOLD) or Hold()
    pieces: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        total += len(piece)
        if total > max_bytes:
            raise _too_large(max_bytes)
        hold.take(len(piece))
        pieces.append(piece)
        if not message.get("more_body", False):
            break
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    encoding = (header(scope, b"content-encoding") or b"identity").strip().lower()
    if encoding in (b"identity", b""):
        return body
    if encoding not in (b"gzip", b"x-gzip"):
        raise ApiError(
            415, f"Content-Encoding '{encoding[:40].decode('latin-1')}' is not supported; use gzip or none."
        )
    unpacked = _gunzip(body, max_bytes)
    hold.take(len(unpacked))
    return unpacked


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    """Bounded: a small body that would unfold to gigabytes stops at the limit."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        out = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise ApiError(400, "The body is not valid gzip.") from error
    if len(out) > max_bytes:
        raise _too_large(max_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise ApiError(400, "The gzip body must be one whole gzip member.")
    return out


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        413, f"The body of the request is larger than {max_bytes} bytes.", code="request_too_large"
    )


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A whole answer; the length is added here."""
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_start(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def send_pieces(send: Send, pieces: AsyncIterator[bytes]) -> None:
    """Pieces of a started answer, without its end."""
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def send_end(send: Send, body: bytes = b"") -> None:
    await send({"type": "http.response.body", "body": body})


class ClientWatch:
    """Cancels the task it was made in as soon as the client closes its connection.

    Used as an async context manager around the work of one request; the body must have been read. Our own
    server calls when it happens (`proxy.cycle`); under any other a second task waits for the message.
    """

    __slots__ = ("_receive", "_register", "_watcher", "_work", "gone")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._register = scope.get("extensions", {}).get(ON_DISCONNECT)
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self._work: asyncio.Task[Any] | None = None
        self.gone = False

    async def __aenter__(self) -> ClientWatch:
        self._work = asyncio.current_task()
        if self._register is not None:
            self._register(self._stop)
        else:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        if self._register is not None:
            self._register(None)
        if self._watcher is not None:
            self._watcher.cancel()
        if self.gone and kind is asyncio.CancelledError:
            assert self._work is not None
            return self._work.uncancel() == 0  # only our own cancellation is swallowed
        return False

    def _stop(self) -> None:
        self.gone = True
        if self._work is not None:
            self._work.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._stop()

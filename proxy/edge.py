"""Around every request that is not proxied: preflights, HEAD, bounded bodies, and the same headers.

Proxied calls never come here. For the rest this does in one place what a stack of middleware would: read
the body within its bound (gzip undone), and put request id, CORS and
timing on every answer, errors included. CORS covers the API only: pages of other origins have no business
with metrics, the console or `/admin`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from proxy.answer_headers import opening_headers, processing_ms, request_id
from proxy.gateway import Gateway
from proxy.replay import replayed, with_body
from proxy.responses.stored import StoredResponses, stored_methods
from proxy.wire import (
    ClientGone,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    read_body,
    send_end,
    send_start,
    send_whole,
)
from proxy.wire_error import ApiError

Handler = Callable[[Scope, Receive, Send], Awaitable[object]]


class Edge:
    """`direct` are the POST-only paths that bypass FastAPI, `inner` is FastAPI."""

    def __init__(
        self, gateway: Gateway, direct: Mapping[str, Handler], stored: StoredResponses, inner: Handler
    ) -> None:
        self._gateway = gateway
        self._direct = direct
        self._stored = stored
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        api = path.startswith("/v1/") or path in self._direct
        cors = self._gateway.cors.headers(scope) if api else []
        stamp = _Stamp(send, opening_headers(request_id(scope), cors))
        try:
            if api:
                await self._serve_api(scope, receive, stamp)
            else:
                await self._serve_rest(_as_get(_untyped(scope)), receive, stamp)
        except ApiError as error:
            await send_whole(stamp, error.status, error.headers(), error.body())
        except ClientGone:
            return

    async def _serve_api(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `ApiError`, `ClientGone`."""
        gateway, method = self._gateway, scope["method"]
        path = scope["path"].rstrip("/")
        methods = ("POST",) if path in self._direct else stored_methods(path)
        if method == "OPTIONS":
            headers = gateway.cors.preflight(scope)
            if methods is not None:
                headers.append((b"allow", _allow(methods).encode()))
            await send_start(send, 204, headers)
            await send_end(send)
            return
        if methods is not None:
            if method not in methods:
                raise ApiError(
                    405, f"{method} is not allowed on {path}; use {' or '.join(methods)}.",
                    code="method_not_allowed", allow=_allow(methods),
                )  # fmt: skip
            handler = self._direct.get(path, self._stored)
            await handler({**scope, "path": path}, receive, send)
            return
        await self._serve_rest(_as_get({**scope, "path": path}), receive, send)

    async def _serve_rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI's part, with a body that is bounded. Raises `ApiError`, `ClientGone`."""
        if scope["method"] in ("POST", "PUT", "PATCH"):
            body = await read_body(scope, receive, self._gateway.settings.server.max_body_bytes)
            scope, receive = with_body(scope, body), replayed(body, receive)
        await self._inner(scope, receive, send)


class _Stamp:
    """An ASGI `send` that adds the headers an answer lacks."""

    __slots__ = ("_headers", "_send", "_started")

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send = send
        self._headers = headers
        self._started = time.perf_counter()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message["headers"])
            there = {name for name, _ in headers}
            headers += [item for item in self._headers if item[0] not in there]
            if b"openai-processing-ms" not in there:
                headers.append(processing_ms(self._started))
            message = {**message, "headers": headers}
        await self._send(message)


def _as_get(scope: Scope) -> Scope:
    """HEAD is GET to the routes; the server leaves the body out."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def _untyped(scope: Scope) -> Scope:
    """The operator's endpoints take JSON whatever a body calls itself: `curl -d` says it is a form."""
    return {**scope, "headers": [item for item in scope["headers"] if item[0] != b"content-type"]}


def _allow(methods: tuple[str, ...]) -> str:
    return ", ".join((*methods, "OPTIONS"))

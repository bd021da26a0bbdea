"""The door: who may come in, before anything of a request is read.

Every request passes here once, so no endpoint can forget to ask. What is open: health, the API's
documentation, the console's page and preflights. The API asks for a key with the right scope, where there are
keys at all. The operator's paths (`/metrics`, `/admin`) are for a key with their scope, for
their own port (`server.admin_port`, then only there), or for a client on this machine that no proxy stands in
front of and no web page speaks through.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable

from proxy.answer_headers import Cors, opening_headers, processing_ms, request_id
from proxy.auth import ApiKey, KeyRing
from proxy.limits import ACCOUNT, Account, Meter, clock, limit_headers
from proxy.wire import ClientGone, Headers, Message, Receive, Scope, Send, header, send_whole
from proxy.wire_error import ApiError

Handler = Callable[[Scope, Receive, Send], Awaitable[object]]
Refuse = Callable[[str, Scope, Send, ApiError | ClientGone], Awaitable[None]]
LABELS = {
    "/v1/chat/completions": "chat_completions",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
    "/v1/route": "route",
    "/v1/feedback": "feedback",
    "/chat": "chat",
}
KEY_ID = "upshift.key_id"  # in the scope: which key opened the door; absent: none was needed
_OPEN = frozenset({"/healthz", "/readyz"})
_LOCAL_HOST = re.compile(rb"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.IGNORECASE)
_ADDED_BY_PROXIES = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")


class Door:
    """`refuse` answers and counts a refused call to one of the proxied paths."""

    def __init__(self, keys: KeyRing, meter: Meter, admin_port: int, refuse: Refuse, cors: Cors) -> None:
        """`admin_port` 0: there is none."""
        self._keys = keys
        self._meter = meter
        self._admin_port = admin_port
        self._refuse = refuse
        self._cors = cors

    async def let_in(self, handler: Handler, scope: Scope, receive: Receive, send: Send) -> None:
        """`handler` answers whoever may come in."""
        path = scope["path"]
        try:
            if self._admin_port or not path.startswith("/v1/"):
                self._check_place(scope, path)
            key = self._identify(scope, path)
        except ApiError as error:
            await self._turn_away(scope, send, error)
            return
        if key is not None:
            scope[KEY_ID] = key.id
        if key is None or key.limits is None or path not in LABELS or scope["method"] != "POST":
            await handler(scope, receive, send)
            return
        await self._let_in_limited(key, handler, scope, receive, send)

    async def _let_in_limited(
        self, key: ApiKey, handler: Handler, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            used = await self._meter.admit(key)
        except ApiError as error:
            await self._turn_away(scope, send, error)
            return
        scope[ACCOUNT] = Account(key, self._meter)
        await handler(scope, receive, _LimitStamp(send, limit_headers(key, used, clock())))

    async def _turn_away(self, scope: Scope, send: Send, error: ApiError) -> None:
        path, started = scope["path"], time.perf_counter()
        if path in LABELS:
            await self._refuse(LABELS[path], scope, send, error)
            return
        cors = self._cors.headers(scope) if path.startswith("/v1/") else []
        headers = [*opening_headers(request_id(scope), cors), *error.headers(), processing_ms(started)]
        await send_whole(send, error.status, headers, error.body())

    def _check_place(self, scope: Scope, path: str) -> None:
        """Raises `ApiError` 404 on the port that a path is not for."""
        if not self._admin_port:
            return
        here = scope["server"][1] == self._admin_port
        if path not in _OPEN and here != (_is_operators(path) or _is_console(path)):
            raise ApiError(404, f"Unknown URL: {scope['method']} {path}.", code="unknown_url")

    def _identify(self, scope: Scope, path: str) -> ApiKey | None:
        """The key; None where none is needed. Raises `ApiError` 401, 403."""
        if _is_operators(path):
            return self._identify_operator(scope, path)
        api = path.startswith("/v1/") or path in LABELS
        if not api or self._keys.open or scope["method"] == "OPTIONS":
            return None
        key = self._keys.find(header(scope, b"authorization"))
        if path.startswith("/v1/models"):
            return key
        key.require(_scope_of(path.rstrip("/"), key))
        return key

    def _identify_operator(self, scope: Scope, path: str) -> ApiKey | None:
        wanted = "metrics" if path.startswith("/metrics") else "admin"
        if (wanted == "metrics" and self._admin_port) or _is_local(scope):
            return None
        authorization = header(scope, b"authorization")
        if authorization is not None:
            key = self._keys.find(authorization)
            key.require(wanted)
            return key
        raise ApiError(
            401, f"{path} is for this machine, for the admin port, or for a key with the scope '{wanted}'.",
            code="missing_api_key",
        )  # fmt: skip


def _scope_of(path: str, key: ApiKey) -> str:
    """The scope that a path of the API asks for. Who may ask may also say how good the answer was."""
    if path == "/v1/embeddings":
        return "embeddings"
    return "feedback" if path == "/v1/feedback" and "feedback" in key.scopes else "chat"


class _LimitStamp:
    """An ASGI `send` that tells a key's own limits, and not those of a backend."""

    __slots__ = ("_headers", "_send")

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send = send
        self._headers = headers

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [item for item in message["headers"] if not item[0].startswith(b"x-ratelimit-")]
            message = {**message, "headers": kept + self._headers}
        await self._send(message)


def _is_console(path: str) -> bool:
    """The console's page, which holds no figure and is open; what it shows comes from `/admin`."""
    return path == "/console" or path.startswith("/console/")


def _is_operators(path: str) -> bool:
    return path.rstrip("/") == "/metrics" or path == "/admin" or path.startswith("/admin/")


def _is_local(scope: Scope) -> bool:
    """Whether the client is a program on this machine.

    A reverse proxy on this machine would make every client look so, and a web page can make its visitor's
    browser ask (by a form, or by a name that resolves to loopback), so none of their marks may be there.
    """
    client = scope.get("client")
    if client is None or not (client[0] == "::1" or client[0].startswith("127.")):
        return False
    names = {name for name, _ in scope["headers"]}
    if any(name in names for name in _ADDED_BY_PROXIES):
        return False
    if b"origin" in names and scope["method"] not in ("GET", "HEAD"):
        return False
    return _LOCAL_HOST.fullmatch(header(scope, b"host") or b"localhost") is not None

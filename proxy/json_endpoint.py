"""The frame of a small endpoint of our own: read the body, answer with an object or refuse, as everywhere."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from proxy.answer_headers import opening_headers, processing_ms, request_id
from proxy.gateway import Gateway
from proxy.wire import ClientGone, Receive, Scope, Send, read_body, send_whole
from proxy.wire_error import ApiError

Answer = Callable[[bytes, Scope], Awaitable[dict[str, Any]]]  # of the body; raises `ApiError`


class JsonEndpoint:
    """ASGI around `answer`; a refusal is counted under `label`."""

    def __init__(self, gateway: Gateway, label: str, answer: Answer) -> None:
        self._gateway = gateway
        self._label = label
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway, started = self._gateway, time.perf_counter()
        try:
            body = await read_body(scope, receive, gateway.settings.server.max_body_bytes)
            told = await self._answer(body, scope)
        except (ApiError, ClientGone) as error:
            await gateway.refuse(self._label, scope, send, error)
            return
        headers = opening_headers(request_id(scope), gateway.cors.headers(scope))
        headers += [(b"content-type", b"application/json"), processing_ms(started)]
        await send_whole(send, 200, headers, orjson.dumps(told))

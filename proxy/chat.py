"""POST /chat: the shortest way in. It builds a chat completion, lets the gateway answer it, and reshapes.

Fields it does not know go on to the backend as the bytes that came, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.call import check_type, decode_fields, kind_of, load_field, string_field
from proxy.gateway import Gateway
from proxy.record import Record
from proxy.replay import replayed, with_body
from proxy.wire import ClientGone, Message, Receive, Scope, Send, read_body, send_whole
from proxy.wire_error import ApiError
from scorers.text import render_answer

_LABEL = "chat"
_OWN = frozenset({"prompt", "system", "strategy", "threshold", "stream", "model", "n"})
_NULL = b"null"


class ChatEndpoint:
    """The endpoint."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        try:
            body = await read_body(scope, receive, gateway.settings.server.max_body_bytes)
            completion = build_completion(decode_fields(body))
        except (ApiError, ClientGone) as error:
            await gateway.refuse(_LABEL, scope, send, error)
            return
        caught = _Caught()
        record = await gateway.serve(
            "chat", with_body(scope, completion), replayed(completion, receive), caught, _LABEL
        )
        if not caught.status:  # the client has gone: there is nobody to answer
            return
        body = _answer(caught, record) if caught.status == 200 else caught.body
        headers = [item for item in caught.headers if item[0] != b"content-length"]
        await send_whole(send, caught.status, headers, body)


def build_completion(fields: Mapping[str, bytes]) -> bytes:
    """The chat completion that answers a `/chat` body. Raises `ApiError` 400 that names the field."""
    prompt = string_field(fields, "prompt")
    if not prompt:
        got = "an empty one" if prompt == "" else kind_of(prompt)
        raise ApiError(400, f"'prompt' must be a non-empty string, got {got}.", param="prompt")
    _refuse(fields)
    messages = [b'{"role":"user","content":' + fields["prompt"] + b"}"]
    if string_field(fields, "system") is not None:
        messages.insert(0, b'{"role":"system","content":' + fields["system"] + b"}")
    rest = {name: raw for name, raw in fields.items() if name not in _OWN and raw != _NULL}
    rest["model"] = fields["model"] if fields.get("model", _NULL) != _NULL else b'"upshift"'
    rest["messages"] = b"[" + b",".join(messages) + b"]"
    if options := _options(fields):
        rest["upshift"] = orjson.dumps(options)
    return b"{" + b",".join(orjson.dumps(name) + b":" + raw for name, raw in rest.items()) + b"}"


def _refuse(fields: Mapping[str, bytes]) -> None:
    """What `/chat` has no answer for, rather than ignoring it."""
    check_type(fields, "stream", (bool,), "a boolean")
    if fields.get("stream") == b"true":
        raise ApiError(
            400, "'/chat' answers in one piece; to stream, use /v1/chat/completions.", param="stream"
        )
    if fields.get("n", b"1") not in (b"1", _NULL):
        raise ApiError(400, "'/chat' gives one answer: 'n' must be 1 or absent.", param="n")
    if "messages" in fields:
        raise ApiError(
            400, "'/chat' takes 'prompt' and 'system'; for 'messages', use /v1/chat/completions.",
            param="messages",
        )  # fmt: skip
    limit = load_field(fields, "max_tokens") if "max_tokens" in fields else None
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 1):
        raise ApiError(
            400, f"'max_tokens' must be an integer of at least 1, got {limit!r}.", param="max_tokens"
        )


def _options(fields: Mapping[str, bytes]) -> dict[str, Any]:
    """`strategy` and `threshold` as the body field `upshift`; its other keys stay."""
    check_type(fields, "upshift", (dict,), "an object")
    given = load_field(fields, "upshift") if fields.get("upshift", _NULL) != _NULL else {}
    strategy = string_field(fields, "strategy")
    check_type(fields, "threshold", (int, float), "a number")
    threshold = load_field(fields, "threshold") if "threshold" in fields else None
    if threshold is not None and not 0 <= threshold <= 1:
        raise ApiError(400, f"'threshold' must lie in [0, 1], got {threshold}.", param="threshold")
    own = {"strategy": strategy, "threshold": threshold}
    return {**given, **{name: value for name, value in own.items() if value is not None}}


class _Caught:
    """An ASGI `send` that keeps what it is given."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = list(message["headers"])
        else:
            self.body += message.get("body", b"")


def _answer(caught: _Caught, record: Record) -> bytes:
    """`/chat`'s own form of a chat completion's answer."""
    data = orjson.loads(caught.body)
    told = {name: value.decode("latin-1") for name, value in caught.headers}
    answer = {
        "model": told[b"x-upshift-model"],
        "score": _number(told.get(b"x-upshift-evaluator-score")),
        "text": render_answer(data["choices"][0].get("message")),
        "tier": told[b"x-upshift-tier"],
        "escalated": told[b"x-upshift-decision"] == "escalated",
        "route_score": _number(told.get(b"x-upshift-route-score")),
        "reason": told[b"x-upshift-reason"],
        "usage": data.get("usage") or {},
        "cost_usd": record.cost_usd,
        "latency_ms": record.total_s * 1e3,
        "request_id": record.request_id,
    }
    return orjson.dumps(answer)


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)

"""POST /chat: the shortest way in. It builds a chat completion, lets the gateway answer it, and reshapes."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from proxy.gateway import Gateway
from proxy.wire import Message
from scorers.text import render_answer


class ChatRequest(BaseModel):
    """One prompt. Unknown fields go on to the backend as they are."""

    model_config = ConfigDict(extra="allow")

    prompt: str = Field(min_length=1)
    system: str | None = None
    model: str = "upshift"
    strategy: str | None = None
    threshold: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)


class ChatAnswer(BaseModel):
    """The answer and how it came about. `score` is P(adequate) of the weak answer; null: not asked for."""

    model: str
    score: float | None
    text: str
    tier: str
    escalated: bool
    route_score: float | None
    reason: str
    usage: dict[str, Any]
    cost_usd: float
    latency_ms: float
    request_id: str


class _Caught:
    """An ASGI `send` that keeps what it is given."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")


async def answer_chat(gateway: Gateway, chat: ChatRequest, request: Request) -> Response:
    """The whole of `/chat`. Errors come out as the gateway made them."""
    body = orjson.dumps(_completion(chat))
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await request.receive()

    dropped = (b"content-length", b"content-encoding")
    headers = [item for item in request.scope["headers"] if item[0] not in dropped]
    caught = _Caught()
    record = await gateway.serve("chat", {**request.scope, "headers": headers}, receive, caught, label="chat")
    if caught.status != 200:
        return Response(caught.body, caught.status or 499, caught.headers)
    data = orjson.loads(caught.body)
    told = caught.headers
    answer = {
        "model": told["x-upshift-model"],
        "score": _number(told.get("x-upshift-evaluator-score")),
        "text": render_answer(data["choices"][0].get("message")),
        "tier": told["x-upshift-tier"],
        "escalated": told["x-upshift-decision"] == "escalated",
        "route_score": _number(told.get("x-upshift-route-score")),
        "reason": told["x-upshift-reason"],
        "usage": data.get("usage") or {},
        "cost_usd": record.cost_usd,
        "latency_ms": record.total_s * 1e3,
        "request_id": record.request_id,
    }
    kept = {name: value for name, value in told.items() if name.startswith("x-")}
    return JSONResponse(answer, headers=kept)


def _completion(chat: ChatRequest) -> dict[str, Any]:
    messages = [{"role": "user", "content": chat.prompt}]
    if chat.system is not None:
        messages.insert(0, {"role": "system", "content": chat.system})
    own = {"prompt", "system", "strategy", "threshold", "stream", "messages"}
    body = {name: value for name, value in chat.model_dump(exclude_none=True).items() if name not in own}
    body["messages"] = messages
    options = chat.model_dump(include={"strategy", "threshold"}, exclude_none=True)
    if options:
        body["upshift"] = options
    return body


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)

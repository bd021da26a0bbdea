"""An upstream that answers by what it is asked: the same prompt always gets the same answer.

`reply(body)` returns the text, or a `Fault`. Requests are counted by prompt and model, which is how a test
knows what a resumed run asked twice.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from tests.upstream import Upstream, _Answer

Body = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """An answer that is none: a status with OpenAI's error body, headers, or a body that is no JSON."""

    status: int
    message: str = "scripted"
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None


def ask_of(body: Body) -> str:
    """The last message's text."""
    return str(body["messages"][-1]["content"])


def echo(body: Body) -> str:
    return f"{body['model']} says: {ask_of(body)[::-1]}"


class Answering(Upstream):
    """`with Answering() as server:` then `server.url`; any model name is served."""

    def __init__(self, reply: Callable[[Body], str | Fault] = echo, delay_s: float = 0.0) -> None:
        super().__init__("any")
        self.reply = reply
        self.delay_s = delay_s
        self.asked: Counter[tuple[str, str]] = Counter()
        self.most_in_flight = 0

    def url_of(self, model: str) -> str:
        return f"{self.url}#{model}"

    async def _dispatch(self, request: web.Request, path: str, raw: bytes) -> web.StreamResponse:
        body = json.loads(raw)
        self.asked[(body["model"], ask_of(body))] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self.delay_s)
        result = self.reply(body)
        if isinstance(result, Fault):
            if result.raw is not None:
                return web.Response(status=result.status, body=result.raw, headers=result.headers)
            error = {"message": result.message, "type": "scripted", "param": None, "code": None}
            return web.json_response({"error": error}, status=result.status, headers=result.headers)
        script = replace(self.script, text=result)
        return web.json_response(_Answer(script, body, chat=True).plain())

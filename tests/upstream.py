"""An OpenAI-compatible backend for tests, on a real socket in a thread of its own.

It answers from its `script`, which a test sets, and keeps every request it saw as the bytes that came. It
speaks the whole of chat completions (n, tools, JSON schema, logprobs, stop at `max_tokens`, streams with and
without usage), completions, embeddings, and, unless `lacks` says otherwise, the Responses API.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web

USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@dataclass
class Script:
    """How the backend answers until a test says otherwise. Seconds in `_s`."""

    text: str = "The answer is 42, as far as anyone can tell."
    status: int = 200
    code: str | None = None
    retry_after: str | None = None
    raw_error: bytes | None = None  # the error's body, verbatim
    calls: list[tuple[str, str]] = field(default_factory=list)  # (name, arguments) of tool calls
    refusal: str | None = None
    finish_reason: str | None = None
    delay_s: float = 0.0  # before the first byte
    piece_delay_s: float = 0.0  # between stream chunks
    cut_bytes: int = 0  # write streams in pieces of this size, characters cut in two
    break_after_chunks: int | None = None  # drop the connection inside a stream
    lacks: frozenset[str] = frozenset()  # paths that are a 404, such as "/responses"


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class Upstream:
    """`with Upstream("weak-model") as backend:` then `backend.url`."""

    def __init__(self, model: str, key: str = "") -> None:
        self.model = model
        self.key = key
        self.script = Script()
        self.seen: list[Seen] = []
        self.in_flight = 0
        self.cancelled = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"upstream-{model}", daemon=True)
        self._ready = threading.Event()

    def reset(self) -> None:
        """As new."""
        self.script = Script()
        self.seen.clear()
        self.cancelled = 0

    @property
    def last(self) -> Seen:
        return self.seen[-1]

    def wait_until(self, true: Callable[[], bool], within_s: float = 2.0) -> bool:
        """Poll `true`; False when it stays false."""
        end = time.monotonic() + within_s
        while not true() and time.monotonic() < end:
            time.sleep(0.002)
        return true()

    def __enter__(self) -> Upstream:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/v1/{path:.*}", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.SockSite(runner, listening).start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path, raw = "/" + request.match_info["path"], await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, path, headers, raw))
        script = self.script
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return self._error(401, "invalid_api_key")
        if path in script.lacks:
            return web.json_response({"detail": "Not Found"}, status=404)
        self.in_flight += 1
        try:
            await asyncio.sleep(script.delay_s)
            if script.status != 200:
                return self._error(script.status, script.code)
            return await self._dispatch(request, path, raw)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1

    async def _dispatch(self, request: web.Request, path: str, raw: bytes) -> web.StreamResponse:
        if path == "/models":
            return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})
        if path.startswith("/responses/"):
            stored = {"id": path.split("/")[2], "object": "response", "status": "completed", "output": []}
            return web.json_response(stored)
        body = json.loads(raw)
        if body["model"] != self.model:
            return self._error(404, "model_not_found")
        if path == "/embeddings":
            return self._embeddings(body)
        if path == "/responses":
            return await self._responses(request, body)
        if path == "/chat/completions":
            return await self._complete(request, body, chat=True)
        if path == "/completions":
            return await self._complete(request, body, chat=False)
        return web.json_response({"detail": "Not Found"}, status=404)

    def _error(self, status: int, code: str | None) -> web.Response:
        script = self.script
        headers = {"retry-after": script.retry_after} if script.retry_after else {}
        if script.raw_error is not None:
            return web.Response(body=script.raw_error, status=status, headers=headers)
        error = {"message": f"scripted {status}", "type": "scripted", "param": None, "code": code}
        return web.json_response({"error": error}, status=status, headers=headers)

    async def _complete(self, request: web.Request, body: dict[str, Any], chat: bool) -> web.StreamResponse:
        answer = _Answer(self.script, body, chat)
        if not body.get("stream"):
            return web.json_response(answer.plain())
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        script = self.script
        for count, chunk in enumerate(answer.chunks()):
            if count == script.break_after_chunks:
                assert request.transport is not None
                request.transport.close()
                return response
            event = b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
            for piece in _cut(event, script.cut_bytes):
                await response.write(piece)
                if script.cut_bytes:
                    await asyncio.sleep(0)
            await asyncio.sleep(script.piece_delay_s)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _embeddings(self, body: dict[str, Any]) -> web.Response:
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [
            {"object": "embedding", "index": index, "embedding": [0.25, -1.5, float(len(str(text)))]}
            for index, text in enumerate(inputs)
        ]
        usage = {"prompt_tokens": 4, "total_tokens": 4}
        return web.json_response({"object": "list", "data": data, "model": self.model, "usage": usage})

    async def _responses(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Just enough of the API to tell that it was this backend, and not a translation, that answered."""
        response = {
            "id": "resp_native", "object": "response", "created_at": 1, "status": "completed",
            "model": self.model,
            "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "tools": [],
            "tool_choice": "auto", "parallel_tool_calls": True, "temperature": 1.0, "top_p": 1.0,
            "output": [{"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
                        "content": [{"type": "output_text", "text": "native", "annotations": []}]}],
            "usage": {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 6,
                      "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 11},
        }  # fmt: skip
        if not body.get("stream"):
            return web.json_response(response)
        out = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await out.prepare(request)
        for number, kind in enumerate(("response.created", "response.completed")):
            if number == self.script.break_after_chunks:
                break
            data = json.dumps({"type": kind, "sequence_number": number, "response": response})
            await out.write(f"event: {kind}\ndata: {data}\n\n".encode())
        await out.write_eof()
        return out


class _Answer:
    """One answer, plain or in chunks."""

    def __init__(self, script: Script, body: dict[str, Any], chat: bool) -> None:
        self._script = script
        self._body = body
        self._chat = chat
        self._count = min(int(body.get("n") or 1), 8)
        self._tokens = _tokens(script.text)
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        cut = limit is not None and 0 < limit < len(self._tokens)
        self._tokens = self._tokens[: int(limit)] if cut else self._tokens
        default = "tool_calls" if script.calls else ("length" if cut else "stop")
        self._finish = script.finish_reason or default
        self._head = {
            "id": "chatcmpl-scripted" if chat else "cmpl-scripted",
            "created": 1_700_000_001,
            "model": body["model"],
            "system_fingerprint": "fp_test",
        }

    def plain(self) -> dict[str, Any]:
        kind = "chat.completion" if self._chat else "text_completion"
        choices = [self._choice(index) for index in range(self._count)]
        return {**self._head, "object": kind, "choices": choices, "usage": USAGE}

    def chunks(self) -> list[dict[str, Any]]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        usage = (self._body.get("stream_options") or {}).get("include_usage")
        head = {**self._head, "object": kind, **({"usage": None} if usage else {})}
        count = self._count
        deltas = self._deltas()
        out = [{**head, "choices": [self._piece(index, delta)]} for delta in deltas for index in range(count)]
        out += [{**head, "choices": [self._piece(index, None)]} for index in range(count)]
        if usage:
            out.append({**head, "choices": [], "usage": USAGE})
        return out

    def _choice(self, index: int) -> dict[str, Any]:
        text = "".join(self._tokens)
        if not self._chat:
            return {"index": index, "text": text, "logprobs": None, "finish_reason": self._finish}
        script = self._script
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": script.refusal}
        if script.refusal or script.calls:
            message["content"] = None
        if script.calls:
            message["tool_calls"] = [_call(*call, index) for index, call in enumerate(script.calls)]
        logprobs = {"content": [_logprob(token) for token in self._tokens], "refusal": None}
        return {
            "index": index, "message": message, "finish_reason": self._finish,
            "logprobs": logprobs if self._body.get("logprobs") else None,
        }  # fmt: skip

    def _deltas(self) -> list[dict[str, Any]]:
        if not self._chat:
            return [{"text": token} for token in self._tokens]
        out: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        script = self._script
        if script.refusal:
            return out + [{"refusal": token} for token in _tokens(script.refusal)]
        for index, (name, arguments) in enumerate(script.calls):
            call = _call(name, "", index)
            out.append({"tool_calls": [{"index": index, **call}]})
            pieces = [arguments[start : start + 4] for start in range(0, len(arguments), 4)]
            out += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
        return out if script.calls else out + [{"content": token} for token in self._tokens]

    def _piece(self, index: int, delta: dict[str, Any] | None) -> dict[str, Any]:
        finish = self._finish if delta is None else None
        if not self._chat:
            text = "" if delta is None else delta["text"]
            return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        token = (delta or {}).get("content")
        logprobs = (
            {"content": [_logprob(token)], "refusal": None} if token and self._body.get("logprobs") else None
        )
        return {"index": index, "delta": delta or {}, "logprobs": logprobs, "finish_reason": finish}


def _call(name: str, arguments: str, index: int) -> dict[str, Any]:
    return {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.25, "bytes": list(token.encode()), "top_logprobs": []}


def _tokens(text: str) -> list[str]:
    words = text.split(" ")
    return [word if index == 0 else " " + word for index, word in enumerate(words)]


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)] if size else [data]

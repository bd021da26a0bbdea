"""OpenAI's chat shapes for a recorded answer: whole, as stream events, and as errors."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from bench.recorded_answers import Recorded

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for beside its prompt. `max_tokens` None: no limit."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool = False
    usage: bool = False
    logprobs: bool = False
    max_tokens: int | None = None


class RequestError(Exception):
    """A request that gets an OpenAI error object for an answer."""

    def __init__(self, status: int, message: str, param: str | None, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def read_request(body: bytes) -> Asked:
    """Check the fields that matter here. Raises `RequestError` 400 naming the field."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RequestError(400, f"The body is not valid JSON: {exc}.", None, "invalid_json") from exc
    if not isinstance(data, dict):
        raise RequestError(400, "The body must be a JSON object.", None, "invalid_json")
    model, messages = data.get("model"), data.get("messages")
    if not isinstance(model, str):
        raise RequestError(400, f"'model' must be a string, got {model!r}.", "model", None)
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise RequestError(400, "'messages' must be a non-empty array of objects.", "messages", None)
    if data.get("n") not in (None, 1):
        raise RequestError(400, f"Only one answer was recorded, 'n' is {data['n']!r}.", "n", None)
    limit = data.get("max_completion_tokens") or data.get("max_tokens")
    if limit is not None and not (isinstance(limit, int) and limit > 0):
        raise RequestError(
            400, f"'max_tokens' must be a positive integer, got {limit!r}.", "max_tokens", None
        )
    options = data.get("stream_options") or {}
    return Asked(
        model,
        messages,
        stream=data.get("stream") is True,
        usage=isinstance(options, dict) and options.get("include_usage") is True,
        logprobs=data.get("logprobs") is True,
        max_tokens=limit,
    )


class ChatShape:
    """`chat.completion` and `chat.completion.chunk` of one recorded answer."""

    def __init__(self, asked: Asked, answer: Recorded) -> None:
        self._asked = asked
        self._answer = answer
        self._head = {
            "id": f"chatcmpl-recorded-{next(_numbers)}",
            "created": int(time.time()),
            "model": asked.model,
        }

    def whole(self) -> bytes:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": self._answer.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._logprobs(0, len(self._answer.pieces)),
            "finish_reason": self._answer.finish_reason,
        }
        return orjson.dumps(
            {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage()}
        )

    def opening(self) -> bytes:
        """The event with the role."""
        return self._event({"role": "assistant", "content": ""})

    def pieces(self) -> Iterator[bytes]:
        """One event a piece."""
        for index, piece in enumerate(self._answer.pieces):
            yield self._event({"content": piece}, self._logprobs(index, index + 1))

    def ending(self) -> bytes:
        """The finish reason, the usage if asked for, and `[DONE]`."""
        out = self._event({}, finish_reason=self._answer.finish_reason)
        if self._asked.usage:
            chunk = {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}
            out += _frame(chunk)
        return out + b"data: [DONE]\n\n"

    def _event(
        self, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk: dict[str, Any] = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self._asked.usage:
            chunk["usage"] = None
        return _frame(chunk)

    def _usage(self) -> dict[str, int]:
        asked, given = self._answer.prompt_tokens, self._answer.completion_tokens
        return {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given}

    def _logprobs(self, start: int, end: int) -> dict[str, Any] | None:
        """Of the pieces from `start` to before `end`; null where not asked for or not recorded."""
        if not self._asked.logprobs or self._answer.logprobs is None:
            return None
        cut = slice(start, end)
        content = [
            {"token": piece, "logprob": value, "bytes": list(piece.encode()), "top_logprobs": []}
            for piece, value in zip(self._answer.pieces[cut], self._answer.logprobs[cut], strict=True)
        ]
        return {"content": content, "refusal": None}


def _frame(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"

"""OpenAI's answer shapes, whole and streamed, for chat and for plain completions.

One class for each API behind one small interface; the backend drives both alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from demo.answer_text import TokenBytes
from demo.engine import Piece
from demo.openai_request import Call

Event = dict[str, Any]


def encode_event(event: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class Shape(Protocol):
    """How one request's answer is written. `index` counts choices over all prompts of the request."""

    def whole(self, answers: Sequence[Sequence[Piece]], usage: Mapping[str, int]) -> Event:
        """The body of an answer that is not streamed."""
        ...

    def open_choice(self, index: int) -> list[Event]:
        """The events before a choice's first text."""
        ...

    def stream_choice(self, index: int, pieces: Sequence[Piece]) -> Event:
        """The event that carries the text of `pieces` and, if asked for, their log-probabilities."""
        ...

    def end_choice(self, index: int, finish_reason: str) -> Event: ...

    def usage_event(self, usage: Mapping[str, int]) -> Event: ...


class ChatShape:
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, model_id: str, answer_id: str, vocabulary: TokenBytes, call: Call) -> None:
        self._vocabulary, self._call = vocabulary, call
        self._head = {"id": answer_id, "created": int(time.time()), "model": model_id}

    def whole(self, answers: Sequence[Sequence[Piece]], usage: Mapping[str, int]) -> Event:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": _join(pieces), "refusal": None},
                "logprobs": self._logprobs(pieces),
                "finish_reason": pieces[-1].finish_reason,
            }
            for index, pieces in enumerate(answers)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def open_choice(self, index: int) -> list[Event]:
        return [self._chunk(index, {"role": "assistant", "content": ""})]

    def stream_choice(self, index: int, pieces: Sequence[Piece]) -> Event:
        return self._chunk(index, {"content": _join(pieces)}, self._logprobs(pieces))

    def end_choice(self, index: int, finish_reason: str) -> Event:
        return self._chunk(index, {}, finish_reason=finish_reason)

    def usage_event(self, usage: Mapping[str, int]) -> Event:
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def _chunk(
        self, index: int, delta: Event, logprobs: Any = None, finish_reason: str | None = None
    ) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        event = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        # OpenAI sends a null usage on every chunk of a stream whose last one carries the usage.
        return {**event, "usage": None} if self._call.include_usage else event

    def _logprobs(self, pieces: Sequence[Piece]) -> Event | None:
        if not self._call.logprobs:
            return None
        content = []
        for piece in pieces:
            top = [self._token(token, logprob) for token, logprob in piece.token.top]
            content.append({**self._token(piece.token.id, piece.token.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> Event:
        text, raw = self._vocabulary.describe(token_id)
        return {"token": text, "logprob": logprob, "bytes": raw}


class TextShape:
    """`text_completion`; `prefixes` holds what stands before each prompt's answers (its echo)."""

    def __init__(
        self, model_id: str, answer_id: str, vocabulary: TokenBytes, call: Call, prefixes: Sequence[str]
    ) -> None:
        self._vocabulary, self._call, self._prefixes = vocabulary, call, prefixes
        self._head = {
            "id": answer_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model_id,
        }
        self._offsets: dict[int, int] = {}  # characters already streamed, for each choice

    def whole(self, answers: Sequence[Sequence[Piece]], usage: Mapping[str, int]) -> Event:
        choices = [
            {
                "index": index,
                "text": self._prefix(index) + _join(pieces),
                "logprobs": self._logprobs(index, pieces),
                "finish_reason": pieces[-1].finish_reason,
            }
            for index, pieces in enumerate(answers)
        ]
        return {**self._head, "choices": choices, "usage": usage}

    def open_choice(self, index: int) -> list[Event]:
        prefix = self._prefix(index)
        return [self._chunk(index, prefix)] if prefix else []

    def stream_choice(self, index: int, pieces: Sequence[Piece]) -> Event:
        return self._chunk(index, _join(pieces), self._logprobs(index, pieces))

    def end_choice(self, index: int, finish_reason: str) -> Event:
        return self._chunk(index, "", finish_reason=finish_reason)

    def usage_event(self, usage: Mapping[str, int]) -> Event:
        return {**self._head, "choices": [], "usage": usage}

    def _prefix(self, index: int) -> str:
        return self._prefixes[index // self._call.choices]

    def _chunk(self, index: int, text: str, logprobs: Any = None, finish_reason: str | None = None) -> Event:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        event = {**self._head, "choices": [choice]}
        return {**event, "usage": None} if self._call.include_usage else event

    def _logprobs(self, index: int, pieces: Sequence[Piece]) -> Event | None:
        if not self._call.logprobs:
            return None
        described = [(self._vocabulary.describe(piece.token.id)[0], piece.token) for piece in pieces]
        offset, offsets = self._offsets.get(index, len(self._prefix(index))), []
        for text, _ in described:
            offsets.append(offset)
            offset += len(text)
        self._offsets[index] = offset
        return {
            "tokens": [text for text, _ in described],
            "token_logprobs": [token.logprob for _, token in described],
            "top_logprobs": [
                {self._vocabulary.describe(at)[0]: logprob for at, logprob in token.top} or None
                for _, token in described
            ],
            "text_offset": offsets,
        }


def _join(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)

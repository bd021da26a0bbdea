"""An answer in the form that OpenAI's specification gives it.

Backends that call themselves compatible leave fields out (`refusal` beside streamed log-probabilities), send
null where the specification knows none (`usage.prompt_tokens_details`), or tell another `created` in every
chunk. Clients that validate what they get fail on it, and behind a proxy they blame the proxy. So what is
missing is filled in and what may not be null is taken out; every other field stays, those the specification
has never heard of too. An answer that conforms is not touched, and goes on as the bytes that came. It costs a
few us to look at a plain answer or a chunk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from proxy.call import Api
from proxy.json_object import drop_nulls, fill, objects, set_fields

_IDS: dict[Api, str] = {"chat": "chatcmpl-", "completions": "cmpl-"}
_PLAIN: dict[Api, str] = {"chat": "chat.completion", "completions": "text_completion"}
_CHUNK: dict[Api, str] = {"chat": "chat.completion.chunk", "completions": "text_completion"}
_LOGPROBS = {"content": None, "refusal": None}
_MESSAGE = {"role": "assistant", "content": None, "refusal": None}
_NO_NULL_MESSAGE = ("role", "annotations", "function_call", "tool_calls")
_NO_NULL_DELTA = ("role", "function_call", "tool_calls")
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")


class AnswerForm:
    """Completes one answer, plain or streamed. `model` is told where the backend names none."""

    def __init__(self, api: Api, model: str) -> None:
        self._api = api
        self._model = model
        self._head: dict[str, Any] = {}  # what all chunks of a stream have in common
        self._begun: set[str] = set()  # choices whose first chunk has been seen

    def complete(self, answer: dict[str, Any]) -> bool:
        """Complete a plain answer with its choices in place; whether anything was amiss."""
        head = self._read_head(answer, _PLAIN[self._api])
        changed = set_fields(answer, head) | drop_nulls(answer, ("system_fingerprint", "usage"))
        changed |= _complete_usage(answer.get("usage"))
        for index, choice in enumerate(answer["choices"]):
            changed |= drop_nulls(choice, ("index",))
            changed |= fill(choice, {"index": index, "logprobs": None})
            if self._api == "chat":
                changed |= _complete_logprobs(choice["logprobs"])
                changed |= _complete_message(choice.get("message"))
        return changed

    def complete_chunk(self, chunk: dict[str, Any]) -> bool:
        """Complete a chunk of a stream in place; whether anything was amiss."""
        if not self._head:
            self._head = self._read_head(chunk, _CHUNK[self._api])
        changed = set_fields(chunk, self._head) | drop_nulls(chunk, ("system_fingerprint",))
        changed |= _complete_usage(chunk.get("usage"))
        if chunk.get("choices") is None:  # some backends' last chunk
            chunk["choices"], changed = [], True
        for index, choice in enumerate(objects(chunk["choices"])):
            changed |= drop_nulls(choice, ("index",))
            changed |= fill(choice, {"index": index, "finish_reason": None})
            if choice["finish_reason"] == "":
                choice["finish_reason"], changed = None, True
            if self._api == "chat":
                changed |= _complete_logprobs(choice.get("logprobs"))
                changed |= fill(choice, {"delta": {}})
                changed |= _complete_delta(choice["delta"])
        return changed

    def begin_choices(self, chunk: Mapping[str, Any]) -> bool:
        """Say the role in the first chunk of a choice, where the backend did not."""
        if self._api != "chat":
            return False
        changed = False
        for choice in objects(chunk["choices"]):
            index = str(choice["index"])
            if index not in self._begun and isinstance(choice["delta"], dict):
                self._begun.add(index)
                changed |= fill(choice["delta"], {"role": "assistant"})
        return changed

    def _read_head(self, answer: Mapping[str, Any], kind: str) -> dict[str, Any]:
        identity, created, model = answer.get("id"), answer.get("created"), answer.get("model")
        return {
            "id": identity if isinstance(identity, str) and identity else _new_id(self._api),
            "object": kind,
            "created": _seconds(created),
            "model": model if isinstance(model, str) and model else self._model,
        }


def _seconds(value: object) -> int:
    """A Unix time as a whole number; now for what is none."""
    if isinstance(value, int | float) and 0 <= value < 1 << 53:
        return int(value)
    return int(time.time())


def _new_id(api: Api) -> str:
    return _IDS[api] + os.urandom(12).hex()


def _complete_message(message: object) -> bool:
    if not isinstance(message, dict):
        return False
    changed = drop_nulls(message, _NO_NULL_MESSAGE) | fill(message, _MESSAGE)
    for call in objects(message.get("tool_calls")):
        changed |= drop_nulls(call, ("id", "type"))
        if "id" not in call:
            call["id"], changed = f"call_{os.urandom(12).hex()}", True
        changed |= fill(call, {"type": "function"})
    return changed


def _complete_delta(delta: object) -> bool:
    if not isinstance(delta, dict):
        return False
    changed = drop_nulls(delta, _NO_NULL_DELTA)
    for call in objects(delta.get("tool_calls")):
        changed |= drop_nulls(call, ("id", "type"))
        if isinstance(call.get("function"), dict):
            changed |= drop_nulls(call["function"], ("name", "arguments"))
    return changed


def _complete_logprobs(logprobs: object) -> bool:
    if not isinstance(logprobs, dict):
        return False
    changed = fill(logprobs, _LOGPROBS)
    for token in objects(logprobs["content"]):
        changed |= drop_nulls(token, ("top_logprobs",)) | fill(token, {"bytes": None})
        if "top_logprobs" not in token:
            token["top_logprobs"], changed = [], True
    return changed


def _complete_usage(usage: object) -> bool:
    if not isinstance(usage, dict):
        return False
    changed = drop_nulls(usage, tuple(usage))
    changed |= fill(usage, {"prompt_tokens": 0, "completion_tokens": 0})
    asked, given = usage["prompt_tokens"], usage["completion_tokens"]
    if "total_tokens" not in usage and isinstance(asked, int) and isinstance(given, int):
        usage["total_tokens"], changed = asked + given, True
    for name in _DETAILS:
        if isinstance(usage.get(name), dict):
            changed |= drop_nulls(usage[name], tuple(usage[name]))
    return changed

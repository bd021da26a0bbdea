"""The response object and its output items, built from a chat completion's answer."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from proxy.call import load_field

Item = dict[str, Any]
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Frame:
    """Everything of the response object that does not depend on the answer: its id, and what was asked."""

    def __init__(self, fields: Mapping[str, bytes]) -> None:
        self.id = "resp_" + os.urandom(24).hex()
        self.created_at = int(time.time())
        given = {
            name: load_field(fields, name) for name in _ECHOED if name in fields and fields[name] != b"null"
        }
        self._base: dict[str, Any] = {**_ECHOED, **given, **_FIXED}
        self._base["tools"] = [_echo_tool(tool) for tool in self._base["tools"]]
        self._base["text"] = {"format": {"type": "text"}, **self._base["text"]}
        for name in ("user", "safety_identifier", "prompt_cache_key"):
            if fields.get(name, b"null") != b"null":
                self._base[name] = load_field(fields, name)

    def response(self, status: str, model: str, output: list[Item], **more: Any) -> dict[str, Any]:
        """The response object in one of its states."""
        head = {"id": self.id, "object": "response", "created_at": self.created_at, "status": status}
        return {**head, **self._base, "model": model, "output": output, "usage": None, **more}

    def finished(
        self, model: str, output: list[Item], finish_reason: str | None, chat: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The response at its end. `chat` is the body or chunk with `usage`, `upshift`, `service_tier`."""
        more: dict[str, Any] = {"usage": map_usage(chat.get("usage"))}
        for name in ("upshift", "service_tier"):
            if chat.get(name) is not None:
                more[name] = chat[name]
        if (reason := _INCOMPLETE.get(finish_reason or "")) is not None:
            return self.response("incomplete", model, output, incomplete_details={"reason": reason}, **more)
        return self.response("completed", model, output, completed_at=int(time.time()), **more)


# What is echoed from the request, with OpenAI's defaults.
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "text": {},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
}
_FIXED: dict[str, Any] = {
    "background": False,
    "error": None,
    "incomplete_details": None,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "truncation": "disabled",
}


def item_status(finish_reason: str | None) -> str:
    """`incomplete` where the answer was cut off."""
    return "incomplete" if finish_reason in _INCOMPLETE else "completed"


def new_message(status: str, content: list[Item]) -> Item:
    return {
        "id": "msg_" + os.urandom(24).hex(), "type": "message", "status": status, "role": "assistant",
        "content": content,
    }  # fmt: skip


def text_part(text: str, logprobs: list[Item]) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def refusal_part(text: str) -> Item:
    return {"type": "refusal", "refusal": text}


def new_call(status: str, call_id: str | None, name: str, arguments: str) -> Item:
    return {
        "id": "fc_" + os.urandom(24).hex(), "type": "function_call", "status": status,
        "call_id": call_id or "call_" + os.urandom(12).hex(), "name": name, "arguments": arguments,
    }  # fmt: skip


def new_custom_call(status: str, call_id: str | None, name: str, text: str) -> Item:
    return {
        "id": "ctc_" + os.urandom(24).hex(), "type": "custom_tool_call", "status": status,
        "call_id": call_id or "call_" + os.urandom(12).hex(), "name": name, "input": text,
    }  # fmt: skip


def output_items(message: Mapping[str, Any], logprobs: object, finish_reason: str | None) -> list[Item]:
    """The items of a chat message: its text or refusal, then its tool calls; never none at all."""
    status = item_status(finish_reason)
    calls = [call for call in message.get("tool_calls") or () if isinstance(call, dict)]
    if isinstance(message.get("function_call"), dict):
        calls.append({"function": message["function_call"]})
    parts = []
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        parts.append(refusal_part(message["refusal"]))
    text = message.get("content")
    if (isinstance(text, str) and text) or (not parts and not calls):
        parts.insert(0, text_part(str(text or ""), map_logprobs(logprobs)))
    items = [new_message(status, parts)] if parts else []
    for call in calls:
        custom, function = call.get("custom"), call.get("function") or {}
        if isinstance(custom, dict):
            items.append(
                new_custom_call(status, call.get("id"), str(custom.get("name")), str(custom.get("input")))
            )
        else:
            arguments = str(function.get("arguments") or "")
            items.append(new_call(status, call.get("id"), str(function.get("name") or ""), arguments))
    return items


def map_usage(usage: object) -> dict[str, Any] | None:
    """Chat's usage under the names of the Responses API; None where the backend did not count."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    prompt_details = usage.get("prompt_tokens_details") or {}
    completion_details = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": _count(prompt_details, "cached_tokens"),
            "cache_write_tokens": _count(prompt_details, "cache_write_tokens"),
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": _count(completion_details, "reasoning_tokens")},
        "total_tokens": prompt + completion,
    }


def map_logprobs(logprobs: object) -> list[Item]:
    """Chat's `{"content": [...]}` as a list; `bytes` is never null in this API."""
    if not isinstance(logprobs, dict) or not isinstance(logprobs.get("content"), list):
        return []
    return [
        {**_token(entry), "top_logprobs": [_token(other) for other in entry.get("top_logprobs") or ()]}
        for entry in logprobs["content"]
        if isinstance(entry, dict)
    ]


def _token(entry: Mapping[str, Any]) -> Item:
    return {"token": entry.get("token"), "logprob": entry.get("logprob"), "bytes": entry.get("bytes") or []}


def _echo_tool(tool: Mapping[str, Any]) -> Item:
    if tool.get("type") != "function":
        return dict(tool)
    return {"description": None, "parameters": None, "strict": None, **tool}


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) else 0

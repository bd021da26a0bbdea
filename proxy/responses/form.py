"""A tier's own answers of the Responses API in the form that OpenAI's specification gives them.

vLLM leaves `error` out of a response and says null for `text`, for the log-probabilities of a text, and in
items and tools. What is missing is filled in and what may not be null is taken out; all else stays, and what
conforms stays the same bytes. Deltas, nearly all events of a stream, are not read.
"""

from __future__ import annotations

from typing import Any

import orjson

from proxy.json_object import drop_nulls, fill, objects
from proxy.mended_events import mend_events

_RESPONSE: dict[str, Any] = {
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": None,
    "parallel_tool_calls": True,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
}
_NO_NULL = ("text", "status", "parallel_tool_calls", "tool_choice", "tools")
_NO_NULL_ITEMS = frozenset({"message", "function_call", "custom_tool_call"})
_NULL_OF_A_FUNCTION = frozenset({"description", "parameters", "strict"})


class ResponseForm:
    """Completes responses, plain or streamed."""

    def plain(self, body: bytes) -> bytes:
        """A response in one piece; what a tier says of a stored one (its items, that it is deleted) stays."""
        try:
            response = orjson.loads(body)
        except orjson.JSONDecodeError:  # a lone surrogate, which other readers take
            return body
        return orjson.dumps(response) if _complete(response) else body

    def events(self, events: bytes) -> bytes:
        """Whole events of a stream."""
        ends = events.count(b"\n\n") + events.count(b"\r\n\r\n")
        if events.count(b'.delta"') == ends:  # each tells its type once
            return events
        return mend_events(events, _complete_event)


def _complete_event(event: dict[str, Any]) -> bool:
    changed = False
    for name, complete in (("response", _complete), ("item", _complete_item), ("part", _complete_part)):
        if isinstance(event.get(name), dict):
            changed |= complete(event[name])
    return changed


def _complete(response: dict[str, Any]) -> bool:
    if response.get("object") != "response" or "output" not in response:
        return False
    changed = drop_nulls(response, _NO_NULL) | fill(response, _RESPONSE)
    for item in objects(response.get("output")):
        changed |= _complete_item(item)
    for tool in objects(response["tools"]):
        if tool.get("type") == "function":
            changed |= drop_nulls(tool, tool.keys() - _NULL_OF_A_FUNCTION)
            changed |= fill(tool, {"parameters": None, "strict": None})
    return changed


def _complete_item(item: dict[str, Any]) -> bool:
    if item.get("type") not in _NO_NULL_ITEMS:
        return False
    changed = drop_nulls(item, tuple(item))
    for part in objects(item.get("content")):
        changed |= _complete_part(part)
    return changed


def _complete_part(part: dict[str, Any]) -> bool:
    if part.get("type") != "output_text":
        return False
    names = ("annotations", "logprobs")
    changed = drop_nulls(part, names)
    return fill(part, {name: [] for name in names}) | changed

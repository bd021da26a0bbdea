"""A chat completion's stream -> the events of a Responses stream, in their order, numbered from 0.

    created, in_progress
    for a text:  output_item.added, content_part.added, output_text.delta ..., output_text.done,
                 content_part.done, output_item.done
    for a call:  output_item.added, function_call_arguments.delta ..., .done, output_item.done
    completed | incomplete | failed

A text ends when a call begins. Calls stay open until the end, because chat may interleave their pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.responses.frame import (
    Frame,
    Item,
    item_status,
    map_logprobs,
    new_call,
    new_message,
    refusal_part,
    text_part,
)


class EventWriter:
    """Feed it decoded chat chunks; it gives back bytes for the client."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._number = 0
        self._model = ""
        self._items: list[Item] = []
        self._message: Item | None = None  # open, always the last item
        self._calls: dict[int, int] = {}  # chat's index of a tool call -> output index
        self._last: dict[str, Any] = {}  # usage, upshift, service_tier as they came
        self._finish_reason: str | None = None
        self.ended = False

    def add(self, chunk: Mapping[str, Any]) -> bytes:
        """The events of one chunk."""
        if self.ended:
            return b""
        out = b"" if self._number else self._begin(chunk)
        if isinstance(chunk.get("error"), dict):
            return out + self.fail(chunk["error"])
        for name in ("usage", "upshift", "service_tier"):
            if chunk.get(name) is not None:
                self._last[name] = chunk[name]
        for choice in chunk.get("choices") or ():
            if isinstance(choice, dict) and not choice.get("index"):
                out += self._add_choice(choice)
        return out

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """`error`, then `response.failed`. Nothing comes after it."""
        if self.ended:
            return b""
        out = b"" if self._number else self._begin({})
        self.ended = True
        message = str(error.get("message") or "The backend failed.")
        detail = {"code": error.get("code"), "message": message, "param": error.get("param")}
        failed = {"code": "server_error", "message": message}
        response = self._frame.response("failed", self._model, self._items, error=failed)
        return out + self._event("error", **detail) + self._event("response.failed", response=response)

    def finish(self) -> bytes:
        """Close what is open, and the response."""
        if self.ended:
            return b""
        out = b"" if self._number else self._begin({})
        if self._finish_reason is None:
            return out + self.fail({"message": "The stream ended before its finish reason."})
        if not self._items:
            out += self._open_message()
            out += self._add_text("output_text", "", [])
        out += self._close_message()
        status = item_status(self._finish_reason)
        for index in self._calls.values():
            out += self._close_call(index, status)
        self.ended = True
        response = self._frame.finished(self._model, self._items, self._finish_reason, self._last)
        return out + self._event(f"response.{response['status']}", response=response)

    def _begin(self, chunk: Mapping[str, Any]) -> bytes:
        self._model = str(chunk.get("model") or "")
        response = self._frame.response("in_progress", self._model, [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _add_choice(self, choice: Mapping[str, Any]) -> bytes:
        out = b""
        delta = choice.get("delta")
        if isinstance(delta, dict):
            logprobs = map_logprobs(choice.get("logprobs"))
            if delta.get("content") or logprobs:
                out += self._add_text("output_text", str(delta.get("content") or ""), logprobs)
            if delta.get("refusal"):
                out += self._add_text("refusal", str(delta["refusal"]), [])
            calls = delta.get("tool_calls") or ()
            if isinstance(delta.get("function_call"), dict):
                calls = [{"index": 0, "function": delta["function_call"]}]
            for call in calls:
                if isinstance(call, dict):
                    out += self._add_call(call)
        if choice.get("finish_reason"):
            self._finish_reason = str(choice["finish_reason"])
        return out

    def _add_text(self, kind: str, text: str, logprobs: list[Item]) -> bytes:
        """A piece of `output_text` or `refusal`; either may begin a content part."""
        out = b"" if self._message is not None else self._open_message()
        assert self._message is not None
        parts = self._message["content"]
        if not parts or parts[-1]["type"] != kind:
            out += self._close_part()
            parts.append(text_part("", []) if kind == "output_text" else refusal_part(""))
            out += self._event("response.content_part.added", **self._at_part(), part=parts[-1])
        part = parts[-1]
        if kind == "refusal":
            part["refusal"] += text
            return out + self._event("response.refusal.delta", **self._at_part(), delta=text)
        part["text"] += text
        part["logprobs"] += logprobs
        if not text and not logprobs:
            return out
        return out + self._event(
            "response.output_text.delta", **self._at_part(), delta=text, logprobs=logprobs
        )

    def _open_message(self) -> bytes:
        self._message = new_message("in_progress", [])
        return self._add_item(self._message)

    def _close_part(self) -> bytes:
        if self._message is None or not self._message["content"]:
            return b""
        part, where = self._message["content"][-1], self._at_part()
        if part["type"] == "refusal":
            done = self._event("response.refusal.done", **where, refusal=part["refusal"])
        else:
            done = self._event(
                "response.output_text.done", **where, text=part["text"], logprobs=part["logprobs"]
            )
        return done + self._event("response.content_part.done", **where, part=part)

    def _close_message(self) -> bytes:
        message = self._message
        if message is None:
            return b""
        out = self._close_part()
        self._message = None
        message["status"] = item_status(self._finish_reason)
        return out + self._event(
            "response.output_item.done", output_index=self._items.index(message), item=message
        )

    def _add_call(self, call: Mapping[str, Any]) -> bytes:
        function = call.get("function") or {}
        place = int(call.get("index") or 0)
        out = b""
        if place not in self._calls:
            out += self._close_message()
            self._calls[place] = len(self._items)
            item = new_call("in_progress", call.get("id"), str(function.get("name") or ""), "")
            out += self._add_item(item)
        index = self._calls[place]
        piece = str(function.get("arguments") or "")
        if not piece:
            return out
        item = self._items[index]
        item["arguments"] += piece
        return out + self._event(
            "response.function_call_arguments.delta", item_id=item["id"], output_index=index, delta=piece
        )

    def _close_call(self, index: int, status: str) -> bytes:
        item = self._items[index]
        item["status"] = status
        done = self._event(
            "response.function_call_arguments.done",
            item_id=item["id"], output_index=index, name=item["name"], arguments=item["arguments"],
        )  # fmt: skip
        return done + self._event("response.output_item.done", output_index=index, item=item)

    def _add_item(self, item: Item) -> bytes:
        self._items.append(item)
        return self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)

    def _at_part(self) -> dict[str, Any]:
        message = self._message
        assert message is not None
        return {
            "item_id": message["id"],
            "output_index": len(self._items) - 1,
            "content_index": len(message["content"]) - 1,
        }

    def _event(self, kind: str, **data: Any) -> bytes:
        body = orjson.dumps({"type": kind, "sequence_number": self._number, **data})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"

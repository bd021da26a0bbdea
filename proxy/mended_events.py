"""Events of a stream that goes on as it came, with those rewritten that lack something."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from proxy.sse import event_data

_END = re.compile(rb"(\r?\n\r?\n)")
Complete = Callable[[dict[str, Any]], bool]  # changes what an event says in place; whether it did


def mend_events(events: bytes, complete: Complete) -> bytes:
    """`events`, whole ones, after `complete` saw each that is a JSON object. Comments, `[DONE]` and what is
    no object stay as they are, and so do errors: their form is not an answer's."""
    parts = _END.split(events)  # an event, its blank line, an event, ...
    pairs = zip(parts[::2], [*parts[1::2], b""], strict=True)
    return b"".join(_mended(event, end, complete) for event, end in pairs)


def _mended(event: bytes, end: bytes, complete: Complete) -> bytes:
    lines = event.replace(b"\r\n", b"\n")
    try:
        said = orjson.loads(event_data(lines) or b"null")
    except orjson.JSONDecodeError:
        return event + end
    if not isinstance(said, dict) or said.get("error") or not complete(said):
        return event + end
    others = [line for line in lines.split(b"\n") if not line.startswith(b"data:")]
    return b"\n".join([*others, b"data: " + orjson.dumps(said), b"\n"])

"""Events of a stream that goes on as it came, with those rewritten that lack something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from proxy.sse import data_event, event_data, line_feeds

Complete = Callable[[dict[str, Any]], bool]  # changes what an event says in place; whether it did


def mend_events(events: bytes, complete: Complete) -> bytes:
    """`events`, whole ones, after `complete` saw each that is a JSON object. Comments, `[DONE]` and what is
    no object stay as they are, and so do errors: their form is not an answer's. Lines end in LF."""
    return b"".join(
        [_mended(event + b"\n\n", complete) for event in line_feeds(events).split(b"\n\n") if event]
    )


def _mended(event: bytes, complete: Complete) -> bytes:
    try:
        said = orjson.loads(event_data(event) or b"null")
    except orjson.JSONDecodeError:
        return event
    if not isinstance(said, dict) or said.get("error") or not complete(said):
        return event
    others = [line + b"\n" for line in event.split(b"\n") if line and not line.startswith(b"data:")]
    return b"".join(others) + data_event(orjson.dumps(said))

"""A pinned answer in OpenAI's form, where the backend's own is another; else the bytes that came.

A stream's first events tell: where they conform, the rest goes on unread, but for the one with the usage, in
which some say null where the specification has no null.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from proxy.answer_form import AnswerForm
from proxy.attempt import TierAttempt
from proxy.mended_events import mend_events
from proxy.sse import line_feeds

_PROBED = 2  # the role, and content
_USAGE = (b'"usage":{', b'"usage": {')


def pinned_body(attempt: TierAttempt, form: AnswerForm) -> bytes:
    """The body of a plain answer that has been read."""
    data = attempt.data
    return orjson.dumps(data) if data is not None and form.complete(data) else attempt.body


class PinnedForm:
    """Completes the chunks of one pinned stream."""

    def __init__(self, form: AnswerForm) -> None:
        self._form = form
        self._probes = _PROBED
        self._mends = False

    async def pieces(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same events; pieces hold whole ones. Raises as `events` does."""
        async for piece in events:
            yield self._piece(piece)

    def _piece(self, piece: bytes) -> bytes:
        """No more of it is read than has to be: it may hold a whole answer."""
        if not (self._probes or self._mends or _USAGE[0] in piece or _USAGE[1] in piece):
            return piece
        out, rest = b"", line_feeds(piece)
        while self._probes and rest:
            event, _, rest = rest.partition(b"\n\n")
            out += mend_events(event, self._complete)
        unread = 0 if self._mends else _before_usage(rest)
        return out + rest[:unread] + mend_events(rest[unread:], self._complete)

    def _complete(self, chunk: dict[str, Any]) -> bool:
        amiss = self._form.complete_chunk(chunk)
        if self._probes:
            self._probes -= 1
            self._mends |= amiss
        return self._form.begin_choices(chunk) | amiss


def _before_usage(events: bytes) -> int:
    """How many bytes of whole events there are before the one with the usage; all of them without one."""
    for mark in _USAGE:
        if (at := events.find(mark)) >= 0:
            found = events.rfind(b"\n\n", 0, at)
            return found + 2 if found >= 0 else 0
    return len(events)

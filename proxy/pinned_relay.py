"""A pinned stream on its way to the client: the backend's bytes, unchanged.

Two things are still looked after. Nothing goes out before the first event is known to be a chunk, so that an
error or an empty stream is a real error status; and only whole events go out, so that an error event of ours
never follows half of another. What the backend left out at its end (`[DONE]`, a blank line) is mended.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

from proxy.attempt import TierAttempt, decode_event
from proxy.completion import StreamReader, read_usage
from proxy.sse import DONE, MAX_EVENT_BYTES, EventSplitter, event_data, line_feeds, whole_events
from routing.errors import BackendBroken, BackendError

_ENDING_BYTES = 4096  # the usage object is in the last of them
_USAGE = re.compile(rb'"usage" ?: ?(\{(?:[^{}]|\{[^{}]*\})*\})')
_FINISHED = re.compile(rb'"finish_reason" ?: ?"[^"]')
_DONE = re.compile(rb"(?:\A|\n)(data: ?\[DONE\])")  # at the beginning of a line: text cannot hold one
_EVENT_END = re.compile(rb"\r?\n\r?\n")


class PinnedRelay:
    """The bytes of one pinned stream."""

    def __init__(self, attempt: TierAttempt) -> None:
        self._attempt = attempt
        self._parts: list[bytes] = []  # not yet a whole event, or not yet a chunk
        self._held = 0  # their bytes
        self._ending = b""  # the last bytes given, from the finish reason on
        self._begun = self._finished = self._done = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Whole events as they came. A backend's error event ends the stream, with `standing` `failed`.

        Raises `BackendBroken` when there is no chunk at all, and when there is no finish reason at the end.
        """
        attempt = self._attempt
        try:
            async for piece in attempt.raw_pieces():
                events = self._take(piece)
                if not events:
                    continue
                if b'"error"' in events and (end := _error_end(events)):
                    attempt.standing = "failed"
                    yield events[:end]  # what may follow would look like an answer
                    return
                if b"[DONE]" in events and (found := _DONE.search(events)):
                    before = events[: found.start(1)]
                    self._note(before)
                    if not self._finished:
                        yield before
                        raise BackendBroken("the stream ended before its finish reason")
                    self._done = True
                    yield _up_to_event(events, found.end())
                    await attempt.finish()
                    break
                if self._finished or _FINISHED.search(events):
                    self._note(events)
                yield events
        except BackendError:
            # A break after the only choice's finish reason is an end like any other: the client has the
            # whole answer, and an error after it would make it pay for another.
            if attempt.call.choices != 1 or not self._finished:
                raise
            self._parts = []
        for last in self._mended_end():
            yield last

    def _mended_end(self) -> Iterator[bytes]:
        """What the stream's end lacked. Raises `BackendBroken` where it was none."""
        attempt = self._attempt
        last = b"" if self._done else self._take_last()
        ended = self._done or _DONE.search(last) is not None
        if last and not ended:
            yield last
        if not self._begun:
            raise BackendBroken("the stream ended before any content")
        for usage in _USAGE.findall(self._ending):
            attempt.reader.usage = read_usage({"usage": decode_event(usage)})
        if not self._finished:
            raise BackendBroken("the stream ended before its finish reason")
        attempt.done = attempt.ended_well = True
        if not self._done:
            yield DONE

    def _take(self, piece: bytes) -> bytes:
        """The whole events there are now; b'' for none. Raises `BackendBroken`, `Overloaded`."""
        if self._parts:
            if b"\n" not in piece:  # a long line is joined once, at its end
                self._keep(piece)
                return b""
            piece = b"".join([*self._parts, piece])
        whole = len(piece) if piece.endswith(b"\n\n") else whole_events(piece)
        if not whole or not (self._begun or self._begins(piece[:whole])):
            whole = 0
        if self._parts or whole < len(piece):
            self._attempt.hold.take(-self._held)
            self._parts, self._held = [], 0
            self._keep(piece[whole:])
        events = piece[:whole]
        self._attempt.reader.pieces += events.count(b"data:")
        return events

    def _keep(self, part: bytes) -> None:
        if part:
            self._attempt.hold.take(len(part))
            self._parts.append(part)
            self._held += len(part)
            if self._held > MAX_EVENT_BYTES:
                raise BackendBroken(f"an event is longer than {MAX_EVENT_BYTES} bytes")

    def _take_last(self) -> bytes:
        """A last event that lacks its blank line. Raises `BackendBroken` for half of one."""
        rest = b"".join(self._parts).strip(b"\r\n")
        self._parts = []
        if not rest:
            return b""
        rest += b"\n\n"
        data = event_data(rest)
        if data and data != b"[DONE]":
            decode_event(data)
        if not self._begun and not self._begins(rest):
            return b""
        self._note(rest)
        return rest

    def _note(self, events: bytes) -> None:
        """Whether the finish reason has come, and what has come from there on."""
        self._finished = self._finished or _FINISHED.search(events) is not None
        if self._finished:
            self._ending = (self._ending + events)[-_ENDING_BYTES:]

    def _begins(self, events: bytes) -> bool:
        """Whether the first chunk is there. Raises `BackendBroken` for an error or for no chunk."""
        found = (event_data(event) for event in EventSplitter().feed(events))
        data = next((data for data in found if data), None)
        if data is None:
            return False
        if data == b"[DONE]":
            raise BackendBroken("the stream ended before any content")
        StreamReader(self._attempt.call.api).add(decode_event(data))
        self._begun = True
        return True


def _error_end(events: bytes) -> int:
    """Where the first error event ends; 0: there is none."""
    at = 0
    for end in _EVENT_END.finditer(events):
        event, at = events[at : end.end()], end.end()
        if b'"error"' in event and _is_error(event_data(line_feeds(event))):
            return at
    return 0


def _is_error(data: bytes) -> bool:
    try:
        return bool(decode_event(data).get("error"))
    except BackendBroken:
        return False


def _up_to_event(events: bytes, at: int) -> bytes:
    """The events up to the end of the one that `at` is in."""
    end = _EVENT_END.search(events, at)
    return events[: end.end()] if end else events

"""Server-sent events as bytes: cutting a stream into events, and reading an event's data.

A stream arrives cut anywhere, inside a character too, so nothing is decoded here; an event is complete at
its blank line. CRLF line ends are read as LF (JSON never holds a raw carriage return).
"""

from __future__ import annotations

DONE = b"data: [DONE]\n\n"
MAX_EVENT_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"  # one at the beginning of a stream means nothing


class EventTooLarge(ValueError):
    """An event longer than `MAX_EVENT_BYTES` without a blank line."""


class EventSplitter:
    """Collects pieces and gives back whole events, each with its blank line."""

    __slots__ = ("_begun", "_held", "_parts")

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of an event not yet complete
        self._held = 0  # their bytes
        self._begun = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The events completed by `piece`. Raises `EventTooLarge`."""
        if (
            self._begun and b"\n" not in piece and b"\r" not in piece
        ):  # a long line is joined once, at its end
            self._keep(piece)
            return []
        data = b"".join([*self._parts, piece])
        self._parts, self._held = [], 0
        if not self._begun:
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._keep(data)
                return []
            self._begun, data = True, data.removeprefix(_BOM)
        if b"\r" in data:
            ending = b"\r" if data.endswith(b"\r") else b""  # its LF may be in the next piece
            data = data[: len(data) - len(ending)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + ending
        *events, tail = data.split(b"\n\n")
        self._keep(tail)
        return [event + b"\n\n" for event in events if event]

    def _keep(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._held += len(part)
            if self._held > MAX_EVENT_BYTES:
                raise EventTooLarge(f"an event is longer than {MAX_EVENT_BYTES} bytes")

    @property
    def held(self) -> int:
        """Bytes of an event that is not yet complete."""
        return self._held

    def rest(self) -> bytes:
        """What is left at the end of the stream: an event without its blank line, or nothing."""
        tail = b"".join(self._parts).strip(b"\r\n")
        self._parts, self._held = [], 0
        return tail + b"\n\n" if tail else b""


def event_data(event: bytes) -> bytes:
    """The event's data lines, joined; b'' for a comment."""
    if event.startswith(b"data:") and event.find(b"\n") == len(event) - 2:
        return event[5:-2].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def line_feeds(events: bytes) -> bytes:
    """The same events with plain line ends."""
    return events.replace(b"\r\n", b"\n") if b"\r" in events else events


def whole_events(data: bytes) -> int:
    """How many bytes of `data` are whole events, with LF or CRLF line ends."""
    lf, crlf = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return 0 if lf < 0 and crlf < 0 else max(lf + 2, crlf + 4)


def data_event(data: bytes) -> bytes:
    """JSON bytes as one event."""
    return b"data: " + data + b"\n\n"

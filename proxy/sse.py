"""Server-sent events as bytes: cutting a stream into events, and reading an event's data.

A stream arrives cut anywhere, inside a character too, so nothing is decoded here; an event is complete at
its blank line. CRLF line ends are read as LF (JSON never holds a raw carriage return).
"""

from __future__ import annotations

DONE = b"data: [DONE]\n\n"
MAX_EVENT_BYTES = 16 << 20


class EventTooLarge(ValueError):
    """An event longer than `MAX_EVENT_BYTES` without a blank line."""


class EventSplitter:
    """Collects pieces and gives back whole events, each with its blank line."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The events completed by `piece`. Raises `EventTooLarge`."""
        data = self._tail + piece
        if b"\r" in data:
            ending = b"\r" if data.endswith(b"\r") else b""  # its LF may be in the next piece
            data = data[: len(data) - len(ending)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + ending
        *events, self._tail = data.split(b"\n\n")
        if len(self._tail) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event is longer than {MAX_EVENT_BYTES} bytes")
        return [event + b"\n\n" for event in events if event]

    @property
    def holding(self) -> bool:
        """Whether part of an event is held back."""
        return bool(self._tail)

    def rest(self) -> bytes:
        """What is left at the end of the stream: an event without its blank line, or nothing."""
        tail, self._tail = self._tail.strip(b"\r\n"), b""
        return tail + b"\n\n" if tail else b""


def event_data(event: bytes) -> bytes:
    """The event's data lines, joined; b'' for a comment."""
    if event.startswith(b"data:") and event.find(b"\n") == len(event) - 2:
        return event[5:-2].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def data_event(data: bytes) -> bytes:
    """JSON bytes as one event."""
    return b"data: " + data + b"\n\n"

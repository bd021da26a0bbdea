"""A committed answer on its way to the client.

Until its end a committed stream is passed on as the bytes that came: a piece is looked into only when it
holds one of a few byte patterns (a finish reason, a usage object, an error, `[DONE]`), was cut inside an
event, or does not tell the stream's id and time as its first event did. The first events say whether this
backend's chunks have the form of OpenAI's (`proxy.answer_form`); only where they have not is every event
looked into. The event that carries the finish reason is held back until the next one is seen, because the
field `upshift` has to ride on the last chunk that is there anyway, and its cost is known only with the usage.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from proxy.answer_form import AnswerForm
from proxy.attempt import TierAttempt, decode_event
from proxy.completion import Usage
from proxy.sse import DONE, EventTooLarge, data_event, event_data
from routing.errors import BackendBroken

# Substrings and no regular expression: bytes are searched eight times faster than an alternation is tried.
_LOOK_INTO = (
    *(b'"finish_reason"%b:%b"' % (before, after) for before in (b"", b" ") for after in (b"", b" ")),
    *(b'"usage"%b:%b{' % (before, after) for before in (b"", b" ") for after in (b"", b" ")),
    b'"error"', b"[DONE]", b"\r", b"\nevent:",
)  # fmt: skip
_HEAD = (b'"id"', b'"object"', b'"created"', b'"model"')
_PROBED = 3  # first events whose form is looked at: the role, and content
Field = Callable[[Usage], bytes]  # the JSON of the field `upshift`, once the usage is known


def with_field(json_object: bytes, field: bytes) -> bytes:
    """A JSON object with `"upshift": field` added at its end; every other byte as it was."""
    head = json_object.rstrip()
    if not head.endswith(b"}"):
        raise BackendBroken("the answer is not a JSON object")
    head = head[:-1].rstrip()
    comma = b"" if head.endswith(b"{") else b","
    return head + comma + b'"upshift":' + field + b"}"


def plain_body(attempt: TierAttempt, field: Field, form: AnswerForm) -> bytes:
    """A plain routed answer's body: what Upshift asked for itself out, `upshift` in; in OpenAI's form."""
    data = attempt.data
    body = attempt.body
    if data is not None:
        if attempt.asked.logprobs:
            for choice in data["choices"]:
                choice["logprobs"] = None
        if form.complete(data) or attempt.asked.logprobs:
            body = orjson.dumps(data)
    return with_field(body, field(attempt.usage))


def _is_special(data: bytes) -> bool:
    """Whether there may be more in it than content: a finish reason, usage, an error, an end, a comment."""
    return data.startswith(b":") or any(mark in data for mark in _LOOK_INTO)


def _is_whole(piece: bytes, common: bytes) -> bool:
    """Whether a piece is nothing but events, each an object in UTF-8 by its looks that holds `common`."""
    events = piece.count(b"\n\n")
    return events == piece.count(b"data: {") == piece.count(b"}\n\n") == piece.count(common) and _is_text(
        piece
    )


def _is_object(data: bytes) -> bool:
    return data.startswith(b"{") and data.endswith(b"}")


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _common_part(data: bytes) -> bytes:
    """What the chunks of a stream have in common, told in one piece before or after the choices; b'' where it
    is told in several."""
    at = data.find(b'"choices"')
    before, after = data[:at], data[data.rfind(b"]") + 1 :]
    for part in (before, after):
        if all(name in part for name in _HEAD):
            return part
    return b""


class StreamRelay:
    """The events of one routed stream, in the order and form the client gets them."""

    def __init__(self, attempt: TierAttempt, field: Field, form: AnswerForm) -> None:
        self._attempt = attempt
        self._field = field
        self._form = form
        self._probes = _PROBED
        self._mends = False  # this backend's chunks lack something
        self._common = b""  # what each of them tells alike
        self._kept: bytes | None = None  # data of the finish event, until what follows it is known
        self._ended = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Bytes for the client. Raises `BackendError` when the stream breaks; nothing is sent after that."""
        attempt = self._attempt
        held, attempt.events = attempt.events, []
        out = b"".join(self._event(event, counted=True) for event in held)
        if attempt.done:
            yield out + self._finish()
            return
        if out:
            yield out
        splitter = attempt.take_splitter()
        async for piece in attempt.raw_pieces():
            if (
                not splitter.held
                and piece.endswith(b"\n\n")
                and self._kept is None
                and not attempt.keep_text
                and not attempt.asked.logprobs  # those have to be taken out again
                and not self._mends
                and not self._probes
                and not _is_special(piece)
                and _is_whole(piece, self._common)
            ):
                attempt.reader.pieces += piece.count(b"data:")
                yield piece
                continue
            before = splitter.held
            try:
                events = splitter.feed(piece)
            except EventTooLarge as error:
                raise BackendBroken(str(error)) from error
            attempt.hold.take(splitter.held - before)
            out = b"".join(self._event(event) for event in events)
            if out:
                yield out
            if self._ended:
                break
        else:
            if tail := splitter.rest():
                yield self._event(tail)
        yield self._finish()
        await attempt.finish()

    def _event(self, event: bytes, counted: bool = False) -> bytes:
        """`_passed`, of an event that is text: bytes that are none end a client's reading."""
        if not _is_text(event):
            raise BackendBroken("an event of the stream is not UTF-8")
        return self._passed(event, counted)

    def _passed(self, event: bytes, counted: bool) -> bytes:
        """What the client gets for one event; b'' when it is kept back, dropped, or after the end."""
        data = event_data(event)
        if not data:
            return b"" if self._ended else event  # a comment
        if data == b"[DONE]":
            self._ended = True
        if self._ended:
            return b""
        attempt = self._attempt
        before, self._kept = self._kept, None
        chunk = decode_event(data) if self._is_looked_into(data) else None
        if chunk is not None and not counted:
            attempt.reader.add(chunk)
        elif not counted:
            attempt.reader.pieces += 1
        if chunk is not None and self._completes(chunk, data):
            data = orjson.dumps(chunk)
            event = data_event(data)
        choices = (chunk.get("choices") or ()) if chunk is not None else ()
        if chunk is not None and isinstance(chunk.get("usage"), dict) and not choices:
            return self._usage_event(before, data)
        out = data_event(before) if before is not None else b""
        if any(choice.get("finish_reason") for choice in choices):
            self._kept = data
            return out
        return out + event

    def _is_looked_into(self, data: bytes) -> bool:
        attempt = self._attempt
        if self._probes or self._mends or attempt.asked.logprobs or attempt.keep_text:
            return True
        return self._common not in data or _is_special(data) or not _is_object(data)

    def _completes(self, chunk: dict[str, Any], data: bytes) -> bool:
        """Bring a chunk into the form the client gets; whether that changed it. The first ones tell how the
        backend makes them."""
        ours = self._attempt.asked.logprobs
        if ours:
            for choice in chunk.get("choices") or ():
                choice["logprobs"] = None
            if not self._probes and not self._mends and self._common in data and not _is_special(data):
                return True  # like the first ones, which had nothing amiss
        amiss = self._form.complete_chunk(chunk)
        if self._probes:
            self._probes -= 1
            self._common = self._common or _common_part(data)
            if amiss or not (self._common or self._probes):
                self._mends = True
        return self._form.begin_choices(chunk) | amiss | ours

    def _usage_event(self, before: bytes | None, data: bytes) -> bytes:
        field = self._field(self._attempt.usage)
        if self._attempt.asked.usage:  # ours: only the finish event goes on, with the field
            self._kept = None
            return data_event(with_field(before, field)) if before is not None else b""
        head = data_event(before) if before is not None else b""
        return head + data_event(with_field(data, field))

    def _finish(self) -> bytes:
        """The end of the stream. Raises `BackendBroken` when it ended without a finish reason."""
        if not self._attempt.reader.finished:
            raise BackendBroken("the stream ended before its finish reason")
        kept, self._kept = self._kept, None
        out = b"" if kept is None else data_event(with_field(kept, self._field(self._attempt.usage)))
        return out + DONE

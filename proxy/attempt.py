"""One call to one tier, held back until the cascade commits to it.

A plain answer is read whole. A stream is read only as far as the cascade asks: to its first content
(`ready`) or to its end (`complete`); `proxy.relay` sends what is held and then the rest. What Upshift asked
of the backend and the client did not (log-probabilities, the usage chunk) is noted here and taken out there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.backends.http import HttpReply
from proxy.call import Call
from proxy.completion import (
    StreamReader,
    Usage,
    check_choices,
    is_hollow,
    read_answers,
    read_json,
    read_usage,
)
from proxy.held_bytes import Hold, read_whole
from proxy.record import TierUse
from proxy.sse import EventSplitter, EventTooLarge, event_data
from proxy.token_counts import TokenCount
from proxy.wire_error import error_code
from routing.attempt import Standing
from routing.errors import BackendBroken, BackendError
from routing.protocols import Answer, Backend, BackendReply, BackendRequest
from routing.tier import Tier

_CLIENT_ERRORS = frozenset({400, 413, 422})
_END_S = 0.2  # how long the end of a reply may take after its [DONE]; then its connection is given up
_WINDOW_WORDS = ("context_length_exceeded", "maximum context length", "context window", "max_model_len")


@dataclass(frozen=True, slots=True)
class Asked:
    """What Upshift asks of a backend for itself; the client asked for neither."""

    logprobs: bool = False
    usage: bool = False


class TierAttempt:
    """A reply of tier `tier` to `call`."""

    def __init__(
        self, tier: int, call: Call, reply: BackendReply, asked: Asked, hold: Hold | None = None
    ) -> None:
        self.tier = tier
        self.call = call
        self.asked = asked
        self.hold = hold or Hold()
        self.status = reply.status
        self.headers = reply.headers
        self.standing: Standing = "ok"
        self.body = b""
        self.data: dict[str, Any] | None = None
        self.events: list[bytes] = []  # read, not yet sent
        self.reader = StreamReader(call.api)
        self.done = False  # the stream's [DONE] or the end of the connection was reached
        self.count: TokenCount | None = None  # of its tier, for usage that the backend never told
        self.use: TierUse | None = None  # its place in the request's account
        self.keep_text = False  # a stream's text is wanted when it has passed
        self.ended_well = False  # a stream that was not read but passed on came to its proper end
        self._reply = reply
        self._splitter = EventSplitter()
        self._pieces: AsyncIterator[bytes] | None = None
        self._reading: asyncio.Future[bytes] | None = None  # the next piece, waited for and not yet taken

    async def classify(self) -> None:
        """For a status that is no success, a redirect too: read the body and tell whose fault it is."""
        if 200 <= self.status < 300:
            return
        self.body = await read_whole(self._reply, self.hold)
        self.standing = standing_of(self.status, self.body)

    async def ready(self) -> None:
        if not self.call.stream:
            await self.complete()
            if self.data is not None and is_hollow(self.data):
                raise BackendBroken("the answer is empty")
            return
        try:
            while not self.reader.begun:
                if not await self._pull() and not self.reader.begun:
                    raise BackendBroken("the stream ended before any content")
            if self.done and not self.reader.finished:
                raise BackendBroken("the stream ended before its finish reason")
        except BackendBroken:
            self.disown()
            raise
        if self.reader.hollow:
            raise BackendBroken("the answer is empty")

    async def complete(self) -> None:
        try:
            await self._complete()
        except BackendBroken:
            self.disown()
            raise

    async def _complete(self) -> None:
        if self.call.stream:
            while await self._pull():
                pass
            if not self.reader.finished:
                raise BackendBroken("the stream ended before its finish reason")
        elif self.data is None:
            self.body = await read_whole(self._reply, self.hold)
            data = read_json(self.body)
            check_choices(data, self.call.api)
            self.data = data

    def disown(self) -> None:
        """The reply is unusable, which its backend is to blame for: a circuit may open."""
        if isinstance(self._reply, HttpReply):
            self._reply.disown()

    def answers(self) -> list[Answer]:
        if self.call.stream:
            return self.reader.answers() if self.done and self.reader.finished else []
        if self.data is None:
            return []
        try:
            return read_answers(self.data, self.call.api)
        except (AttributeError, TypeError, ValueError) as error:
            raise BackendBroken("the answer is not of the shape of a completion") from error

    def kept_answers(self) -> list[Answer]:
        """The choices of an answer that has been sent; empty where nobody asked to keep the text."""
        if not self.call.stream:
            return self.answers()
        return self.reader.answers() if self.keep_text and self.reader.finished else []

    @property
    def tokens(self) -> int:
        """Tokens held of the shortest choice, about; of a stream."""
        return self.reader.tokens

    def prefix(self) -> list[Answer]:
        """What a stream holds of each choice; empty when it is no plain text or a choice has not begun."""
        return self.reader.prefixes(self.call.choices)

    @property
    def whole(self) -> bool:
        """Whether the answer has come to its end."""
        return self.reader.finished or self.ended_well if self.call.stream else self.data is not None

    @property
    def usage(self) -> Usage:
        """Tokens as the backend counted them; for a stream that did not say, pieces seen."""
        if not self.call.stream:
            return read_usage(self.data) if self.data is not None else Usage()
        if self.reader.usage.known:
            return self.reader.usage
        asked = self.count.about(self.call.prompt_bytes) if self.count is not None else 0
        return Usage(asked, self.reader.pieces)

    @property
    def model(self) -> str:
        """The model as the backend names it in its answer; '' where it has not."""
        name = self.data.get("model") if self.data is not None else self.reader.model
        return name if isinstance(name, str) else ""

    async def raw_pieces(self) -> AsyncIterator[bytes]:
        """The rest of the stream's bytes, for a relay that has taken over `events`."""
        while piece := await self._next_piece():
            yield piece

    def reading(self) -> asyncio.Future[bytes]:
        """The wait for the next piece; whoever takes it next takes this one."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(anext(self._stream(), b""))
        return self._reading

    async def advance(self) -> bool:
        """Take the next piece of a stream. False at its end."""
        return await self._pull()

    def take_splitter(self) -> EventSplitter:
        """The splitter with whatever part of an event it holds."""
        return self._splitter

    async def close(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await self._reply.close()

    async def finish(self) -> None:
        """Read what follows the last event, so that the connection can be used again."""
        try:
            async with asyncio.timeout(_END_S):
                while await self._next_piece():
                    pass
        except (TimeoutError, BackendError):
            pass  # the answer is complete; only the connection is lost
        await self._reply.close()

    def _stream(self) -> AsyncIterator[bytes]:
        if self._pieces is None:
            kind = self.headers.get("content-type", "")
            if not kind.lower().startswith("text/event-stream"):
                raise BackendBroken(f"a stream was asked for, {kind or 'no content type'} came")
            self._pieces = self._reply.chunks()
        return self._pieces

    async def _next_piece(self) -> bytes:
        """b'' at the end. A break after the only choice's finish reason is an end like any other: the answer
        is whole, and an error after it would make the client pay for another."""
        reading, self._reading = self._reading, None
        try:
            return await (reading if reading is not None else anext(self._stream(), b""))
        except BackendError:
            if self.call.choices == 1 and self.reader.finished:
                return b""
            raise

    async def _pull(self) -> bool:
        """Read one piece. False at the end of the stream."""
        if self.done:
            return False
        piece = await self._next_piece()
        self.hold.take(len(piece))
        try:
            events = self._splitter.feed(piece) if piece else [self._splitter.rest()]
        except EventTooLarge as error:
            raise BackendBroken(str(error)) from error
        for event in events:
            data = event_data(event)
            if data == b"[DONE]":
                self.done = True
                break
            if data:
                self.reader.add(decode_event(data))
                self.events.append(event)
        if not piece:
            self.done = True
            await self._reply.close()
        elif self.done:
            await self.finish()
        return not self.done


def decode_event(data: bytes) -> dict[str, Any]:
    """An event's JSON. Raises `BackendBroken`."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BackendBroken("a stream event is not valid JSON") from error
    if not isinstance(chunk, dict):
        raise BackendBroken("a stream event is not a JSON object")
    return chunk


def standing_of(status: int, body: bytes) -> Standing:
    """Whose fault an error status is: the client's, the window's, or the tier's."""
    if status in _CLIENT_ERRORS:
        words = error_code(body)
        return "context_window" if any(word in words for word in _WINDOW_WORDS) else "client_error"
    return "failed"


def mapped_parameters(call: Call, tier: Tier) -> dict[str, bytes | None]:
    """The client's fields that the tier refuses or knows by another name; a name it gave itself wins."""
    changes: dict[str, bytes | None] = {name: None for name in tier.drop_parameters if name in call.fields}
    for name, known in tier.rename_parameters.items():
        if name in call.fields:
            changes[name] = None
            if known not in call.fields:
                changes[known] = call.fields[name]
    return changes


async def begin_attempt(
    backend: Backend,
    index: int,
    tier: Tier,
    call: Call,
    *,
    judged: bool,
    pinned: bool = False,
    headers: Mapping[str, str],
    timeout_s: float | None,
    timeout_stage: str = "total",
    hold: Hold | None = None,
) -> TierAttempt:
    """Send `call` to `tier`. Raises `BackendError` when there was no reply at all; `Overloaded`.

    A judged attempt asks for log-probabilities (the evaluator reads them), and a stream for its usage
    chunk (cost), where the client did not.
    """
    asked = Asked(
        logprobs=judged and not call.wants_logprobs and "logprobs" in tier.capabilities,
        usage=not pinned and call.stream and not call.wants_usage and "stream_usage" in tier.capabilities,
    )
    changes: dict[str, bytes | None] = {"model": orjson.dumps(tier.model), **mapped_parameters(call, tier)}
    if asked.logprobs:
        changes["logprobs"] = b"true" if call.api == "chat" else b"0"
    if asked.usage:
        options = call.value("stream_options") or {}
        changes["stream_options"] = orjson.dumps({**options, "include_usage": True})
    request = BackendRequest(
        call.path, call.encode(changes), call.stream, headers, timeout_s, timeout_stage=timeout_stage
    )
    reply = await backend.send(request)
    attempt = TierAttempt(index, call, reply, asked, hold)
    try:
        await attempt.classify()
    except BaseException:
        await attempt.close()
        raise
    return attempt

"""What workers and the scorer process say to each other: length-prefixed MessagePack on a Unix socket.

A connection belongs to one bundle. `Open` comes first and is answered when the bundle is loaded and warm;
then any number of `Ask` are under way at once, each answered by the `Reply` of its number. `Leave` says that
nobody waits for a number any more.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec

from proxy.score_cache import PromptPair
from routing.protocols import Answer

SOCKET = "UPSHIFT_SCORER_SOCKET"  # where the workers of one supervisor find it
_PREFIX_BYTES = 4
MAX_FRAME_BYTES = 256 << 20  # a prompt is bounded by the server long before
Frame = TypeVar("Frame")


class Open(msgspec.Struct, tag="open", array_like=True):
    """The bundle, by folder and version: the folder may hold another one by now."""

    path: str
    version: str


class Ask(msgspec.Struct, tag="ask", array_like=True):
    """Scores of a prompt, its difficulty among them or not, or, with `answer`, of the answer to it."""

    number: int
    prompt: str
    answer: Answer | None = None
    difficulty: bool = True


class Leave(msgspec.Struct, tag="leave", array_like=True):
    """Whoever asked has gone."""

    number: int


class Reply(msgspec.Struct, array_like=True):
    """`pair` for a prompt, `adequate` for an answer, `error` for neither; number 0 answers `Open`."""

    number: int
    pair: PromptPair | None = None
    adequate: float | None = None
    error: str = ""


Request = Open | Ask | Leave
_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)


def frame_of(message: Request | Reply) -> bytes:
    """Raises `UnicodeEncodeError` for a lone surrogate."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_PREFIX_BYTES, "big") + body


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Raises `asyncio.IncompleteReadError` at the end, `msgspec.DecodeError` for what is no request."""
    return _requests.decode(await _read_body(reader))


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Raises as `read_request`."""
    return _replies.decode(await _read_body(reader))


async def _read_body(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(_PREFIX_BYTES), "big")
    if size > MAX_FRAME_BYTES:
        raise msgspec.DecodeError(f"a frame of {size} bytes; at most {MAX_FRAME_BYTES} are allowed")
    return await reader.readexactly(size)

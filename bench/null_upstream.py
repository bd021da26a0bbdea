"""A backend that costs nearly nothing: fixed answers on raw sockets, one process, uvloop.

What a proxy adds can only be seen in front of something that adds less. A request is never parsed beyond its
length; `"stream":true` in it asks for a stream. `python -m bench.null_upstream --port N [--chunks 200]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_STREAM = re.compile(rb'"stream" ?: ?true')
_BATCH = 4  # chunks in a write: a backend under load writes what several steps produced


def plain_answer() -> bytes:
    """A chat completion of a usual size, with its HTTP head."""
    text = "The answer is short, as most answers are, and it is always the same one."
    body = json.dumps({
        "id": "chatcmpl-null", "object": "chat.completion", "created": 1, "model": "null",
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None,
                     "message": {"role": "assistant", "content": text, "refusal": None}}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 18, "total_tokens": 30},
    }).encode()  # fmt: skip
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def stream_answer(chunks: int, batch: int = _BATCH) -> list[bytes]:
    """The writes of a stream: the head, then `chunks` chunks, each an HTTP chunk of its own."""

    def event(delta: dict[str, str], finish: str | None = None) -> bytes:
        data = json.dumps({
            "id": "chatcmpl-null", "object": "chat.completion.chunk", "created": 1, "model": "null",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        })  # fmt: skip
        return _http_chunk(b"data: " + data.encode() + b"\n\n")

    first = event({"role": "assistant", "content": " word0"})
    events = [first, *(event({"content": f" word{at}"}) for at in range(1, chunks - 1)), event({}, "stop")]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    writes = [b"".join(events[at : at + batch]) for at in range(0, chunks, batch)]
    return [head + writes[0], *writes[1:], _http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class NullUpstream(asyncio.Protocol):
    """One connection."""

    def __init__(self, plain: bytes, stream: list[bytes], interval_s: float = 0.0) -> None:
        self._plain = plain
        self._stream = stream
        self._interval_s = interval_s
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        held = self._held + data if self._held else data
        while (end := held.find(b"\r\n\r\n")) >= 0:
            head = held[:end]
            if _CHUNKED.search(head):
                last = held.find(b"0\r\n\r\n", end + 4)
                size = -1 if last < 0 else last + 5 - end - 4
            else:
                found = _LENGTH.search(head)
                size = int(found[1]) if found else 0
            if size < 0 or len(held) < end + 4 + size:
                break
            request, held = held[: end + 4 + size], held[end + 4 + size :]
            self._answer(request)
        self._held = held

    def _answer(self, request: bytes) -> None:
        write = self._transport.write  # type: ignore[attr-defined]
        if _STREAM.search(request) and self._interval_s:
            self._write_slowly(0)
        elif _STREAM.search(request):
            for piece in self._stream:
                write(piece)
        else:
            write(self._plain)

    def _write_slowly(self, at: int) -> None:
        if at < len(self._stream) and not self._transport.is_closing():  # type: ignore[attr-defined]
            self._transport.write(self._stream[at])  # type: ignore[attr-defined]
            asyncio.get_running_loop().call_later(self._interval_s, self._write_slowly, at + 1)


async def _serve(port: int, chunks: int, interval_s: float) -> None:
    plain, stream = plain_answer(), stream_answer(chunks, 1 if interval_s else _BATCH)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: NullUpstream(plain, stream, interval_s), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--chunk-interval-ms", type=float, default=0.0, help="0: as fast as they are taken")
    options = parser.parse_args()
    uvloop.run(_serve(options.port, options.chunks, options.chunk_interval_ms / 1e3))


if __name__ == "__main__":
    main()

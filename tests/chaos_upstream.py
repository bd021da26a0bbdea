"""A backend that misbehaves on purpose: an OpenAI-shaped server on raw asyncio sockets.

Every fault is one coroutine that is given the request and the connection, so that it can send any bytes at
any time, in any framing, or none. What is needed to prove that nothing is left behind is counted here:
requests seen, connections open now.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

END = b"\r\n"
DONE = b"data: [DONE]\n\n"


@dataclass
class Exchange:
    """One request and the connection to answer on."""

    path: str
    body: dict
    writer: asyncio.StreamWriter
    upstream: ChaosUpstream
    keep_alive: bool = True

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    async def head(self, status: int = 200, *headers: str, kind: str = "") -> None:
        """Status and headers of a chunked reply."""
        kind = kind or ("text/event-stream" if self.stream else "application/json")
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", "transfer-encoding: chunked", *headers]
        await self.raw("\r\n".join(lines).encode() + END + END)

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def whole(self, status: int, body: bytes, *headers: str, kind: str = "application/json") -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
        await self.raw("\r\n".join(lines).encode() + END + END + body)

    def reset(self) -> None:
        """RST instead of FIN."""
        self.keep_alive = False
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):  # the client was faster
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    def completion(self, text: str | None = None) -> dict:
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": self.upstream.model,
            "choices": [{
                "index": 0, "finish_reason": "stop", "logprobs": None,
                "message": {"role": "assistant", "content": self.upstream.text if text is None else text},
            }],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
        }  # fmt: skip

    def event(self, delta: dict, finish: str | None = None) -> bytes:
        chunk = {
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.upstream.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }  # fmt: skip
        return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"

    def events(self) -> list[bytes]:
        """A whole healthy stream, `[DONE]` not included."""
        out = [self.event({"role": "assistant", "content": ""})]
        out += [self.event({"content": word}) for word in split_words(self.upstream.text)]
        out.append(self.event({}, "stop"))
        if (self.body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
            chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": self.upstream.model,
                     "choices": [], "usage": usage}  # fmt: skip
            out.append(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        return out


def split_words(text: str) -> list[str]:
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + words[-1:]


Fault = Callable[[Exchange], Awaitable[None]]


async def healthy(exchange: Exchange) -> None:
    """A right answer, in the form that was asked for."""
    if not exchange.stream:
        await exchange.whole(200, json.dumps(exchange.completion()).encode())
        return
    await exchange.head()
    for event in exchange.events():
        await exchange.chunk(event)
        await asyncio.sleep(0)
    await exchange.chunk(DONE)
    await exchange.end()


@dataclass
class ChaosUpstream:
    """One backend; `fault` may be changed while it runs."""

    model: str
    text: str
    fault: Fault = healthy
    requests: int = 0
    port: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    busy: int = 0  # requests that have been read and not been answered to their end

    async def __aenter__(self) -> ChaosUpstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self.open):
            writer.transport.abort()
        while self.open:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        begin = await reader.readexactly(1)
        if begin == b"\x16":  # a TLS handshake, which a server without TLS takes for a bad request
            writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            return False
        head = (begin + await reader.readuntil(END + END)).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        exchange = Exchange(first.split(" ")[1], json.loads(body or b"{}"), writer, self)
        self.requests += 1
        self.busy += 1
        work = asyncio.ensure_future(self.fault(exchange))
        gone = asyncio.ensure_future(
            reader.read(1)
        )  # nothing more is sent before the answer: this is the end
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return False
            await work
            return exchange.keep_alive and not gone.done()
        finally:
            self.busy -= 1
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

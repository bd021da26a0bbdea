"""The faults of the matrix: each on a plain request and on a stream, as that fault would look there."""

from __future__ import annotations

import asyncio
import json

from tests.chaos_upstream import DONE, Exchange, Fault, healthy

LONG_S = 30.0  # longer than any limit of a test


async def hang(exchange: Exchange) -> None:
    """Accepts, reads, never answers."""
    await asyncio.sleep(LONG_S)


async def close_unanswered(exchange: Exchange) -> None:
    exchange.keep_alive = False


async def reset_unanswered(exchange: Exchange) -> None:
    exchange.reset()


async def bad_http(exchange: Exchange) -> None:
    await exchange.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    exchange.keep_alive = False


async def reset_mid_body(exchange: Exchange) -> None:
    """Half of the answer, then RST."""
    await _half(exchange)
    await asyncio.sleep(0.05)
    exchange.reset()


async def truncated(exchange: Exchange) -> None:
    """Half of the answer, then a clean end: well-formed HTTP, but no finish reason and half a JSON."""
    await _half(exchange)
    await exchange.end()


async def cut_short(exchange: Exchange) -> None:
    """Half of the answer, then FIN without the end of the body."""
    await _half(exchange)
    exchange.keep_alive = False


async def malformed_json(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.chunk(b'data: {"choices": [}\n\n' if exchange.stream else b'{"choices": [}')
    await exchange.end()


async def malformed_later(exchange: Exchange) -> None:
    await _late(exchange, b'data: {"choices": [{"delta": {"con\n\n')


async def wrong_type(exchange: Exchange) -> None:
    await exchange.whole(200, b"<html><body>It works!</body></html>", kind="text/html")


async def non_utf8(exchange: Exchange) -> None:
    data = json.dumps(exchange.completion("@@")).encode().replace(b"@@", b"\xff\xfe")
    if exchange.stream:
        data = exchange.event({"content": "@@"}).replace(b"@@", b"\xff\xfe")
    await exchange.head()
    await exchange.chunk(data)
    await exchange.end()


async def non_utf8_later(exchange: Exchange) -> None:
    await _late(exchange, exchange.event({"content": "@@"}).replace(b"@@", b"\xc3\x28"))


async def trickle(exchange: Exchange) -> None:
    """One byte at a time, each well within the limit between bytes: only the total limit ends it."""
    await exchange.head()
    data = json.dumps(exchange.completion()).encode()
    if exchange.stream:
        first, second, *rest = exchange.events()
        await exchange.chunk(first + second)
        data = b"".join(rest)
    for byte in data * 10:
        await exchange.chunk(bytes([byte]))
        await asyncio.sleep(0.1)


async def slow_first_token(exchange: Exchange) -> None:
    """Status and headers at once, then nothing."""
    await exchange.head()
    await asyncio.sleep(LONG_S)


async def stalls(exchange: Exchange) -> None:
    """Half of the answer, then nothing."""
    await _half(exchange)
    await asyncio.sleep(LONG_S)


def status(code: int, *headers: str) -> Fault:
    async def fault(exchange: Exchange) -> None:
        error = {"message": f"upstream says {code}", "type": "server_error", "param": None, "code": None}
        await exchange.whole(code, json.dumps({"error": error}).encode(), *headers)

    return fault


async def html_error(exchange: Exchange) -> None:
    await exchange.whole(502, b"<html>Bad Gateway at 10.0.0.7</html>", kind="text/html")


async def error_200(exchange: Exchange) -> None:
    await exchange.whole(200, b'{"error": {"message": "model is loading", "code": 503}}')


async def error_event(exchange: Exchange) -> None:
    """An error event before any content."""
    if not exchange.stream:
        await error_200(exchange)
        return
    await exchange.head()
    await exchange.chunk(b'data: {"error": {"message": "out of memory", "code": 500}}\n\n')
    await exchange.chunk(DONE)
    await exchange.end()


async def error_event_later(exchange: Exchange) -> None:
    await _late(exchange, b'data: {"error": {"message": "out of memory", "code": 500}}\n\n' + DONE)


async def missing_done(exchange: Exchange) -> None:
    await exchange.head()
    for event in exchange.events():
        await exchange.chunk(event)
    await exchange.end()


async def doubled_done(exchange: Exchange) -> None:
    await exchange.head()
    for event in exchange.events():
        await exchange.chunk(event)
    await exchange.chunk(DONE + DONE)
    await exchange.end()


async def split_character(exchange: Exchange) -> None:
    """Five bytes at a time: cut inside events, lines and characters."""
    await exchange.head()
    data = b"".join(exchange.events()) + DONE
    for at in range(0, len(data), 5):
        await exchange.chunk(data[at : at + 5])
        await asyncio.sleep(0)
    await exchange.end()


async def no_end(exchange: Exchange) -> None:
    """A whole answer up to `[DONE]`, but the connection never ends."""
    await exchange.head()
    for event in exchange.events():
        await exchange.chunk(event)
    await exchange.chunk(DONE)
    await asyncio.sleep(LONG_S)


async def reset_after_finish(exchange: Exchange) -> None:
    """RST between the finish reason and `[DONE]`."""
    await exchange.head()
    for event in exchange.events():
        await exchange.chunk(event)
    await asyncio.sleep(0.05)
    exchange.reset()


async def gigantic(exchange: Exchange) -> None:
    """An answer that does not end."""
    await exchange.head()
    if not exchange.stream:
        await exchange.chunk(b'{"choices": [{"message": {"role": "assistant", "content": "')
    while True:
        await exchange.chunk(exchange.event({"content": "x" * 50_000}) if exchange.stream else b"x" * 50_000)
        await asyncio.sleep(0)


async def one_huge_event(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.chunk(b"data: {")
    while True:
        await exchange.chunk(b"x" * 65536)


async def empty_200(exchange: Exchange) -> None:
    await exchange.whole(200, b"", kind="text/event-stream" if exchange.stream else "application/json")


async def no_choices(exchange: Exchange) -> None:
    body = DONE if exchange.stream else b'{"choices": []}'
    await exchange.whole(200, body, kind="text/event-stream" if exchange.stream else "application/json")


async def wrong_shape(exchange: Exchange) -> None:
    """JSON whose fields have other types than OpenAI's."""
    bad = {"choices": [{"index": [], "message": 7, "delta": {"tool_calls": 3}, "finish_reason": {}}],
           "usage": {"prompt_tokens": "many", "completion_tokens": -1}}  # fmt: skip
    data = json.dumps(bad).encode()
    await exchange.head()
    await exchange.chunk(b"data: " + data + b"\n\n" if exchange.stream else data)
    await exchange.end()


async def _half(exchange: Exchange) -> None:
    await exchange.head()
    if exchange.stream:
        for event in exchange.events()[:3]:
            await exchange.chunk(event)
    else:
        data = json.dumps(exchange.completion()).encode()
        await exchange.chunk(data[: len(data) // 2])


async def _late(exchange: Exchange, bad: bytes) -> None:
    """Some content, then `bad` in the middle of the stream; the rest as if nothing had been."""
    events = exchange.events()
    await exchange.head()
    for event in events[:3]:
        await exchange.chunk(event)
        await asyncio.sleep(0.01)
    await exchange.chunk(bad)
    await asyncio.sleep(0.01)
    for event in events[3:]:
        await exchange.chunk(event)
    await exchange.chunk(DONE)
    await exchange.end()


__all__ = ["healthy", "status"]

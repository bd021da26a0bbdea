"""Requests that two servers could read in two ways, headers without end, and what is passed on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import pytest

from tests.chaos_upstream import DONE, ChaosUpstream, Exchange, healthy
from tests.proxy.live_proxy import FixedScorers, LiveProxy, live_proxy, make_settings

BODY = b'{"model": "weak", "messages": [{"role": "user", "content": "hello"}]}'
LINE = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


@contextlib.asynccontextmanager
async def server(**limits: float) -> AsyncIterator[tuple[ChaosUpstream, LiveProxy]]:
    async with ChaosUpstream("weak-model", "hello") as upstream:
        tiers = [{"name": name, "url": upstream.url, "model": "weak-model"} for name in ("weak", "strong")]
        async with live_proxy(make_settings(tiers, server=limits), FixedScorers(1.0)) as proxy:
            yield upstream, proxy


async def talk(proxy: LiveProxy, data: bytes, within_s: float = 5.0, then: bytes = b"") -> bytes:
    """Everything the server answers until it closes, or until it has been silent for half a second. `then` is
    sent when the answer has begun."""
    host, port = proxy.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    out = b""
    try:
        writer.write(data)
        await writer.drain()
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            piece = await asyncio.wait_for(reader.read(65536), 0.5 if out else within_s)
            if not piece:
                break
            out += piece
            if then:
                writer.write(then)
                then = b""
    except (TimeoutError, ConnectionError):
        pass
    writer.transport.abort()
    return out


AMBIGUOUS = {
    "length and chunked": LINE + LENGTH + CHUNKED + b"\r\n" + CHUNKS,
    "chunked and length": LINE + CHUNKED + LENGTH + b"\r\n" + CHUNKS,
    "two lengths": LINE + LENGTH + b"content-length: 0\r\n\r\n" + BODY,
    "the same length twice": LINE + LENGTH + LENGTH + b"\r\n" + BODY,
    "a list of lengths": LINE + b"content-length: %d, %d\r\n\r\n" % (len(BODY), len(BODY)) + BODY,
    "signed length": LINE + b"content-length: +%d\r\n\r\n" % len(BODY) + BODY,
    "negative length": LINE + b"content-length: -1\r\n\r\n" + BODY,
    "hex length": LINE + b"content-length: 0x45\r\n\r\n" + BODY,
    "huge length": LINE + b"content-length: 99999999999999999999999\r\n\r\n" + BODY,
    "folded header": LINE + b"x-folded: a\r\n b\r\n" + CHUNKED + b"\r\n" + CHUNKS,
    "folded length": LINE + b"content-length:\r\n 69\r\n\r\n" + BODY,
    "space before the colon": LINE + b"content-length : %d\r\n\r\n" % len(BODY) + BODY,
    "space in a name": LINE + b"content length: 5\r\n" + LENGTH + b"\r\n" + BODY,
    "chunked, not last": LINE + b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKS,
    "unknown coding": LINE + b"transfer-encoding: xchunked\r\n\r\n" + CHUNKS,
    "a vertical tab": LINE + b"transfer-encoding: \x0bchunked\r\n\r\n" + CHUNKS,
    "bad chunk size": LINE + CHUNKED + b"\r\nzz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "signed chunk size": LINE + CHUNKED + b"\r\n-1\r\n" + BODY + b"\r\n0\r\n\r\n",
    "0x chunk size": LINE + CHUNKED + b"\r\n0x45\r\n" + BODY + b"\r\n0\r\n\r\n",
    "huge chunk size": LINE + CHUNKED + b"\r\nffffffffffffffffff\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk longer than said": LINE + CHUNKED + b"\r\n5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "bare LF after a chunk": LINE + CHUNKED + b"\r\n%x\r\n%s\n0\r\n\r\n" % (len(BODY), BODY),
    "NUL in a header": LINE + b"x-a: a\0b\r\n" + LENGTH + b"\r\n" + BODY,
    "bare CR in a header": LINE + b"x-a: a\rcontent-length: 0\r\n" + LENGTH + b"\r\n" + BODY,
    "no colon": LINE + b"garbage\r\n" + LENGTH + b"\r\n" + BODY,
    "version 1.2.3": LINE.replace(b"HTTP/1.1", b"HTTP/1.2.3") + LENGTH + b"\r\n" + BODY,
    "no host": LINE.replace(b"host: x\r\n", b"") + LENGTH + b"\r\n" + BODY,
    "two hosts": LINE + b"host: y\r\n" + LENGTH + b"\r\n" + BODY,
    "a second coding": LINE + b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNKS,
    "chunked twice": LINE + CHUNKED + CHUNKED + b"\r\n" + CHUNKS,
    "chunks of HTTP/1.0": LINE.replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKED + b"\r\n" + CHUNKS,
    "another protocol": LINE + b"connection: upgrade\r\nupgrade: h2c\r\n" + LENGTH + b"\r\n" + BODY,
    "bare LF": (LINE + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    "space in the target": LINE.replace(b"completions ", b"completions evil ") + LENGTH + b"\r\n" + BODY,
}  # fmt: skip


async def test_what_could_be_read_in_two_ways_is_refused():
    """No request of the body reaches a backend, and what follows it is never taken for a request."""
    async with server() as (upstream, proxy):
        names = list(AMBIGUOUS)
        answers = await asyncio.gather(*(talk(proxy, AMBIGUOUS[name] + SMUGGLED) for name in names))
        for name, answer in zip(names, answers, strict=True):
            assert answer.startswith(b"HTTP/1.1 400 "), (name, answer[:300])
            assert answer.count(b"HTTP/1.1 ") == 1, (name, answer)
            assert b"connection: close" in answer, name
            error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
            assert (set(error), error["code"]) == ({"message", "type", "param", "code"}, "invalid_http")
        assert upstream.requests == 0, "nothing reaches a backend"
        for fine in (LINE + LENGTH + b"\r\n" + BODY, LINE + CHUNKED + b"\r\n" + CHUNKS):
            answer = await talk(proxy, fine + SMUGGLED)
            assert answer.count(b"HTTP/1.1 200 ") == 2, "the probes differ from good requests by their fault"
        assert upstream.requests == 2
        await proxy.settled()


GOOD = LINE + LENGTH + b"\r\n" + BODY
UNREADABLE = {
    "garbage": b"\x00\x01 nonsense\r\n\r\n",
    "a bad chunk": LINE + CHUNKED + b"\r\nzz\r\n",
    "a bad chunk of the last of two": GOOD + LINE + CHUNKED + b"\r\nzz\r\n",
    "endless headers": LINE + b"x-big: " + b"v" * 100_000,
    "a second host": LINE + b"host: y\r\n\r\n",
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_owed_answer_comes_before_the_end(name: str):
    """A 400 in the place of an answer would be taken for it, one in its middle would spoil it."""

    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.05)
        if not exchange.stream:
            await healthy(exchange)
            return
        await exchange.head()
        for event in [*exchange.events(), DONE]:
            await exchange.chunk(event)
            await asyncio.sleep(0.02)
        await exchange.end()

    bad, stream = UNREADABLE[name], BODY[:-1] + b', "stream": true}'
    async with server() as (upstream, proxy):
        upstream.fault = slow
        answers = 2 if bad.startswith(GOOD) else 1
        found = await talk(proxy, GOOD + bad + GOOD)
        assert (found.count(b"HTTP/1.1 "), found.count(b"HTTP/1.1 200 ")) == (answers, answers), found
        begun = LINE + b"content-length: %d\r\n\r\n" % len(stream) + stream
        found = await talk(proxy, begun, 5.0, bad)
        assert (found.count(b"HTTP/1.1 "), found.count(b"HTTP/1.1 200 ")) == (answers, answers), found
        assert b"data: [DONE]\n\n\r\n0\r\n\r\n" in found
        await proxy.settled()
        assert upstream.busy == 0


async def test_an_old_client_gets_no_chunks():
    """HTTP/1.0 knows none: a stream ends with its connection."""
    async with server() as (_, proxy):
        body = BODY[:-1] + b', "stream": true}'
        line = LINE.replace(b"HTTP/1.1", b"HTTP/1.0")
        answer = await talk(proxy, line + b"content-length: %d\r\n\r\n" % len(body) + body)
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert rest.startswith(b"data: {")
        assert rest.endswith(DONE)


async def test_a_connection_without_a_request_is_closed():
    """Also one that sends line ends for ever."""
    async with server(client_read_timeout_s=0.4) as (_, proxy):
        host, port = proxy.url.removeprefix("http://").split(":")
        for drip in (b"", b"\r\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            started, ended = time.monotonic(), asyncio.ensure_future(reader.read())
            while not ended.done() and time.monotonic() - started < 8:
                with contextlib.suppress(ConnectionError):
                    writer.write(drip)
                await asyncio.sleep(0.05)
            assert time.monotonic() - started < 6
            with contextlib.suppress(ConnectionError):
                assert await ended == b""
            writer.close()


async def test_connections_are_bounded():
    """What comes beyond is told so; those that are there are served, and a place becomes free again."""
    async with server(max_connections=3, shed_retry_after_s=7) as (_, proxy):
        host, port = proxy.url.removeprefix("http://").split(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        reader, writer = await asyncio.open_connection(host, int(port))
        refused = await asyncio.wait_for(reader.read(), 5)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 7\r\n" in refused
        writer.close()
        for reader, writer in held:
            writer.write(GOOD)
            assert (await asyncio.wait_for(reader.read(15), 5)) == b"HTTP/1.1 200 OK"
            writer.transport.abort()
        for _ in range(100):
            if not proxy.server.server_state.connections:
                break
            await asyncio.sleep(0.01)
        assert (await talk(proxy, GOOD)).startswith(b"HTTP/1.1 200 ")
        await proxy.settled()


async def test_headers_are_bounded():
    async with server(max_header_bytes=8192) as (upstream, proxy):
        many = b"".join(b"x-%d: %s\r\n" % (number, b"v" * 100) for number in range(2_000))
        for head in (
            LINE + b"x-big: " + b"v" * 20_000 + b"\r\n" + LENGTH + b"\r\n" + BODY,
            LINE + b"x-endless: " + b"v" * 500_000,
            LINE + many + LENGTH + b"\r\n" + BODY,
            b"POST /" + b"a" * 100_000,
        ):
            answer = await talk(proxy, head)
            assert answer.startswith(b"HTTP/1.1 431 "), answer[:200]
            assert answer.count(b"HTTP/1.1 ") == 1
        trailers = LINE + CHUNKED + b"\r\n" + CHUNKS[:-2] + b"x-t: " + b"v" * 400_000
        assert b"200 OK" not in await talk(proxy, trailers)
        assert upstream.requests == 0
        modest = LINE + b"x-modest: " + b"v" * 4000 + b"\r\n" + LENGTH + b"\r\n" + BODY
        assert (await talk(proxy, modest)).startswith(b"HTTP/1.1 200 ")
        big = BODY[:-1] + b', "filler": "' + b"x" * 200_000 + b'"}'
        fine = LINE + b"content-length: %d\r\n\r\n" % len(big) + big
        assert (await talk(proxy, fine)).startswith(b"HTTP/1.1 200 "), "a body is no header"
        await proxy.settled()


@pytest.mark.parametrize("part", ["head", "body"])
async def test_a_request_that_trickles_is_cut_off(part: str):
    async with server(client_read_timeout_s=0.6, client_body_timeout_s=1.2) as (upstream, proxy):
        host, port = proxy.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        if part == "body":
            writer.write(LINE + b"content-length: 1000\r\n\r\n")
        else:
            writer.write(b"POST /v1/chat/comp")
        started, ended = time.monotonic(), asyncio.ensure_future(reader.read())
        while not ended.done() and time.monotonic() - started < 8:
            with contextlib.suppress(ConnectionError):
                writer.write(b" " if part == "body" else b"x")
            await asyncio.sleep(0.1)
        seconds = time.monotonic() - started
        with contextlib.suppress(ConnectionError):
            await ended
        assert (0.4 if part == "head" else 1.0) < seconds < 4.0
        assert upstream.requests == 0
        writer.transport.abort()
        await proxy.settled()


async def test_hop_by_hop_headers_and_credentials_stay_here():
    seen: list[str] = []

    class Listening(ChaosUpstream):
        async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head.decode("latin-1").lower())
            length = int(seen[-1].partition("content-length: ")[2].partition("\r\n")[0])
            await reader.readexactly(length)
            body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop",
                                            "message": {"role": "assistant", "content": "x"}}]})  # fmt: skip
            hop = "connection: x-secret\r\nx-secret: 1\r\nkeep-alive: timeout=5\r\nproxy-authenticate: a\r\n"
            own = "set-cookie: a=b\r\nauthorization: Bearer backend\r\nserver: vllm\r\n"
            writer.write(
                f"HTTP/1.1 200 OK\r\n{hop}{own}content-type: application/json\r\n"
                f"content-length: {len(body)}\r\n\r\n{body}".encode()
            )
            return False

    async with Listening("weak-model", "x") as upstream:
        tiers = [{"name": name, "url": upstream.url, "model": "weak-model"} for name in ("weak", "strong")]
        async with live_proxy(make_settings(tiers), FixedScorers(1.0)) as proxy:
            sent = (
                b"authorization: Bearer client-key\r\nproxy-authorization: Basic a\r\ncookie: session=1\r\n"
                b"connection: x-hop\r\nx-hop: 1\r\nte: trailers\r\nkeep-alive: timeout=9\r\nupgrade: h2c\r\n"
                b"x-forwarded-for: 10.0.0.9\r\nx-api-key: other\r\nx-base-url: http://evil.example\r\n"
                b"x-upstream: http://evil.example\r\n"
            )
            line = LINE.replace(b"host: x", b"host: evil.example")
            for model in (b'"weak"', b'"upshift"'):
                body = BODY.replace(b'"weak"', model)[:-1] + b', "base_url": "http://evil.example/v1"}'
                answer = await talk(proxy, line + sent + b"content-length: %d\r\n\r\n" % len(body) + body)
                assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
                head = answer.partition(b"\r\n\r\n")[0].lower()
                for name in (
                    b"x-secret",
                    b"keep-alive",
                    b"proxy-auth",
                    b"set-cookie",
                    b"authorization:",
                    b"vllm",
                ):
                    assert name not in head, head
    assert len(seen) == 2, "asked at the configured address"
    for request in seen:
        for word in ("client-key", "cookie", "x-hop", "te:", "keep-alive", "upgrade", "10.0.0.9", "x-api-key",
                     "evil", "proxy-auth"):  # fmt: skip
            assert word not in request, request

"""Answers that look right and are not, and odd ones that are right: on the wire, in events, in their text."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from tests import chaos_faults as faults
from tests.chaos_upstream import DONE, ChaosUpstream, Exchange, Fault, healthy
from tests.proxy.live_proxy import FixedScorers, LiveProxy, Seen, live_proxy, make_settings

WEAK, STRONG = "weak words of an answer", "strong words of another"
KEY = "sk-backend-0123456789abcdef"


@contextlib.asynccontextmanager
async def pair(
    score: float = 1.0, key_env: str = "", **sections
) -> AsyncIterator[tuple[ChaosUpstream, ChaosUpstream, LiveProxy]]:
    async with ChaosUpstream("weak-model", WEAK) as weak, ChaosUpstream("strong-model", STRONG) as strong:
        tiers = [
            {"name": one.model.split("-")[0], "url": one.url, "model": one.model, "api_key_env": key_env}
            for one in (weak, strong)
        ]
        async with live_proxy(make_settings(tiers, **sections), FixedScorers(score)) as proxy:
            yield weak, strong, proxy
            await proxy.settled()


async def post(proxy: LiveProxy, path: str, **body: object) -> Seen:
    async with proxy.session.post(f"{proxy.url}{path}", json=body) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Seen(response.status, headers, await response.read(), 0.0)


def raw_reply(head: str, framed: bool = True) -> Fault:
    """A right plain answer under another head; `framed`: its length is told."""

    async def fault(exchange: Exchange) -> None:
        body = json.dumps(exchange.completion()).encode()
        length = f"content-length: {len(body)}\r\n" if framed else ""
        await exchange.raw(f"{head}content-type: application/json\r\n{length}\r\n".encode() + body)
        exchange.keep_alive = framed

    return fault


async def test_odd_replies_on_the_wire() -> None:
    """What HTTP allows is understood, what it forbids is the backend's failure."""
    fine = {
        "100 first": raw_reply("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "103 first": raw_reply("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "until the connection's end": raw_reply("HTTP/1.1 200 OK\r\n", framed=False),
        "HTTP/1.0": raw_reply("HTTP/1.0 200 OK\r\n"),
        "connection: close": raw_reply("HTTP/1.1 200 OK\r\nconnection: close\r\n"),
    }
    bad = {
        "101": raw_reply("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
        "folded": raw_reply("HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\n"),
        "both lengths": raw_reply("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"),
        "204": raw_reply("HTTP/1.1 204 No Content\r\n"),
        "302": faults.status(302, "location: http://127.0.0.1:1/"),
        "cut inside a chunk": _cut_inside_a_chunk,
    }
    async with pair(backends={"breaker_failures": 0}) as (weak, _, proxy):
        for name, fault in (fine | bad).items():
            weak.fault = fault
            seen = await proxy.ask("weak")
            assert seen.status == (200 if name in fine else 502), (name, seen.body)
            routed = await proxy.ask("upshift")
            assert routed.text == (WEAK if name in fine else STRONG), name


async def _cut_inside_a_chunk(exchange: Exchange) -> None:
    await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
    await exchange.raw(b'transfer-encoding: chunked\r\n\r\nfff\r\n{"choi')
    exchange.keep_alive = False


def stream_of(change) -> Fault:
    """A stream whose events (`[DONE]` among them) were changed; a plain request gets a right answer."""

    async def fault(exchange: Exchange) -> None:
        if not exchange.stream:
            await healthy(exchange)
            return
        await exchange.head()
        await exchange.chunk(change(exchange))
        await exchange.end()

    return fault


def _spread(exchange: Exchange) -> bytes:
    """Each event's JSON over many data lines, with an id and a comment before it."""
    out = b""
    for event in exchange.events():
        lines = json.dumps(json.loads(event[6:]), indent=1, ensure_ascii=False).encode().split(b"\n")
        out += b": ping\n\nid: 7\n" + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
    return out + DONE


WHOLE = {
    "a byte order mark": lambda x: b"\xef\xbb\xbf" + b"".join(x.events()[1:]) + DONE,
    "CRLF": lambda x: (b"".join(x.events()) + DONE).replace(b"\n", b"\r\n"),
    "CR": lambda x: (b"".join(x.events()) + DONE).replace(b"\n", b"\r"),
    "many lines": _spread,
}
CUT = {
    "[DONE] without a finish reason": lambda x: b"".join(x.events()[:3]) + DONE,
    "[DONE] in the text": lambda x: b"".join(x.events()[:2]) + x.event({"content": "data: [DONE]"}),
    "a finish reason in the text": lambda x: x.event({"content": '"finish_reason": "stop" \n\ndata: [DONE]'}),
}  # fmt: skip


async def test_odd_streams_that_are_whole() -> None:
    async with pair() as (weak, _, proxy):
        for name, change in WHOLE.items():
            weak.fault = stream_of(change)
            seen = await proxy.ask("upshift", True)
            assert (seen.status, seen.text, seen.finished) == (200, WEAK, True), name
            pinned = await proxy.ask("weak", True)
            if name == "CR":  # its bytes would have to be changed
                assert pinned.status == 502
            else:
                assert pinned.status == 200, name
                assert pinned.body.endswith((DONE, DONE.replace(b"\n", b"\r\n"))), name


@pytest.mark.parametrize("name", CUT)
async def test_a_truncated_stream_is_never_shown_as_whole(name: str) -> None:
    """Whatever its text says of its own end."""
    async with pair(backends={"breaker_failures": 0}) as (weak, strong, proxy):
        weak.fault = strong.fault = stream_of(CUT[name])
        for model in ("weak", "upshift"):
            seen = await proxy.ask(model, True)
            assert not seen.finished if seen.status == 200 else seen.status == 502, (model, seen.body)
            if seen.status == 200:
                assert len(seen.errors) == 1, seen.body
                assert "[DONE]" not in seen.events
        assert proxy.outcomes() == {"upstream_error": 2}
        strong.fault = healthy
        assert (await proxy.ask("upshift", True)).text == STRONG


async def test_a_plain_answer_without_a_finish_reason_is_none() -> None:
    async def unfinished(exchange: Exchange) -> None:
        answer = exchange.completion()
        answer["choices"][0]["finish_reason"] = None
        await exchange.whole(200, json.dumps(answer).encode())

    async with pair() as (weak, _, proxy):
        weak.fault = unfinished
        assert (await proxy.ask("weak")).status == 502
        assert (await proxy.ask("upshift")).text == STRONG


@pytest.mark.parametrize("stream", [False, True])
async def test_an_empty_answer_is_never_silent(stream: bool) -> None:
    """Empty on strong: the weak answer stands in, marked; without one it is an error. A tool call or a
    thought is not empty, and a pinned model speaks for itself."""

    def saying(finish: str, **message: object) -> Fault:
        async def fault(exchange: Exchange) -> None:
            if not exchange.stream:
                answer = exchange.completion("")
                answer["choices"][0]["message"].update(message)
                answer["choices"][0]["finish_reason"] = finish
                await exchange.whole(200, json.dumps(answer).encode())
                return
            await exchange.head()
            await exchange.chunk(exchange.event({"role": "assistant", "content": ""}))
            await exchange.chunk(exchange.event(message) + exchange.event({}, finish) + DONE)
            await exchange.end()

        return fault

    calls = [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    async with pair(score=0.0, backends={"breaker_failures": 0}) as (weak, strong, proxy):
        strong.fault = saying("stop")
        seen = await proxy.ask("upshift", stream)
        assert (seen.text, seen.headers["x-upshift-decision"]) == (WEAK, "degraded")
        weak.fault = saying("stop")
        seen = await proxy.ask("upshift", stream)
        assert (seen.status, seen.data["error"]["code"]) == (502, "backend_broken")
        assert (await proxy.ask("strong", stream)).status == 200
        for fault in (saying("tool_calls", tool_calls=calls), saying("length", reasoning_content="hm")):
            strong.fault = fault
            seen = await proxy.ask("upshift", stream)
            assert (seen.status, seen.headers["x-upshift-decision"]) == (200, "escalated")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_break_after_the_end_is_none(stream: bool) -> None:
    """The finish reason came, the connection broke before `[DONE]`: nothing is missing."""
    async with pair(score=0.0) as (_, strong, proxy):
        strong.fault = faults.reset_after_finish if stream else healthy
        seen = await proxy.ask("upshift", stream)
        assert (seen.status, seen.text, seen.headers["x-upshift-decision"]) == (200, STRONG, "escalated")
        if stream:
            assert seen.finished
            assert not seen.errors
            assert seen.events[-1] == "[DONE]"


NO_ANSWERS: list[tuple[bytes, str]] = [
    (b"", "application/json"), (b"<html>It works!</html>", "text/html"), (b"[]", "application/json"),
    (b'{"data": [', "application/json"), (b'{"error": {"message": "loading"}}', "application/json"),
    (b"{}", "application/json"), (b'{"object": "list", "data": []}', "application/json"),
]  # fmt: skip


async def test_unusable_200s_of_what_is_passed_through() -> None:
    """Embeddings and the Responses API: no silent empty answer either."""
    async with pair(backends={"breaker_failures": 0}) as (weak, _, proxy):
        for body, kind in NO_ANSWERS:

            async def says(exchange: Exchange, body: bytes = body, kind: str = kind) -> None:
                await exchange.whole(200, body, kind=kind)

            weak.fault = says
            seen = await post(proxy, "/v1/embeddings", model="weak", input="x")
            assert (seen.status, seen.data["error"]["code"]) == (502, "backend_broken"), body
            seen = await post(proxy, "/v1/responses", model="weak", input="x")
            assert seen.status == (200 if b'"object"' in body else 502), body
        assert proxy.outcomes()["upstream_error"] == 2 * len(NO_ANSWERS) - 1


async def test_a_passed_stream_breaks_between_events() -> None:
    """Never our error event after half of the backend's; `[DONE]` in the text is no end."""

    async def half(exchange: Exchange) -> None:
        await exchange.head(kind="text/event-stream")
        await exchange.chunk(b'event: a\ndata: {"type":"response.created"}\n\n')
        await exchange.chunk(
            b'event: b\ndata: {"type":"response.output_text.delta","delta":"data: [DONE]"}\n\nev'
        )
        await exchange.chunk(b'ent: b\ndata: {"type":"response.out')
        await exchange.end()

    async with pair() as (weak, _, proxy):
        weak.fault = half
        seen = await post(proxy, "/v1/responses", model="weak", input="x", stream=True)
        blocks = seen.body.decode().split("\n\n")
        assert [block.partition("\n")[0] for block in blocks] == ["event: a", "event: b", "event: error", ""]
        assert all(json.loads(block.partition("data: ")[2]) for block in blocks[:3])
        assert proxy.outcomes() == {"upstream_error": 1}


async def test_a_key_cut_into_pieces_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend repeats its key, a few bytes at a time, in an answer and in a stream."""
    monkeypatch.setenv("UPSHIFT_TEST_KEY", KEY)

    async def quotes(exchange: Exchange) -> None:
        exchange.upstream.text = f"the key is {KEY}, and s is a letter: {KEY[:9]}"
        data = b"".join(exchange.events()) + DONE
        if not exchange.stream:
            data = json.dumps(exchange.completion()).encode()
        await exchange.head()
        for at in range(0, len(data), 7):
            await exchange.chunk(data[at : at + 7])
            await asyncio.sleep(0)
        await exchange.end()

    async with pair(key_env="UPSHIFT_TEST_KEY") as (weak, _, proxy):
        weak.fault = quotes
        for model in ("weak", "upshift"):
            for stream in (False, True):
                seen = await proxy.ask(model, stream)
                assert KEY.encode() not in seen.body
                assert seen.text == f"the key is [redacted], and s is a letter: {KEY[:9]}"

"""Backends of the field that are neither healthy nor plainly broken: bytes written by hand, each with what a
client must see of it, pinned and routed. What belongs to HTTP or SSE is understood; an answer that is whole
is never called broken, one that is not is never called whole; nothing a backend writes ends in a 500."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator

from tests.proxy.live_proxy import FixedScorers, LiveProxy, Seen, live_proxy, make_settings

TEXT = "hello there"
PLAIN = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}).encode()  # fmt: skip
DONE = b"data: [DONE]\n\n"
USAGE = b'"usage":{"prompt_tokens":11,"completion_tokens":22}'


def event(delta: object, finish: object = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


BEGUN = event({"role": "assistant", "content": ""}) + event({"content": "hello "})
WHOLE = BEGUN + event({"content": "there"}) + event({}, "stop")


def reply(
    body: bytes = PLAIN, *headers: str, line: str = "HTTP/1.1 200 OK", kind: str = "application/json"
) -> bytes:
    lines = [line, f"content-type: {kind}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def stream(body: bytes, *headers: str, kind: str = "text/event-stream") -> bytes:
    lines = ["HTTP/1.1 200 OK", f"content-type: {kind}", "transfer-encoding: chunked", *headers, "", ""]
    return "\r\n".join(lines).encode() + b"%x;ext=1\r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (len(body), body)


class ByHand:
    """Answers every request with `says`, and closes the connection without a word; `seen` are requests."""

    def __init__(self) -> None:
        self.says = b""
        self.seen: list[bytes] = []

    async def __aenter__(self) -> ByHand:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            self.seen.append(head)
            writer.write(self.says)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def by_hand() -> AsyncIterator[tuple[ByHand, LiveProxy]]:
    """One backend for both tiers: what a routed client gets is then never another tier's."""
    async with ByHand() as backend:
        tiers = [{"name": name, "url": backend.url, "model": name} for name in ("weak", "strong")]
        limits = {"breaker_failures": 0, "outlier_share": 0}
        async with live_proxy(make_settings(tiers, backends=limits), FixedScorers(1.0)) as proxy:
            yield backend, proxy
            await proxy.settled()


STREAMS_THAT_ARE_WHOLE = {
    "a finish reason far before the end": WHOLE
    + b'data: {"choices":[],"x":"%b",%b}\n\n' % (b"y" * 9000, USAGE),
    "all in one event, the finish reason first": b'data: {"choices":[{"finish_reason":"stop","index":0,'
    b'"delta":{"content":"hello there"}}],"x":"%b"}\n\n' % (b"y" * 9000),
    "comments for long after the finish reason": WHOLE + b": still counting\n\n" * 400,
    "usage without choices": WHOLE + b'data: {"id":"c",%b}\n\n' % USAGE,
    "usage with null for choices": WHOLE + b'data: {"choices":null,%b}\n\n' % USAGE,
    "no choices at first": b'data: {"choices":[],"prompt_filter_results":[]}\n\n' + WHOLE,
    "an error that is null": event({"content": "hello "}, error=None)
    + event({"content": "there"}, "stop", error=None),
    "an empty finish reason until the end": WHOLE.replace(b'"finish_reason": null', b'"finish_reason": ""'),
    "null for content": event({"role": "assistant", "content": None}) + WHOLE,
    "fields of SSE": b"retry: 300\n\n" + WHOLE.replace(b"data:", b"id: 7\n: hm\nevent: message\ndata:"),
}  # fmt: skip
STREAMS_THAT_ARE_NOT = {
    "[DONE] before the finish reason": BEGUN + DONE + event({}, "stop"),
    "an empty finish reason at the end": BEGUN + event({"content": "there"}) + event({}, "") + DONE,
    "an error beside choices": BEGUN + event({}, "error", error={"message": "oom"}) + WHOLE + DONE,
    "an error with spaces": BEGUN + b'data: { "error" : {"message": "oom"} }\n\n' + event({}, "stop") + DONE,
    "a choice that is none": BEGUN + b'data: {"choices":[7],"usage":{}}\n\n',
}  # fmt: skip


def words(seen: Seen) -> str:
    blocks = [block for block in seen.body.decode().split("\n\n") if "\ndata: {" in "\n" + block]
    chunks = [json.loads(("\n" + block).partition("\ndata: ")[2]) for block in blocks]
    return "".join(
        (choice["delta"] or {}).get("content") or ""
        for chunk in chunks
        for choice in chunk.get("choices") or ()
    )


async def test_whole_streams_are_called_whole() -> None:
    async with by_hand() as (backend, proxy):
        for name, body in STREAMS_THAT_ARE_WHOLE.items():
            backend.says = stream(body + DONE, kind="Text/Event-Stream; Charset=UTF-8")
            for model in ("weak", "upshift"):
                seen = await proxy.ask(model, True)
                assert (seen.status, words(seen)) == (200, TEXT), (name, model, seen.body[-300:])
                assert seen.body.endswith(DONE), (name, model)
                assert b'{"error":{' not in seen.body, (name, model)
        assert proxy.outcomes() == {"ok": 2 * len(STREAMS_THAT_ARE_WHOLE)}
        assert proxy.count("upshift_tokens_total", kind="completion") > 3 * 22, "usage was found"


async def test_other_streams_are_not() -> None:
    async with by_hand() as (backend, proxy):
        for name, body in STREAMS_THAT_ARE_NOT.items():
            backend.says = stream(body)
            for model in ("weak", "upshift"):
                seen = await proxy.ask(model, True)
                assert seen.status in (200, 502), (name, model)
                if seen.status == 200:
                    assert seen.body.count(b'"error"') >= 1, (name, model, seen.body)
                    assert DONE not in seen.body, (name, model)
        assert proxy.outcomes() == {"upstream_error": 2 * len(STREAMS_THAT_ARE_NOT)}


REDIRECTS = [
    reply(PLAIN, "location: http://127.0.0.1:1/v1/chat/completions", line=f"HTTP/1.1 {status} Moved")
    for status in (300, 301, 302, 303, 307, 308)
]


async def test_a_redirect_is_a_failure_and_is_never_followed() -> None:
    """Not even where it brings an answer: the key must not go to another host."""
    async with by_hand() as (backend, proxy):
        for says in REDIRECTS:
            backend.says = says
            for path, body in (
                ("chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
                ("completions", {"prompt": "x"}), ("responses", {"input": "x"}),
                ("embeddings", {"input": "x"}),
            ):  # fmt: skip
                before = len(backend.seen)
                sent = {"model": "weak", **body}
                async with proxy.session.post(
                    f"{proxy.url}/v1/{path}", json=sent, allow_redirects=False
                ) as answer:
                    assert answer.status == 502, (path, says[:30])
                    assert "location" not in answer.headers
                    assert set((await answer.json())["error"]) == {"message", "type", "param", "code"}
                assert len(backend.seen) == before + 1


async def test_what_a_backend_names_itself_is_no_header_of_ours() -> None:
    """A model's name with line breaks would split the answer, one of 100 kB be refused by clients."""
    odd = ["a\r\nx-evil: 1", "a\nb", "\0", "m" * 100_000, "", 7, None, ["m"]]
    async with by_hand() as (backend, proxy):
        for name in odd:
            quoted = json.dumps(name).encode()
            for streamed in (False, True):
                whole = (WHOLE + DONE).replace(b'"model": "m"', b'"model": ' + quoted)
                plain = reply(
                    PLAIN.replace(b'"model": "m"', b'"model": ' + quoted), "openai-x: " + "y" * 9000
                )
                backend.says = stream(whole) if streamed else plain
                seen = await proxy.ask("upshift", streamed)
                assert seen.status == 200, (name, streamed)
                assert seen.headers["x-upshift-model"] == "weak"
                assert "x-evil" not in seen.headers
                assert "openai-x" not in seen.headers


TIMES = {
    "Fri, 31 Dec 9999 23:59:59 GMT": "31536000", "Wed, 21 Oct 2015 07:28:00 GMT": "0",
    "99999999999999": "31536000",
    "-5": "0", "0.2": "1", "nan": None, "1e999": None, "soon": None, "": None, "5, 6": None,
    "Wed, 21 Oct 2015 07:28:00 +99999999999999999999": None, "Wed, 21 Oct 99999 07:28:00 GMT": None,
}  # fmt: skip


async def test_any_retry_after_is_survived_and_only_times_are_told() -> None:
    async with by_hand() as (backend, proxy):
        for value, told in TIMES.items():
            says = json.dumps({"error": {"message": "slow down"}}).encode()
            backend.says = reply(says, f"retry-after: {value}", line="HTTP/1.1 429 Too Many Requests")
            seen = await proxy.ask("weak")
            assert (seen.status, seen.headers.get("retry-after")) == (429, told), value
            assert seen.headers["x-should-retry"] == ("true" if told else "false"), value
            assert seen.seconds < 5.0


async def test_an_encoded_answer_is_a_clear_failure() -> None:
    """`accept-encoding: identity` was sent; what comes encoded all the same cannot be judged or relayed."""
    async with by_hand() as (backend, proxy):
        for encoding in ("gzip", "br", "deflate"):
            for streamed in (False, True):
                packed = gzip.compress(WHOLE + DONE if streamed else PLAIN)
                coding = f"content-encoding: {encoding}"
                backend.says = stream(packed, coding) if streamed else reply(packed, coding)
                seen = await proxy.ask("weak", streamed)
                assert seen.status == 502
                assert f"encoded ({encoding})" in seen.data["error"]["message"]
        backend.says = reply(PLAIN, "content-encoding: identity")
        assert (await proxy.ask("weak")).text == TEXT
        backend.says = reply(gzip.compress(b"{}"), "content-encoding: gzip", line="HTTP/1.1 400 Bad Request")
        assert (await proxy.ask("weak")).status == 400, "an error's status is told whatever its body"
        assert b"accept-encoding: identity\r\n" in backend.seen[-1]


ODD_SHAPES = {
    "a finish reason that is an object": {"finish_reason": {"a": 1}},
    "a message that is a text": {"message": "hello there"},
    "tool calls that are a number": {"message": {"content": None, "tool_calls": 7}},
}


async def test_odd_shapes_are_failures_on_every_path() -> None:
    async with by_hand() as (backend, proxy):
        for name, choice in ODD_SHAPES.items():
            chat = json.loads(PLAIN)
            chat["choices"][0].update(choice)
            backend.says = reply(json.dumps(chat).encode())
            for model in ("weak", "upshift"):
                seen = await proxy.ask(model)
                assert seen.status == 502, (name, model, seen.body)
            sent = {"model": "upshift", "input": "x"}
            async with proxy.session.post(f"{proxy.url}/v1/responses", json=sent) as answer:
                assert answer.status == 502, name
                assert (await answer.json())["error"]["code"] == "backend_broken"
        usage = b'"usage": {"prompt_tokens_details": [7], '
        backend.says = reply(PLAIN.replace(b'"usage": {', usage))
        assert (await proxy.ask("upshift")).status == 200, "what need not be read is not looked into"
        async with proxy.session.post(f"{proxy.url}/v1/responses", json=sent) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (502, "backend_broken")


async def test_absurd_counts_are_no_counts() -> None:
    async with by_hand() as (backend, proxy):
        for count in ("1" + "0" * 30, "9223372036854775808", "-1", "1.5", "true", '"7"'):
            backend.says = reply(PLAIN.replace(b'"prompt_tokens": 1', f'"prompt_tokens": {count}'.encode()))
            assert (await proxy.ask("weak")).text == TEXT
        assert proxy.count("upshift_tokens_total", kind="prompt") == 0


async def test_a_backend_that_closes_without_a_word_fails_nobody() -> None:
    """Kept connections are found closed all the time: each such request goes out again, on a new connection,
    and no budget of repeats runs out over it."""
    async with by_hand() as (backend, proxy):
        backend.says = reply()

        async def client() -> None:
            for _ in range(10):
                seen = await proxy.ask("weak")
                assert (seen.status, seen.text) == (200, TEXT), seen.body

        await asyncio.gather(*(client() for _ in range(8)))
        assert len(backend.seen) == 80
        assert proxy.count("upshift_circuit_open") == 0
        assert proxy.outcomes() == {"ok": 80}

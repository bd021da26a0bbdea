"""Clients that leave, read slowly, or come all at once; scorers that fail; limits across two tiers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from routing.protocols import Answer
from scorers.runtime.batcher import Batcher
from tests import chaos_faults as faults
from tests.chaos_upstream import DONE, ChaosUpstream, Exchange, healthy
from tests.proxy.live_proxy import FixedScorers, LiveProxy, Stopwatch, live_proxy, make_settings

GONE_S = 0.1


@contextlib.asynccontextmanager
async def pair(
    score: float = 1.0, scorers: FixedScorers | None = None, **sections
) -> AsyncIterator[tuple[ChaosUpstream, ChaosUpstream, LiveProxy]]:
    """Two backends and the proxy in front of them."""
    async with (
        ChaosUpstream("weak-model", "weak words") as weak,
        ChaosUpstream("strong-model", "strong") as strong,
    ):
        tiers = [
            {"name": one.model.split("-")[0], "url": one.url, "model": one.model} for one in (weak, strong)
        ]
        async with live_proxy(make_settings(tiers, **sections), scorers or FixedScorers(score)) as proxy:
            yield weak, strong, proxy


async def connect(
    proxy: LiveProxy, stream: bool, model: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request on a bare socket."""
    host, port = proxy.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
    writer.write(request_bytes(json.dumps(body).encode()))
    await writer.drain()
    return reader, writer


def request_bytes(body: bytes) -> bytes:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def until(condition, within_s: float = 5.0) -> float:
    """Seconds until it holds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_s, "it did not happen"
        await asyncio.sleep(0.002)
    return time.monotonic() - started


async def leave(writer: asyncio.StreamWriter, condition) -> None:
    """Hang up, and see the condition hold within `GONE_S` and what the event loop itself stood still."""
    async with Stopwatch() as watch:
        writer.transport.abort()
        seconds = await until(condition)
    assert seconds < GONE_S + 2 * watch.longest_s


@pytest.mark.parametrize("model", ["upshift", "weak"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [faults.hang, faults.slow_first_token, faults.stalls])
async def test_a_client_that_leaves_frees_its_backend(model, stream, fault):
    """Before the reply, before the first byte of it, and in the middle."""
    async with pair() as (weak, _, proxy):
        weak.fault = fault
        reader, writer = await connect(proxy, stream, model)
        await until(lambda: weak.busy == 1)
        if stream and model == "weak" and fault is faults.stalls:
            await reader.readuntil(b"data: ")  # the answer has begun
        else:
            await asyncio.sleep(0.03)
        await leave(writer, lambda: weak.busy == 0)
        await proxy.settled()
        assert proxy.outcomes() == {"cancelled": 1}
        assert proxy.count("upshift_backend_requests_total", tier="weak", outcome="cancelled") == 1


class BatchedScorers(FixedScorers):
    """Answers are judged in batches that take a while, in the thread of a real batcher."""

    def __init__(self, score: float) -> None:
        super().__init__(score)
        self.begun = self.finished = 0
        self.batcher: Batcher[str, float] = Batcher(self._run, len, 4, max_wait_ms=0.0)

    def _run(self, texts: Sequence[str]) -> list[float]:
        self.begun += len(texts)
        time.sleep(0.4)
        self.finished += len(texts)
        return [self.score] * len(texts)

    async def score_answers(self, prompt: str, answers: Sequence[Answer]) -> list[float]:
        return [await self.batcher.submit(answer.text) for answer in answers]

    async def close(self) -> None:
        await self.batcher.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_its_answer_is_judged_starts_nothing_more(stream):
    """The batch that runs comes to its end and is thrown away; the request ends at once."""
    scorers = BatchedScorers(0.0)
    async with pair(scorers=scorers) as (weak, strong, proxy):
        _, writer = await connect(proxy, stream, "upshift")
        await until(lambda: scorers.begun == 1)
        await leave(writer, lambda: proxy.outcomes() == {"cancelled": 1})
        assert (weak.busy, scorers.finished) == (0, 0)
        await until(lambda: scorers.finished == 1)
        await proxy.settled()
        assert strong.requests == 0


async def test_a_client_that_leaves_inside_its_request_reaches_no_backend():
    async with pair() as (weak, strong, proxy):
        host, port = proxy.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request_bytes(b'{"model": "upshift"' + b" " * 100)[:-50])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await until(lambda: proxy.outcomes() == {"cancelled": 1})
        assert weak.requests == strong.requests == 0
        await proxy.settled()


async def test_a_client_that_stops_inside_its_request_is_cut_off():
    async with pair(server={"client_read_timeout_s": 0.3}) as (weak, _, proxy):
        host, port = proxy.url.removeprefix("http://").split(":")
        for part in (b"POST /v1/chat/comp", request_bytes(b"{" + b" " * 100)[:-50]):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(part)
            started = time.monotonic()
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            assert 0.2 < time.monotonic() - started < 1.3
            writer.close()
        assert weak.requests == 0
        await proxy.settled()


async def test_a_client_that_reads_nothing_does_not_hold_its_backend():
    async def endless(exchange: Exchange) -> None:
        await exchange.head()
        while True:
            await exchange.chunk(exchange.event({"content": "x" * 4000}))

    async with pair(server={"client_write_timeout_s": 0.5, "max_answer_bytes": 0}) as (weak, _, proxy):
        weak.fault = endless
        _, writer = await connect(proxy, True, "weak")
        writer.transport.pause_reading()
        await until(lambda: weak.busy == 1)
        await until(lambda: weak.busy == 0, within_s=8.0)
        await proxy.settled()
        assert proxy.outcomes() == {"cancelled": 1}
        writer.transport.abort()


async def test_what_does_not_fit_is_shed_at_once():
    limits = {"max_in_flight_requests": 2, "max_queued_requests": 3, "shed_retry_after_s": 7}

    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.5)
        await healthy(exchange)

    async with pair(server=limits) as (weak, _, proxy):
        weak.fault = slow
        results = await asyncio.gather(*(proxy.ask("weak") for _ in range(20)))
        shed = [seen for seen in results if seen.status == 503]
        assert len(shed) == 15
        assert weak.requests == 5
        for seen in shed:
            assert seen.headers["retry-after"] == "7"
            assert seen.headers["x-should-retry"] == "true"
            assert seen.data["error"]["code"] == "overloaded"
            assert seen.seconds < 0.5
        await proxy.settled()
        assert proxy.outcomes() == {"ok": 5, "shed": 15}
        assert proxy.live.app.gateway.admission.waiting == 0


async def test_a_place_in_the_queue_is_not_for_ever():
    limits = {"max_in_flight_requests": 1, "max_queued_requests": 10, "queue_timeout_s": 0.2}
    async with pair(server={**limits, "request_timeout_s": 2.0}) as (weak, _, proxy):
        weak.fault = faults.hang
        first = asyncio.ensure_future(proxy.ask("weak"))
        await until(lambda: weak.busy == 1)
        seen = await proxy.ask("weak")
        assert (seen.status, seen.data["error"]["code"]) == (503, "overloaded")
        weak.fault = healthy
        assert (await first).status == 504
        assert (await proxy.ask("weak")).status == 200, "the place was given back"
        await proxy.settled()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_a_client_that_leaves_the_queue_gives_its_place_up(path):
    limits = {"max_in_flight_requests": 1, "max_queued_requests": 10, "queue_timeout_s": 30.0}
    async with pair(server=limits) as (weak, _, proxy):
        weak.fault = faults.hang
        admission = proxy.live.app.gateway.admission
        _, running = await connect(proxy, False, "weak")
        await until(lambda: weak.busy == 1)
        host, port = proxy.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        body = b'{"model": "weak", "input": "a", "messages": [{"role": "user", "content": "a"}]}'
        writer.write(request_bytes(body).replace(b"/v1/chat/completions", path.encode()))
        await until(lambda: admission.waiting == 1)
        await leave(writer, lambda: proxy.outcomes() == {"cancelled": 1})
        assert (admission.waiting, weak.requests) == (0, 1)
        running.transport.abort()
        await proxy.settled()


async def test_a_slow_weak_tier_leaves_time_for_the_strong_one():
    server = {"request_timeout_s": 2.0, "first_byte_timeout_s": 0.0, "between_bytes_timeout_s": 0.0}
    for stream in (False, True):
        async with pair(server=server) as (weak, _, proxy):
            weak.fault = faults.hang
            seen = await proxy.ask(stream=stream)
            assert seen.status == 200
            assert seen.text == "strong"
            assert seen.headers["x-upshift-reason"] == "weak_failed"
            assert seen.seconds < 2.0


async def test_a_client_may_ask_for_less_time():
    """`x-upshift-timeout-s`: never more than the server's own limit, and seconds or a 400."""
    async with pair(server={"request_timeout_s": 3.0, "first_byte_timeout_s": 0.0}) as (weak, strong, proxy):
        weak.fault = strong.fault = faults.hang
        for path, model, given, least, most in (
            ("/v1/chat/completions", "weak", "0.4", 0.4, 1.4),
            ("/v1/chat/completions", "upshift", "0.4", 0.2, 1.4),
            ("/v1/embeddings", "weak", "0.4", 0.4, 1.4),
            ("/v1/chat/completions", "weak", "1e9", 3.0, 4.0),
        ):
            body = {"model": model, "messages": [{"role": "user", "content": "x"}], "input": "x"}
            started = time.monotonic()
            headers = {"x-upshift-timeout-s": given}
            async with (
                Stopwatch() as watch,
                proxy.session.post(proxy.url + path, json=body, headers=headers) as response,
            ):
                assert response.status == 504
            assert least - 0.05 < time.monotonic() - started < most + watch.total_s
        for bad in ("0", "-1", "nan", "inf", "soon"):
            for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/responses"):
                async with proxy.session.post(
                    proxy.url + path, json=body, headers={"x-upshift-timeout-s": bad}
                ) as response:
                    assert response.status == 400, (path, bad)
                    assert (await response.json())["error"]["param"] == "x-upshift-timeout-s"


async def test_waiting_for_its_turn_is_part_of_the_deadline():
    limits = {"max_in_flight_requests": 1, "queue_timeout_s": 5.0, "request_timeout_s": 1.0,
              "first_byte_timeout_s": 0.0}  # fmt: skip
    async with pair(server=limits) as (weak, _, proxy):
        weak.fault = faults.hang
        async with Stopwatch() as watch:
            results = await asyncio.gather(proxy.ask("weak"), proxy.ask("weak"))
        assert [seen.status for seen in results] == [504, 504]
        assert all(seen.seconds < 2.0 + watch.total_s for seen in results)


async def test_a_failed_scorer_goes_to_strong_and_is_counted():
    async with pair() as (weak, _, proxy):
        scorers = proxy.live.app.gateway.scorers
        assert isinstance(scorers, FixedScorers)
        scorers.fails = True
        seen = await proxy.ask()
        assert (seen.status, seen.text) == (200, "strong")
        assert seen.headers["x-upshift-reason"] == "scorer_failed"
        assert weak.requests == 1
        assert proxy.count("upshift_fail_open_total") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_truncated_weak_answer_never_stands_in(stream):
    """Weak is cut off, strong fails: half an answer is not better than an error."""
    async with pair(score=0.0) as (weak, strong, proxy):
        weak.fault, strong.fault = faults.truncated, faults.status(500)
        seen = await proxy.ask(stream=stream)
        assert seen.status == 500
        assert b"weak" not in seen.body.replace(b"'weak'", b"")


async def test_strong_failure_is_an_error_where_that_is_configured():
    async with pair(score=0.0, routing={"on_strong_failure": "error"}) as (_, strong, proxy):
        strong.fault = faults.status(500)
        seen = await proxy.ask()
        assert seen.status == 500
        assert proxy.outcomes() == {"upstream_error": 1}


async def test_a_break_after_the_finish_reason_takes_nothing_from_the_client():
    """The answer is whole; a pinned one ends as it should have, a routed one is not worse than an error."""
    async with pair() as (weak, _, proxy):
        weak.fault = faults.reset_after_finish
        seen = await proxy.ask("weak", stream=True)
        assert seen.text == "weak words"
        assert seen.finished
        assert seen.events[-1] == "[DONE]"
        assert not seen.errors
        assert proxy.outcomes() == {"ok": 1}
        routed = await proxy.ask("upshift", stream=True)
        assert routed.text in ("weak words", "strong")
        assert routed.finished


async def test_finished_streams_give_their_connection_back():
    """`[DONE]` and the end of the body come in two packets; the connection is used again all the same."""

    async def two_packets(exchange: Exchange) -> None:
        await exchange.head()
        for event in exchange.events():
            await exchange.chunk(event)
        await exchange.chunk(DONE)
        await asyncio.sleep(0.02)
        await exchange.end()

    async with pair() as (weak, _, proxy):
        weak.fault = two_packets
        for model in ("weak", "upshift") * 3:
            assert (await proxy.ask(model, stream=True)).finished
        assert weak.requests == 6
        assert len(weak.open) == 1

"""Many large bodies and held answers at once are shed before memory grows, and what is held is given back."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.chaos_upstream import DONE, ChaosUpstream, Exchange
from tests.proxy.live_proxy import FixedScorers, LiveProxy, Seen, live_proxy, make_settings
from tests.proxy.server_process import server_process, write_config

MIB = 1 << 20


@contextlib.asynccontextmanager
async def pair(score: float = 1.0, **server: float) -> AsyncIterator[tuple[ChaosUpstream, LiveProxy]]:
    async with ChaosUpstream("weak-model", "weak words") as upstream:
        tiers = [{"name": name, "url": upstream.url, "model": "weak-model"} for name in ("weak", "strong")]
        async with live_proxy(make_settings(tiers, server=server), FixedScorers(score)) as proxy:
            yield upstream, proxy
            await proxy.settled()
            assert proxy.live.app.held.held == 0, "everything is given back"


async def post(proxy: LiveProxy, path: str, body: bytes, **headers: str) -> Seen:
    sent = {"content-type": "application/json", **headers}
    async with proxy.session.post(proxy.url + path, data=io.BytesIO(body), headers=sent) as response:
        told = {name.lower(): value for name, value in response.headers.items()}
        return Seen(response.status, told, await response.read(), 0.0)


def body_of(size: int) -> bytes:
    text = "word " * (size // 5)
    return json.dumps({"model": "weak", "messages": [{"role": "user", "content": text}]}).encode()


def check_shed(seen: Seen) -> None:
    assert (seen.status, seen.data["error"]["code"]) == (503, "overloaded")
    assert seen.headers["retry-after"] == "1"
    assert seen.headers["x-should-retry"] == "true"


async def test_many_large_bodies_are_shed_before_memory_grows(tmp_path: Path) -> None:
    """40 bodies of 4 MiB at once, then the same packed, with room for 3: the others are told to come again. A
    process of its own, because what it takes is not its clients'."""
    room = 14 * MIB

    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.4)
        await exchange.whole(200, json.dumps(exchange.completion()).encode())

    body = body_of(4 * MIB)
    config = tmp_path / "upshift.yaml"
    async with (
        ChaosUpstream("weak-model", "weak words", slow) as upstream,
        aiohttp.ClientSession() as session,
    ):
        write_config(
            config, {"weak": upstream.url, "strong": upstream.url},
            server={"max_held_bytes": room, "max_body_bytes": 8 * MIB},
        )  # fmt: skip
        async with server_process(config) as server:
            url, process = f"{server.url}/v1/chat/completions", psutil.Process(server.process.pid)

            async def ask(sent: bytes, **headers: str) -> tuple[int, str | None]:
                told = {"content-type": "application/json", **headers}
                async with session.post(url, data=io.BytesIO(sent), headers=told) as response:
                    await response.read()
                    return response.status, response.headers.get("retry-after")

            assert await ask(body) == (200, None)
            before = most = process.memory_info().rss

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, process.memory_info().rss)
                    await asyncio.sleep(0.01)

            watcher = asyncio.ensure_future(watch())
            for sent, headers in ((body, {}), (gzip.compress(body, 1), {"content-encoding": "gzip"})):
                seen = await asyncio.gather(*(ask(sent, **headers) for _ in range(40)))
                assert set(seen) == {(200, None), (503, "1")}
            watcher.cancel()
            assert most - before < 8 * room < 40 * len(body)
            assert await ask(body) == (200, None)


async def test_every_door_counts() -> None:
    """What reads its body before it has its place, and what passes through."""
    async with pair(max_held_bytes=MIB) as (upstream, proxy):
        text = "x" * (2 * MIB)
        for path, body in {
            "/v1/embeddings": {"model": "weak", "input": text},
            "/v1/responses": {"model": "upshift", "input": text},
            "/chat": {"prompt": text},
            "/v1/route": {"prompt": text},
        }.items():
            check_shed(await post(proxy, path, json.dumps(body).encode()))
        assert upstream.requests == 0


@pytest.mark.parametrize("model", ["upshift", "weak"])
@pytest.mark.parametrize("stream", [False, True])
async def test_held_answers_count(model: str, stream: bool) -> None:
    """Answers judged, or plain, or one endless line; a stream on its way to the client is not held."""

    async def long(exchange: Exchange) -> None:
        await exchange.head()
        if not exchange.stream:
            await exchange.chunk(json.dumps(exchange.completion("y" * (3 * MIB))).encode())
        elif model == "weak":  # an event that does not end
            await exchange.chunk(exchange.event({"content": "y"}) + b"data: {")
            for _ in range(60):
                await exchange.chunk(b"y" * 50_000)
        else:
            for _ in range(60):
                await exchange.chunk(exchange.event({"content": "y" * 50_000}))
        await exchange.chunk((exchange.event({}, "stop") + DONE) if exchange.stream else b"")
        await exchange.end()

    async with pair(max_held_bytes=2 * MIB, max_answer_bytes=0) as (upstream, proxy):
        upstream.fault = long
        seen = await proxy.ask(model, stream)
        if stream and model == "weak":
            assert seen.errors[0]["code"] == "overloaded"
        else:
            check_shed(seen)
        assert proxy.outcomes() == {"shed": 1}
        assert upstream.busy <= 1
        if stream:

            async def flows(exchange: Exchange) -> None:
                await exchange.head()
                for _ in range(60):
                    await exchange.chunk(exchange.event({"content": "y" * 50_000}))
                await exchange.chunk(exchange.event({}, "stop") + DONE)
                await exchange.end()

            upstream.fault = flows
            assert (await proxy.ask("strong", True)).finished
        assert proxy.count("upshift_circuit_open") == 0, "our own bound says nothing of a backend"

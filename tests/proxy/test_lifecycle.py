"""Start, reload, hand over, stop: real processes, real signals, requests running all the while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.chaos_upstream import DONE, ChaosUpstream, Exchange, healthy
from tests.proxy.bundle_copies import light_copy
from tests.proxy.server_process import ServerProcess, server_process, write_config

CHAT = {"model": "weak", "messages": [{"role": "user", "content": "hello"}]}


# Runs the command after it with descriptor N as its descriptor 3, as systemd hands a socket over.
AS_DESCRIPTOR_3 = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], sys.argv[2:])"
_COUNTED_S = 0.3  # a request is counted after its last byte has gone out


async def slow(exchange: Exchange) -> None:
    """One second for a plain answer, two for a stream."""
    if not exchange.stream:
        await asyncio.sleep(1.0)
        await healthy(exchange)
        return
    await exchange.head()
    for event in exchange.events():
        await exchange.chunk(event)
        await asyncio.sleep(0.3)
    await exchange.chunk(DONE)
    await exchange.end()


async def endless(exchange: Exchange) -> None:
    await exchange.head()
    while True:
        await exchange.chunk(exchange.event({"content": "x"}))
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def served(
    folder: Path, fault: Any = healthy, **sections: Any
) -> AsyncIterator[tuple[ChaosUpstream, ServerProcess]]:
    async with ChaosUpstream("weak-model", "one two three four five", fault) as upstream:
        config = folder / "upshift.yaml"
        write_config(config, {"weak": upstream.url, "strong": upstream.url}, **sections)
        async with server_process(config) as server:
            yield upstream, server


async def ask(session: aiohttp.ClientSession, server: ServerProcess, **fields: Any) -> tuple[int, bytes]:
    async with session.post(f"{server.url}/v1/chat/completions", json={**CHAT, **fields}) as response:
        return response.status, await response.read()


async def until(condition: Any, within_s: float = 15.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)


async def test_sigterm_finishes_what_has_begun_and_exits_with_0(tmp_path):
    async with served(tmp_path, slow) as (upstream, server), aiohttp.ClientSession() as session:
        host, port = server.url.removeprefix("http://").split(":")
        half_reader, half = await asyncio.open_connection(host, int(port))
        body = json.dumps(CHAT).encode()
        lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", "content-type: application/json"]
        head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
        half.write(head.encode()[:40])  # not even its headers are complete
        running = [asyncio.ensure_future(ask(session, server, stream=stream)) for stream in (False, True)]
        await until(lambda: upstream.busy == 2)
        ending = asyncio.ensure_future(server.end())
        await server.until(lambda: server.process.returncode is None)
        await asyncio.sleep(0.2)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))
        half.write(head.encode()[40:] + body)
        (plain, plain_body), (streamed, stream_body) = await asyncio.gather(*running)
        assert (plain, streamed) == (200, 200)
        assert b"one two three four five" in plain_body
        assert stream_body.endswith(DONE)
        late = await half_reader.read()
        assert b"200 OK" in late
        assert b"connection: close" in late.lower()
        assert await ending == 0
        half.close()


async def test_an_idle_connection_may_bring_one_more_request(tmp_path):
    async with served(tmp_path) as (_, server), aiohttp.ClientSession() as session:
        assert (await ask(session, server))[0] == 200
        ending = asyncio.ensure_future(server.end())
        await asyncio.sleep(0.2)
        assert (await ask(session, server))[0] == 200, "on the connection that was kept"
        assert await ending == 0


async def test_a_stream_beyond_the_grace_ends_with_an_error_event(tmp_path):
    async with served(tmp_path, endless, server={"shutdown_grace_s": 1.0}) as (upstream, server):  # noqa: SIM117
        async with aiohttp.ClientSession() as session:
            running = asyncio.ensure_future(ask(session, server, stream=True))
            await until(lambda: upstream.busy == 1)
            started = time.monotonic()
            assert await server.end() == 0
            assert time.monotonic() - started < 6.0
            _, body = await running
            *_, last = [event for event in body.decode().split("\n\n") if event]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
            await until(lambda: upstream.busy == 0)


async def test_sighup_swaps_the_configuration_and_refuses_a_bad_one(tmp_path):
    async with served(tmp_path, slow) as (old, server), ChaosUpstream("weak-model", "new answer") as new:  # noqa: SIM117
        async with aiohttp.ClientSession() as session:
            running = asyncio.ensure_future(ask(session, server))
            await until(lambda: old.busy == 1)
            write_config(server.config, {"weak": new.url, "strong": new.url})
            server.signal(signal.SIGHUP)
            await server.until(lambda: "reloaded" in server.log)
            assert b"new answer" in (await ask(session, server))[1]
            assert b"one two three" in (await running)[1], "an old request finishes on the old one"

            for text in ("tiers: 7", "tiers: [", server.config.read_text() + "bundle: /no/such/folder\n"):
                refused = server.log.count("reload refused")
                server.config.write_text(text)
                server.signal(signal.SIGHUP)
                await server.until(lambda before=refused: server.log.count("reload refused") == before + 1)
                assert b"new answer" in (await ask(session, server))[1]
            async with session.get(f"{server.url}/metrics") as response:
                metrics = await response.text()
            line = 'upshift_requests_total{api="chat_completions",outcome="ok",strategy="pinned"} 5.0'
            assert line in metrics, "counts go on over a reload"


async def policies(session: aiohttp.ClientSession, server: ServerProcess) -> set[tuple[str, bytes]]:
    """Which policy and which words every worker answers with: enough fresh connections to meet them all."""
    found = set()
    for _ in range(30):
        body = {**CHAT, "model": "upshift"}
        async with session.post(f"{server.url}/v1/chat/completions", json=body) as response:
            words = json.loads(await response.read())["choices"][0]["message"]["content"]
            found.add((response.headers["x-upshift-policy"], words))
    return found


async def test_sighup_reaches_every_worker_or_none(tmp_path):
    """A bundle that fails its checksum is refused for all, also for a worker that is started later."""
    first, second, broken = (light_copy(tmp_path / name, name) for name in ("first", "second", "broken"))
    weights = broken.path / "mf.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")

    def configure(upstream: ChaosUpstream, bundle: str) -> None:
        urls = {"weak": upstream.url, "strong": upstream.url}
        config = tmp_path / "upshift.yaml"
        write_config(config, urls, server={"workers": 2}, bundle=str(tmp_path / bundle))

    async with (
        ChaosUpstream("weak-model", "old words", slow) as old,
        ChaosUpstream("weak-model", "new words") as new,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
    ):
        configure(old, "first")
        async with server_process(tmp_path / "upshift.yaml") as server:
            await server.until(lambda: server.ready_lines == 2)
            running = [asyncio.ensure_future(ask(session, server)) for _ in range(6)]
            await until(lambda: old.busy == 6)
            old.fault = healthy
            assert await policies(session, server) == {(first.version, "old words")}
            configure(new, "second")
            server.signal(signal.SIGHUP)
            await server.until(lambda: server.log.count("reloaded: policy") == 2)
            assert await policies(session, server) == {(second.version, "new words")}
            assert {(status, b"old words" in body) for status, body in await asyncio.gather(*running)} == {
                (200, True)
            }, "old requests finish on the old one"

            configure(old, "broken")
            server.signal(signal.SIGHUP)
            await server.until(lambda: "reload refused" in server.log)
            assert "mf.safetensors" in server.log
            assert await policies(session, server) == {(second.version, "new words")}
            os.kill(next(iter(await _pids(session, server))), signal.SIGKILL)
            await server.until(lambda: server.ready_lines == 3)
            assert await policies(session, server) == {(second.version, "new words")}
            assert server.log.count("reload refused") == 1
            assert await server.end() == 0


async def load(server: ServerProcess, stop: asyncio.Event, clients: int) -> tuple[int, list[str]]:
    """Requests on kept and on fresh connections until `stop`; how many, and what went wrong."""
    failures: list[str] = []
    answered = 0
    url = server.url

    async def client(index: int) -> None:
        nonlocal answered
        connector = aiohttp.TCPConnector(force_close=index % 2 == 0)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not stop.is_set():
                try:
                    body = {**CHAT, "stream": index % 3 == 0}
                    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                        text = await response.read()
                        if response.status != 200 or b"five" not in text:
                            failures.append(f"{response.status} {text[:200]!r}")
                except (aiohttp.ClientError, OSError) as error:
                    failures.append(repr(error))
                answered += 1
                await asyncio.sleep(0.005)

    await asyncio.gather(*(client(index) for index in range(clients)))
    return answered, failures


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_rolling_restart_under_load_fails_no_request(tmp_path, workers):
    async with served(tmp_path, server={"workers": workers}) as (_, server):
        first = server.process.pid
        await server.until(lambda: server.ready_lines == workers)
        stop = asyncio.Event()
        running = asyncio.ensure_future(load(server, stop, clients=10))
        await asyncio.sleep(0.5)
        server.signal(signal.SIGUSR2)
        await until(lambda: server.ready_lines == 2 * workers, 60.0)
        if workers == 1:
            async with asyncio.timeout(20):
                assert await server.process.wait() == 0, "the predecessor leaves by itself"
        else:
            await server.until(lambda: "rolling restart done" in server.log)
        await asyncio.sleep(0.5)
        stop.set()
        answered, failures = await running
        assert answered > 50
        assert not failures, failures[:5]
        if workers == 1:
            pid = int(re.findall(r"process (\d+) has taken over", server.log)[-1])
            assert pid != first
            os.kill(pid, signal.SIGTERM)
            await until(
                lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
            )


async def test_a_killed_worker_is_replaced_and_metrics_stay_right(tmp_path):
    async with served(tmp_path, server={"workers": 2}) as (upstream, server):
        await server.until(lambda: server.ready_lines == 2)
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(40):
                assert (await ask(session, server))[0] == 200
            await asyncio.sleep(_COUNTED_S)
            pages = {await _counts(session, server) for _ in range(10)}
            assert pages == {(40.0, 0.0)}, "every worker tells the same"

            upstream.fault = slow
            running = [asyncio.ensure_future(ask(session, server)) for _ in range(6)]
            await until(lambda: upstream.busy == 6)
            pids = await _pids(session, server)
            await until(
                lambda: sum(_client_connections(pid, server) for pid in pids) == 6
            )  # the look-ups have gone
            held = {pid: _client_connections(pid, server) for pid in pids}
            victim = max(held, key=lambda pid: held[pid])
            os.kill(victim, signal.SIGKILL)
            results = await asyncio.gather(*running, return_exceptions=True)
            broken = [one for one in results if isinstance(one, Exception)]
            assert len(broken) == held[victim], "requests of the other worker are untouched"
            assert all(isinstance(one, aiohttp.ClientError) for one in broken)
            await server.until(lambda: server.ready_lines == 3)
            upstream.fault = healthy
            await until(lambda: upstream.busy == 0)
            await asyncio.sleep(_COUNTED_S)
            pages = {await _counts(session, server) for _ in range(10)}
            assert pages == {(40.0 + 6 - len(broken), 0.0)}, "the dead worker's counts stay, its gauge goes"
            assert victim not in await _pids(session, server)
        assert await server.end() == 0


def _client_connections(pid, server):
    """How many clients a worker is answering."""
    port = int(server.url.rpartition(":")[2])
    found = psutil.Process(pid).net_connections("tcp")
    return sum(each.laddr.port == port and each.status == "ESTABLISHED" for each in found)


async def test_workers_end_with_their_supervisor(tmp_path):
    async with served(tmp_path, server={"workers": 2}) as (_, server):
        await server.until(lambda: server.ready_lines == 2)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            pids = await _pids(session, server)
        server.signal(signal.SIGKILL)
        await server.process.wait()
        await until(lambda: not any(_alive(pid) for pid in pids))


async def test_a_socket_from_outside(tmp_path):
    """systemd's protocol: the listening socket is descriptor 3; connections queue before any server."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        port = listening.getsockname()[1]
        async with ChaosUpstream("weak-model", "five") as upstream, aiohttp.ClientSession() as session:
            config = tmp_path / "upshift.yaml"
            write_config(config, {"weak": upstream.url, "strong": upstream.url})
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            early = asyncio.ensure_future(session.post(url, json=CHAT))
            # In the child: descriptor 3 of this process may be what its test runner hears orders from.
            by = (sys.executable, "-c", AS_DESCRIPTOR_3, str(listening.fileno()))
            options = {"env": {**os.environ, "LISTEN_FDS": "1"}, "pass_fds": (listening.fileno(),)}
            async with server_process(config, *by, **options) as server:
                assert server.url.endswith(f":{port}")
                response = await early
                assert response.status == 200
                response.release()
                assert await server.end() == 0


async def test_a_bad_start_says_why(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = tmp_path / "upshift.yaml"
        server = {"port": taken.getsockname()[1]}
        write_config(
            config, {"weak": "http://127.0.0.1:1/v1", "strong": "http://127.0.0.1:1/v1"}, server=server
        )
        process = ServerProcess(config)
        with pytest.raises(AssertionError, match="cannot listen on"):
            await process.start()
        assert await process.process.wait() == 1


async def _counts(session: aiohttp.ClientSession, server: ServerProcess) -> tuple[float, float]:
    """Answered and running requests by one worker's `/metrics`."""
    async with session.get(f"{server.url}/metrics") as response:
        text = await response.text()
    total = sum(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith("upshift_requests_total{")
    )
    running = sum(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith("upshift_in_flight")
    )
    return total, running


async def _pids(session: aiohttp.ClientSession, server: ServerProcess) -> set[int]:
    pids = set()
    for _ in range(200):
        async with session.get(f"{server.url}/readyz") as response:
            pids.add((await response.json())["pid"])
        if len(pids) == 2:
            break
    return pids


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False

"""kill -9 under load, of a backend, of Redis and of PostgreSQL: clients see what the policy says, no more.

A worker's death is in test_lifecycle.py: its own requests break, and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from proxy.auth_settings import hash_key
from tests.chaos_upstream import ChaosUpstream, Exchange, healthy
from tests.proxy.live_proxy import FixedScorers, LiveProxy, Seen, live_proxy, make_settings
from tests.proxy.postgres_server import postgres_server, why_not
from tests.proxy.redis_server import redis_server

_ROOT = Path(__file__).resolve().parents[2]
WEAK, STRONG = "weak words of an answer", "strong words of another"
_BACKEND = """
import asyncio, sys
from tests.chaos_upstream import ChaosUpstream, healthy
async def slow(exchange):
    await asyncio.sleep(0.05)
    await healthy(exchange)
async def main():
    async with ChaosUpstream("weak-model", sys.argv[1], slow) as upstream:
        print(upstream.port, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def backend_process() -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """A backend of its own process: its port, and what kills it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _BACKEND, WEAK, stdout=asyncio.subprocess.PIPE, cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield int(await asyncio.wait_for(process.stdout.readline(), 100)), process.kill
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def slow(exchange: Exchange) -> None:
    await asyncio.sleep(0.05)
    await healthy(exchange)


@dataclass
class Load:
    """Clients that ask without pause."""

    proxy: LiveProxy
    model: str
    clients: int = 8
    seen: list[Seen] = field(default_factory=list)
    running: bool = True

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.ensure_future(self._ask(index)) for index in range(self.clients)]
        await self.answered(self.clients)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.running = False
        await asyncio.gather(*self._tasks)
        await self.proxy.settled(5.0)

    async def _ask(self, index: int) -> None:
        while self.running:
            self.seen.append(await self.proxy.ask(self.model, stream=index % 2 == 0))

    async def answered(self, more: int) -> None:
        """Until so many more requests have ended."""
        end = len(self.seen) + more
        async with asyncio.timeout(60):
            while len(self.seen) < end:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def outcomes(self) -> Counter[str]:
        out: Counter[str] = Counter()
        for seen in self.seen:
            broken = seen.status != 200 or bool(
                seen.headers["content-type"].startswith("text/event") and seen.errors
            )
            out["failed" if broken or not seen.ended else "answered"] += 1
        return out


def tier(name: str, *urls: str) -> dict[str, Any]:
    return {"name": name, "urls": list(urls), "model": f"{name}-model"}


@pytest.mark.timeout(300)
async def test_a_killed_backend_fails_no_routed_request() -> None:
    """Strong answers, told as such; where there is a second replica a pinned client loses what ran there."""
    async with (
        backend_process() as (port, kill),
        ChaosUpstream("weak-model", WEAK, slow) as other,
        ChaosUpstream("strong-model", STRONG, slow) as strong,
    ):
        killed = f"http://127.0.0.1:{port}/v1"
        alone = make_settings([tier("weak", killed), tier("strong", strong.url)])
        paired = make_settings([tier("weak", killed, other.url), tier("strong", strong.url)])
        async with (
            live_proxy(alone, FixedScorers(1.0)) as routed,
            live_proxy(paired, FixedScorers(1.0)) as pinned,
        ):
            async with Load(routed, "upshift") as load, Load(pinned, "weak") as pinned_load:
                before = len(load.seen)
                kill()
                await load.answered(3 * load.clients)
                await pinned_load.answered(3 * pinned_load.clients)
            assert load.outcomes()["failed"] == 0
            reasons = Counter(seen.headers["x-upshift-reason"] for seen in load.seen[before:])
            assert reasons["weak_failed"] > load.clients
            assert pinned_load.outcomes()["failed"] <= pinned_load.clients, "what was running there, once"
            assert routed.outcomes().keys() == {"ok"}
            assert routed.count("upshift_circuit_open", tier="weak") == 1


@pytest.mark.redis
@pytest.mark.timeout(300)
async def test_a_killed_redis_fails_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_redis_failure` is `local`, the default; that `refuse` refuses is in test_redis_limits.py."""
    pytest.importorskip("redis")
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine")
    with redis_server(tmp_path) as redis:
        monkeypatch.setenv("UPSHIFT_TEST_REDIS", redis.url)
        auth = {
            "keys": [{"id": "k", "sha256": hash_key("sk-limited"), "requests_per_minute": 10**9}],
            "redis_url_env": "UPSHIFT_TEST_REDIS", "redis_timeout_ms": 3000.0,
        }  # fmt: skip
        async with ChaosUpstream("weak-model", WEAK, slow) as upstream:
            settings = make_settings([tier("weak", upstream.url), tier("strong", upstream.url)], auth=auth)
            async with live_proxy(settings, FixedScorers(1.0)) as proxy:
                proxy.session.headers["authorization"] = "Bearer sk-limited"
                async with Load(proxy, "weak") as load:
                    assert load.outcomes()["failed"] == 0
                    redis.kill()
                    await load.answered(4 * load.clients)
                    redis.start()
                    await load.answered(load.clients)
                assert load.outcomes()["failed"] == 0


@pytest.mark.long
@pytest.mark.postgres
@pytest.mark.timeout(300)
async def test_a_killed_postgres_fails_and_slows_nobody() -> None:
    """Nobody waits for the decision log; what was answered meanwhile is written when it is back."""
    psycopg = pytest.importorskip("psycopg")
    if reason := why_not():
        pytest.skip(reason)
    with postgres_server() as postgres:
        log = {"url": postgres.url, "flush_interval_s": 0.05}
        async with ChaosUpstream("weak-model", WEAK, slow) as upstream:
            settings = make_settings([tier("weak", upstream.url), tier("strong", upstream.url)], log=log)
            async with live_proxy(settings, FixedScorers(1.0)) as proxy:
                async with Load(proxy, "weak") as load:
                    await load.answered(load.clients)
                    await asyncio.to_thread(postgres.stop, signal.SIGKILL)
                    before = len(load.seen)
                    await load.answered(10 * load.clients)
                    dead = sorted(seen.seconds for seen in load.seen[before:])
                    await asyncio.to_thread(postgres.start)
                    await load.answered(load.clients)
                assert load.outcomes()["failed"] == 0
                assert dead[len(dead) // 2] < 1.0, "the backend takes 0.05 s"
                assert proxy.count("upshift_log_rows_dropped_total") == 0
        with psycopg.connect(postgres.url) as connection:
            rows = connection.execute("SELECT count(*), count(DISTINCT request_id) FROM decisions").fetchone()
        assert rows == (len(load.seen), len(load.seen)), "on shutdown at the latest"

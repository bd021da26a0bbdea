"""Limits that replicas share over a real Redis, and what happens when it hangs, dies and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.auth import ApiKey, Limits
from proxy.auth_settings import hash_key
from proxy.redis_meter import RedisMeter
from proxy.usage import LocalMeter
from proxy.wire_error import ApiError
from routing.errors import SettingsError
from tests.chaos_upstream import ChaosUpstream
from tests.proxy.live_proxy import FixedScorers, live_proxy, make_settings
from tests.proxy.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.redis
FEW = ApiKey("few", b"", limits=Limits(requests_per_minute=10))


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    pytest.importorskip("redis")
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine")
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def replicas(
    redis: RedisServer, folder: Path, refuse: bool = False, at: float = 0.0, timeout_ms: float = 5000.0
) -> AsyncIterator[list[RedisMeter]]:
    """Meters of several hosts at one moment; each test has a day of its own."""
    meters = [
        RedisMeter(redis.url, LocalMeter(folder / str(host), lambda: at), timeout_ms, refuse, lambda: at)
        for host in range(2)
    ]
    try:
        yield meters
    finally:
        for meter in meters:
            await meter.close()


async def admitted(meters: list[RedisMeter], times: int, key: ApiKey = FEW) -> list[str]:
    """What became of requests that come at the same time, on all meters in turn."""

    async def ask(meter: RedisMeter) -> str:
        try:
            await meter.admit(key)
        except ApiError as error:
            return error.code or ""
        return "ok"

    return list(await asyncio.gather(*(ask(meters[number % len(meters)]) for number in range(times))))


async def test_replicas_share_a_limit_to_the_request(redis: RedisServer, tmp_path: Path):
    async with replicas(redis, tmp_path, at=6_000_000.0) as meters:
        outcomes = await admitted(meters, 25)
        assert outcomes.count("ok") == 10
        assert outcomes.count("rate_limit_exceeded") == 15
    async with replicas(redis, tmp_path / "other", at=6_000_000.0) as meters:
        assert (await admitted(meters, 2)).count("ok") == 0, "a new replica knows what the others counted"
    async with replicas(redis, tmp_path / "later", at=6_000_000.0 + 90) as meters:
        assert (await admitted(meters, 8)).count("ok") == 5, "half of the minute before still counts"


async def test_replicas_share_tokens_and_dollars(redis: RedisServer, tmp_path: Path):
    at = 6_000_000.0 + 86_400
    key = ApiKey("spender", b"", limits=Limits(tokens_per_minute=100, usd_per_month=1.0))
    async with replicas(redis, tmp_path, at=at) as (one, two):
        assert await admitted([one, two], 2, key) == ["ok", "ok"]
        one.charge(key, 60, 0.2)
        two.charge(key, 40, 0.2)
        await asyncio.sleep(0.3)
        assert await admitted([one, two], 2, key) == ["rate_limit_exceeded"] * 2
    async with replicas(redis, tmp_path, at=at + 7_200) as (one, two):
        assert (await two.admit(key)).usd_month == pytest.approx(0.4)
        two.charge(key, 1, 0.7)
        await asyncio.sleep(0.3)
        assert await admitted([one], 1, key) == ["insufficient_quota"]


@pytest.mark.parametrize("refuse", [False, True])
async def test_a_redis_that_hangs_slows_nobody_for_long(redis: RedisServer, tmp_path: Path, refuse: bool):
    async with replicas(
        redis, tmp_path, refuse, 6_000_000.0 + (4 if refuse else 2) * 86_400, 500.0
    ) as meters:
        assert await admitted(meters, 2) == ["ok", "ok"]
        redis.signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            first = await admitted(meters, 2)
            assert time.monotonic() - started < 1.5, "the time limit, once"
            started = time.monotonic()
            rest = await admitted(meters, 12)
            assert time.monotonic() - started < 0.2, "the circuit is open: nobody waits"
        finally:
            redis.signal(signal.SIGCONT)
        if refuse:
            assert set(first + rest) == {"limits_unavailable"}
        else:
            assert first == ["ok", "ok"]
            assert (first + rest).count("ok") == 14, "up to the limit on each host alone"
            assert (await admitted(meters, 6)).count("ok") <= 4


async def test_a_killed_redis_comes_back(redis: RedisServer, tmp_path: Path):
    at = 6_000_000.0 + 6 * 86_400
    async with replicas(redis, tmp_path, at=at) as meters:
        assert await admitted(meters, 2) == ["ok", "ok"]
        redis.kill()
        assert await admitted(meters, 4) == ["ok"] * 4, "fail open: nobody is refused for it"
        for _ in range(3):
            meters[0].charge(FEW, 100, 0.5)
        redis.start()
        end = time.monotonic() + 10
        rich = ApiKey("few", b"", limits=Limits(tokens_per_minute=10**6))
        while (await meters[1].admit(rich)).usd_day < 1.5:
            assert time.monotonic() < end, "what was owed is paid when Redis is back"
            await asyncio.sleep(0.1)


async def test_an_empty_redis_gives_no_budget_back(redis: RedisServer, tmp_path: Path):
    at = 6_000_000.0 + 8 * 86_400
    key = ApiKey("rich", b"", limits=Limits(usd_per_month=1.0))
    async with replicas(redis, tmp_path, at=at) as (one, two):
        assert await admitted([one, two], 2, key) == ["ok", "ok"]
        one.charge(key, 1, 1.5)
        await asyncio.sleep(0.3)
        assert await admitted([two], 1, key) == ["insufficient_quota"]
        redis.kill()
        redis.start()
        end = time.monotonic() + 10
        while (outcome := (await admitted([two], 1, key))[0]) != "ok":
            assert time.monotonic() < end, outcome
            await asyncio.sleep(0.1)
        assert await admitted([one], 1, key) == ["insufficient_quota"], "where it was spent it is known"


async def test_two_replicas_over_http(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole servers with one Redis: together they answer what a key may ask for."""
    monkeypatch.setenv("UPSHIFT_TEST_REDIS", redis.url)
    keys = [
        {"id": "often", "sha256": hash_key("sk-often"), "requests_per_minute": 20},
        {"id": "poor", "sha256": hash_key("sk-poor"), "usd_per_day": 1e-3},
    ]
    auth = {"keys": keys, "redis_url_env": "UPSHIFT_TEST_REDIS", "redis_timeout_ms": 5000.0}
    async with ChaosUpstream("m", "words") as upstream:
        price = {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 10.0}  # 12 tokens: 1.2e-4
        tiers = [{"name": name, "url": upstream.url, "model": name, **price} for name in ("weak", "strong")]
        settings = make_settings(tiers, auth=auth)
        async with (
            live_proxy(settings, FixedScorers(1.0)) as one,
            live_proxy(settings, FixedScorers(1.0)) as two,
        ):
            for proxy in (one, two):
                proxy.session.headers["authorization"] = "Bearer sk-often"
            seen = await asyncio.gather(*(proxy.ask("weak") for proxy in (one, two) for _ in range(30)))
            answered = sum(answer.status == 200 for answer in seen)
            assert 20 <= answered <= 21, "one more where the minute slides meanwhile"
            assert {a.data["error"]["code"] for a in seen if a.status != 200} == {"rate_limit_exceeded"}
            assert upstream.requests == answered, "a refused request reaches no backend"
            codes = []
            for number in range(14):
                proxy = (one, two)[number % 2]
                proxy.session.headers["authorization"] = "Bearer sk-poor"
                answer = await proxy.ask("weak")
                codes.append(answer.status if answer.status == 200 else answer.data["error"]["code"])
                await asyncio.sleep(0.1)  # what an answer cost is told to Redis every 0.05 s
            assert codes == [200] * 9 + ["insufficient_quota"] * 5


def test_a_url_that_is_none_is_not_quoted(tmp_path: Path):
    with pytest.raises(SettingsError) as refused:
        RedisMeter("http://:very-secret@host/0", LocalMeter(tmp_path))
    assert "very-secret" not in str(refused.value)

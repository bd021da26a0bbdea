"""Repeats, replicas, circuit breakers and health checks, against backends on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.backends.breaker import BreakerLimits, CircuitBreaker
from proxy.backends.health import HealthChecks
from proxy.backends.http import HttpBackend, HttpTimeouts
from proxy.backends.replicas import ReplicaSet
from proxy.backends.retry import RetryBudget, RetryLimits, TierBackend
from proxy.retry_after import retry_after_s
from routing.errors import BackendBroken, BackendStale, BackendTimeout, BackendUnavailable
from routing.protocols import BackendRequest
from tests import chaos_faults as faults
from tests.chaos_upstream import ChaosUpstream, Exchange, healthy
from tests.proxy.live_proxy import FixedScorers, live_proxy, make_settings

ASK = BackendRequest("/chat/completions", b'{"model": "m"}', timeout_s=10.0)


@contextlib.asynccontextmanager
async def tier(
    *urls: str, retry: RetryLimits | None = None, breaker: BreakerLimits | None = None, **options: Any
) -> AsyncIterator[TierBackend]:
    """The chain a tier gets: repeats over replicas over HTTP."""
    replicas = ReplicaSet([HttpBackend(url, **options) for url in urls], breaker)
    backend = TierBackend(replicas, retry or RetryLimits(backoff_s=0.01))
    try:
        yield backend
    finally:
        await backend.close()


async def once(backend: TierBackend, request: BackendRequest = ASK) -> int:
    reply = await backend.send(request)
    await reply.read()
    return reply.status


async def test_retry_after_is_waited_for_and_the_second_answer_is_given():
    async def busy_once(exchange: Exchange) -> None:
        fault = faults.status(429, "retry-after: 1") if exchange.upstream.requests == 1 else healthy
        await fault(exchange)

    async with ChaosUpstream("m", "text", busy_once) as upstream, tier(upstream.url) as backend:
        started = time.monotonic()
        assert await once(backend) == 200
        assert time.monotonic() - started >= 1.0
        assert upstream.requests == 2


@pytest.mark.parametrize(
    ("header", "timeout_s", "asked"),
    [
        (None, 10.0, 1),  # names no time: an answer for the client
        ("retry-after: 0", 10.0, 2),
        ("retry-after: 1", 0.5, 1),  # no room before the deadline
        ("retry-after: 60", 600.0, 1),  # longer than anyone waits here: the client may
        ("retry-after: soon", 10.0, 1),
    ],
)
async def test_what_is_repeated(header, timeout_s, asked):
    fault = faults.status(503, *([header] if header else []))
    async with ChaosUpstream("m", "text", fault) as upstream, tier(upstream.url) as backend:
        assert await once(backend, BackendRequest("/x", b"{}", timeout_s=timeout_s)) == 503
        assert upstream.requests == asked


@pytest.mark.parametrize("fault", [faults.status(500), faults.status(502), faults.reset_unanswered])
async def test_what_may_have_been_done_is_not_repeated(fault):
    async with ChaosUpstream("m", "text", fault) as upstream, tier(upstream.url) as backend:
        with contextlib.suppress(BackendBroken):
            await once(backend)
        assert upstream.requests == 1


async def test_a_kept_connection_closed_by_the_backend_is_repeated():
    """The backend closes after its answer without saying so: the next request meets a dead connection."""

    async def answer_then_close(exchange: Exchange) -> None:
        if exchange.upstream.requests == 2:
            exchange.reset()  # the second request on the kept connection
            return
        await healthy(exchange)

    async with ChaosUpstream("m", "text", answer_then_close) as upstream, tier(upstream.url) as backend:
        assert await once(backend) == 200
        assert await once(backend) == 200
        assert upstream.requests == 3


async def test_stale_and_broken_are_told_apart():
    async with ChaosUpstream("m", "text") as upstream:
        backend = HttpBackend(upstream.url)
        upstream.fault = faults.close_unanswered
        with pytest.raises(BackendBroken) as fresh:
            await backend.send(ASK)
        assert not isinstance(fresh.value, BackendStale)
        upstream.fault = healthy
        await (await backend.send(ASK)).read()
        upstream.fault = faults.close_unanswered
        with pytest.raises(BackendStale):
            await backend.send(ASK)
        await backend.close()


async def test_the_budget_bounds_repeats():
    async with ChaosUpstream("m", "text", faults.status(503, "retry-after: 0")) as upstream:
        limits = RetryLimits(backoff_s=0.001, share=0.2)
        async with tier(upstream.url, retry=limits, breaker=BreakerLimits(failures=0)) as backend:
            for _ in range(100):
                await once(backend)
        assert 120 <= upstream.requests <= 131, "a tenth of credit at the start, then a fifth of requests"


def test_a_budget_of_nothing_repeats_nothing():
    budget = RetryBudget(0.0)
    budget.deposit()
    assert not budget.withdraw()


def test_retry_after_as_number_and_as_date():
    assert retry_after_s("1.5") == 1.5
    assert retry_after_s("-3") == 0.0
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after_s("nonsense") is None
    assert retry_after_s(None) is None


async def test_a_refused_replica_is_passed_over():
    async with ChaosUpstream("m", "text") as upstream, tier("http://127.0.0.1:1/v1", upstream.url) as backend:
        for _ in range(20):
            assert await once(backend) == 200
        assert backend.replicas.open_circuits == 1
        assert backend.replicas.up


async def test_a_busy_replica_gets_less():
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.2)
        await healthy(exchange)

    async with ChaosUpstream("m", "a", slow) as one, ChaosUpstream("m", "b") as two:
        async with tier(one.url, two.url) as backend:

            async def client() -> None:
                for _ in range(10):
                    await once(backend)

            await asyncio.gather(*(client() for _ in range(8)))
            assert [replica.outstanding for replica in backend.replicas.replicas] == [0, 0]
        assert one.requests + two.requests == 80
        assert two.requests > 2 * one.requests


async def test_a_busy_replicas_429_goes_to_the_other_at_once():
    async with (
        ChaosUpstream("m", "a", faults.status(429, "retry-after: 30")) as busy,
        ChaosUpstream("m", "b") as free,
        tier(busy.url, free.url) as backend,
    ):
        started = time.monotonic()
        assert [await once(backend) for _ in range(5)] == [200] * 5
        assert time.monotonic() - started < 5.0
        assert free.requests == 5


async def test_a_flapping_backend_gets_a_bounded_number_of_probes():
    limits = BreakerLimits(failures=3, open_s=0.2, max_open_s=0.4)
    async with ChaosUpstream("m", "text", faults.status(500)) as upstream:  # noqa: SIM117
        async with tier(upstream.url, breaker=limits) as backend:
            refused, started = 0, time.monotonic()
            while time.monotonic() - started < 2.0:
                try:
                    await once(backend)
                except BackendUnavailable:
                    refused += 1
                await asyncio.sleep(0.002)
            assert upstream.requests <= 3 + 2.0 / 0.2
            assert refused > 5 * upstream.requests
            assert not backend.replicas.up or backend.replicas.open_circuits == 1
            upstream.fault = healthy
            await asyncio.sleep(0.5)
            assert await once(backend) == 200
            assert backend.replicas.open_circuits == 0


async def test_half_open_admits_one_at_a_time():
    async with ChaosUpstream("m", "text", faults.status(500)) as upstream:  # noqa: SIM117
        async with tier(upstream.url, breaker=BreakerLimits(failures=1, open_s=0.1)) as backend:
            await once(backend)
            await asyncio.sleep(0.15)
            upstream.fault, upstream.requests = faults.hang, 0
            probes = [asyncio.ensure_future(backend.send(ASK)) for _ in range(10)]
            done, waiting = await asyncio.wait(probes, timeout=0.3)
            assert (len(done), len(waiting), upstream.requests) == (9, 1, 1)
            assert all(isinstance(task.exception(), BackendUnavailable) for task in done)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            upstream.fault = healthy
            assert await once(backend) == 200, "a probe that was given up frees its place"


def test_the_wait_doubles_up_to_its_bound():
    now = [0.0]
    breaker = CircuitBreaker(BreakerLimits(1, 0.5, 1.0, 4.0), lambda: None, lambda: now[0])
    waits = []
    for _ in range(5):
        breaker.enter()
        breaker.fail()
        begun = now[0]
        while not breaker.admits():
            now[0] += 0.01
        waits.append(now[0] - begun)
    assert [round(wait) for wait in waits] == [1, 2, 4, 4, 4]


def test_a_share_of_failures_opens_it_without_a_row():
    breaker = CircuitBreaker(BreakerLimits(failures=5, share=0.5), lambda: None)
    for _ in range(10):
        breaker.succeed()
        breaker.fail()
    assert breaker.state == "open"


async def test_a_429_says_nothing_about_health():
    async with ChaosUpstream("m", "text", faults.status(429)) as upstream, tier(upstream.url) as backend:
        for _ in range(20):
            assert await once(backend) == 429
        assert backend.replicas.open_circuits == 0


async def test_the_health_check_takes_a_replica_out_and_in_again():
    async with ChaosUpstream("m", "text", faults.status(500)) as upstream, tier(upstream.url) as backend:
        changes: list[bool] = []
        backend.replicas.on_change = lambda: changes.append(backend.replicas.up)
        checks = HealthChecks(backend.replicas, "/models", 0.02, 1.0)
        checks.start()
        await _until(lambda: changes == [False])
        with pytest.raises(BackendUnavailable):
            await backend.send(ASK)
        upstream.fault = healthy
        await _until(lambda: changes == [False, True])
        assert await once(backend) == 200
        await checks.stop()


async def test_one_byte_a_second_ends_at_the_total_limit():
    async def one_byte_a_second(exchange: Exchange) -> None:
        await exchange.head()
        for _ in range(30):
            await exchange.chunk(b" ")
            await asyncio.sleep(1.0)

    async with ChaosUpstream("m", "text", one_byte_a_second) as upstream:
        backend = HttpBackend(upstream.url, timeouts=HttpTimeouts(5.0, 5.0, 5.0))
        started = time.monotonic()
        reply = await backend.send(BackendRequest("/x", b"{}", timeout_s=2.5))
        with pytest.raises(BackendTimeout) as caught:
            await reply.read()
        assert 2.4 < time.monotonic() - started < 3.5
        assert caught.value.stage == "total"
        await backend.close()


async def test_health_is_shown_in_the_metrics():
    tiers = [
        {"name": "weak", "url": "http://127.0.0.1:1/v1", "model": "w"},
        {"name": "strong", "urls": ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"], "model": "s"},
    ]
    settings = make_settings(tiers, backends={"breaker_failures": 2})
    async with live_proxy(settings, FixedScorers(1.0)) as proxy:
        assert proxy.count("upshift_backend_up") == 2
        for _ in range(4):
            await proxy.ask("strong")
        assert proxy.count("upshift_backend_up", tier="weak") == 1
        assert proxy.count("upshift_backend_up", tier="strong") == 0
        assert proxy.count("upshift_circuit_open", tier="strong") == 2
        assert proxy.count("upshift_backend_retries_total", tier="strong") > 0
        seen = await proxy.ask("strong")
        assert seen.status == 503
        assert seen.data["error"]["code"] == "backend_unavailable"


async def _until(condition, within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.005)

"""What opens a circuit beyond plain failures: unusable 200s, outliers; a deep queue that shifts to weak."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest

from proxy.backends.breaker import BreakerLimits, CircuitBreaker
from proxy.backends.http import HttpBackend
from proxy.backends.replicas import ReplicaSet
from proxy.backends.retry import RetryLimits, TierBackend
from routing.protocols import BackendRequest
from tests import chaos_faults as faults
from tests.chaos_upstream import ChaosUpstream, Exchange, Fault, healthy
from tests.proxy.live_proxy import FixedScorers, LiveProxy, live_proxy, make_settings

WEAK, STRONG = "weak words of an answer", "strong words of another"
PLAIN: list[Fault] = [
    faults.malformed_json, faults.truncated, faults.wrong_type, faults.error_200, faults.empty_200,
    faults.no_choices, faults.wrong_shape, faults.non_utf8,
]  # fmt: skip
STREAMED: list[Fault] = [
    faults.malformed_json, faults.truncated, faults.wrong_type, faults.error_event, faults.empty_200,
    faults.no_choices, faults.error_event_later, faults.wrong_shape,
]  # fmt: skip


@contextlib.asynccontextmanager
async def pair(
    score: float = 1.0, **sections
) -> AsyncIterator[tuple[ChaosUpstream, ChaosUpstream, LiveProxy]]:
    async with ChaosUpstream("weak-model", WEAK) as weak, ChaosUpstream("strong-model", STRONG) as strong:
        tiers = [
            {"name": one.model.split("-")[0], "url": one.url, "model": one.model} for one in (weak, strong)
        ]
        async with live_proxy(make_settings(tiers, **sections), FixedScorers(score)) as proxy:
            yield weak, strong, proxy


@pytest.mark.parametrize("model", ["weak", "upshift"])
async def test_unusable_200s_open_the_circuit(model: str) -> None:
    """HTTP says 200; nobody can use what came. Failures in a row count, good answers reset them."""
    for stream, kinds in ((False, PLAIN), (True, STREAMED)):
        for fault in kinds:
            async with pair(backends={"breaker_failures": 3, "breaker_open_s": 30.0}) as (weak, _, proxy):
                for _ in range(2):
                    weak.fault = fault
                    await proxy.ask(model, stream)
                    await proxy.ask(model, stream)
                    weak.fault = healthy
                    assert (await proxy.ask(model, stream)).status == 200
                assert proxy.count("upshift_circuit_open", tier="weak") == 0, fault
                weak.fault = fault
                for _ in range(3):
                    await proxy.ask(model, stream)
                assert proxy.count("upshift_circuit_open", tier="weak") == 1, (stream, fault)
                asked = weak.requests
                seen = await proxy.ask(model, stream)
                assert weak.requests == asked, "it is left alone"
                assert seen.status == (503 if model == "weak" else 200)
                await proxy.settled()


async def test_a_probe_that_is_unusable_opens_the_circuit_again() -> None:
    limits = {"breaker_failures": 2, "breaker_open_s": 0.1, "breaker_max_open_s": 10.0}
    for stream, fault in ((False, faults.malformed_json), (True, faults.no_choices)):
        async with pair(backends=limits) as (weak, _, proxy):
            weak.fault = fault
            until = asyncio.get_running_loop().time() + 1.5
            while asyncio.get_running_loop().time() < until:
                await proxy.ask("weak", stream)
                await asyncio.sleep(0.005)
            assert weak.requests <= 2 + 5, "waits double: 0.1, 0.2, 0.4, 0.8"
            assert weak.requests >= 3


def test_a_retracted_success_is_a_failure() -> None:
    breaker = CircuitBreaker(BreakerLimits(failures=3), lambda: None)
    for _ in range(2):
        breaker.succeed()
        breaker.retract()
    assert breaker.state == "closed"
    breaker.succeed()
    breaker.retract()
    assert breaker.state == "open"


def sometimes(every: int) -> Fault:
    calls = itertools.count(1)

    async def fault(exchange: Exchange) -> None:
        bad = next(calls) % every == 0
        await (faults.status(500) if bad else healthy)(exchange)

    return fault


async def test_an_outlier_is_ejected_and_never_more_than_half() -> None:
    """A fifth of one replica's calls fail, far from what opens a circuit; the others never fail."""
    async with contextlib.AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(ChaosUpstream("m", "text")) for _ in range(4)]
        breaker = BreakerLimits(failures=0, open_s=30.0)
        for share, ejected in ((0.1, 1), (0.0, 0)):
            replicas = ReplicaSet([HttpBackend(one.url) for one in upstreams], breaker, share)
            backend = TierBackend(replicas, RetryLimits(attempts=1))
            upstreams[0].fault = sometimes(5)
            await call(backend, 250)
            assert [one.breaker.state == "open" for one in replicas.replicas] == [bool(ejected)] + [False] * 3
            for upstream in upstreams[1:]:
                upstream.fault = faults.status(500)
            await call(backend, 250)
            assert replicas.open_circuits <= 2
            for upstream in upstreams:
                upstream.fault = healthy
            await backend.close()


async def call(backend: TierBackend, times: int) -> None:
    for _ in range(times // 10):
        replies = await asyncio.gather(*(backend.send(BackendRequest("/x", b"{}")) for _ in range(10)))
        for reply in replies:
            await reply.read()


async def test_a_deep_strong_queue_shifts_to_weak_within_the_certificate() -> None:
    """P(adequate) 0.4: rejected at 0.5; the certificate also holds at 0.55, 0.65 and 0.7, and no further."""
    async with pair(score=0.4, routing={"load_shift_from_requests": 4}) as (_, strong, proxy):
        policy = proxy.live.app.gateway.scorers.policy
        seen = await proxy.ask()
        assert (seen.text, seen.headers["x-upshift-reason"]) == (STRONG, "inadequate")
        strong.fault = faults.hang
        busy = [asyncio.ensure_future(proxy.ask("strong")) for _ in range(4)]
        while strong.busy < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        strong.fault = healthy
        seen = await proxy.ask()
        assert seen.text == STRONG, "no certificate, no shift"
        policy.certified = (0.2, 0.5, 0.55, 0.65, 0.7)
        seen = await proxy.ask()
        assert seen.text == STRONG, "just deep enough: the first point, 0.55, which still rejects"
        strong.fault = faults.hang
        busy += [asyncio.ensure_future(proxy.ask("strong")) for _ in range(4)]
        while strong.busy < 8:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        strong.fault = healthy
        seen = await proxy.ask()
        assert (seen.text, seen.headers["x-upshift-reason"]) == (WEAK, "load")
        assert seen.headers["x-upshift-decision"] == "weak"
        assert seen.data["upshift"]["threshold"] == 0.7
        assert proxy.count("upshift_decisions_total", decision="weak", reason="load") == 1
        seen = await proxy.ask("upshift-evaluator-0.5")
        assert seen.text == STRONG, "a client's own threshold is not moved"
        scorers = proxy.live.app.gateway.scorers
        assert isinstance(scorers, FixedScorers)
        scorers.score = 0.9
        assert (await proxy.ask()).headers["x-upshift-reason"] == "adequate", "weak anyway: not for load"
        scorers.score = 0.1
        assert (await proxy.ask()).text == STRONG, "beyond the certificate nothing is shifted"
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await proxy.settled()


async def test_a_reload_forgets_no_open_circuit() -> None:
    """A backend that both configurations have is left alone as before; a new one, or another model, not."""
    limits = {"breaker_failures": 2, "breaker_open_s": 0.6, "breaker_max_open_s": 0.6}
    async with pair(backends=limits) as (weak, _, proxy):
        before = proxy.live.running.settings
        weak.fault = faults.status(500)
        for _ in range(3):
            await proxy.ask("weak")
        assert proxy.count("upshift_circuit_open", tier="weak") == 1
        asked = weak.requests
        assert await proxy.live.reload(lambda: before)
        assert proxy.count("upshift_circuit_open", tier="weak") == 1
        assert proxy.count("upshift_backend_up", tier="weak") == 0
        seen = await proxy.ask("weak")
        assert (seen.status, seen.data["error"]["code"]) == (503, "backend_unavailable")
        assert weak.requests == asked, "it is left alone"
        tier = before.tiers[0].model_copy(update={"model": "another"})
        other = before.model_copy(update={"tiers": [tier, before.tiers[1]]})
        assert await proxy.live.reload(lambda: other)
        assert proxy.count("upshift_circuit_open", tier="weak") == 0
        assert await proxy.live.reload(lambda: before)
        weak.fault = healthy
        assert (await proxy.ask("weak")).status == 200


async def test_an_open_circuit_closes_after_a_reload() -> None:
    limits = {"breaker_failures": 2, "breaker_open_s": 0.3, "breaker_max_open_s": 0.3}
    async with pair(backends=limits) as (weak, _, proxy):
        before = proxy.live.running.settings
        weak.fault = faults.status(500)
        for _ in range(2):
            await proxy.ask("weak")
        await asyncio.sleep(0.4)
        weak.fault = faults.hang
        probe = asyncio.ensure_future(proxy.ask("weak"))
        while not weak.busy:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        weak.fault = healthy
        assert await proxy.live.reload(lambda: before)
        assert (await proxy.ask("weak")).status == 200, "the old probe is still out: another one may go"
        assert proxy.count("upshift_circuit_open", tier="weak") == 0
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)


def test_calls_from_before_it_opened_say_nothing_about_now() -> None:
    now = [0.0]
    breaker = CircuitBreaker(BreakerLimits(failures=1, open_s=1.0), lambda: None, lambda: now[0])
    old = [breaker.enter() for _ in range(4)]
    breaker.fail(breaker.enter())
    assert breaker.state == "open"
    breaker.succeed(old[0])
    assert breaker.state == "open", "a stream that began long ago and ends now does not close it"
    now[0] = 2.0
    probe = breaker.enter()
    breaker.release(old[1])
    assert not breaker.admits(), "the probe is still running"
    breaker.succeed(probe)
    breaker.fail(old[2])
    breaker.retract(old[3])
    assert breaker.state == "closed"


async def test_nothing_follows_a_pinned_backends_error_event() -> None:
    """All in one piece: content, the error, and then as if nothing had been."""

    async def at_once(exchange: Exchange) -> None:
        events = exchange.events()
        await exchange.head()
        error = b'data: {"error": {"message": "out of memory"}}\n\n'
        await exchange.chunk(b"".join(events[:3]) + error + b"".join(events[3:]) + b"data: [DONE]\n\n")
        await exchange.end()

    async with pair() as (weak, _, proxy):
        weak.fault = at_once
        seen = await proxy.ask("weak", stream=True)
        assert len(seen.errors) == 1
        assert not seen.finished
        assert seen.events[-1] == {"error": {"message": "out of memory"}}

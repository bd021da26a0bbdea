"""Drift from the calibration prompts: the alarm, what it ends, and what clients and operators see of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from proxy.loop.reference import reference_of
from proxy.plan import plan_of
from routing.curve import CalibrationRows
from routing.drift import Histogram
from routing.signals import Signals
from tests.proxy.live_proxy import FixedScorers, LiveProxy, live_proxy, make_settings
from tests.upstream import Upstream

SHORT, LONG = "hello there", "hello there " * 40


@contextlib.asynccontextmanager
async def watched(action: str) -> AsyncIterator[LiveProxy]:
    """A policy fitted on short prompts, with a certificate; only prompt lengths are compared."""
    scorers = FixedScorers(0.9)
    lengths = Histogram.of(np.random.default_rng(0).integers(10, 60, 500))
    assert lengths is not None
    scorers.reference = {"prompt_length": lengths}
    scorers.valid_until = time.time() + 86_400
    scorers.policy.certified = (0.6, 0.7)
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        tiers = [
            {"name": "weak", "url": weak.url, "model": "weak-model"},
            {"name": "strong", "url": strong.url, "model": "strong-model"},
        ]
        drift = {"least_rows": 40, "action": action}
        settings = make_settings(tiers, loop={"interval_s": 0.1, "drift": drift})
        async with live_proxy(settings, scorers) as proxy:
            yield proxy


async def send(proxy: LiveProxy, prompts: list[str]) -> Any:
    seen = None
    for prompt in prompts:
        seen = await proxy.ask(messages=[{"role": "user", "content": prompt}])
        assert seen.status == 200
    await asyncio.sleep(0.4)
    return seen


async def state(proxy: LiveProxy) -> dict[str, Any]:
    async with proxy.session.get(f"{proxy.url}/admin/loop") as answer:
        return dict(await answer.json())


def healthy(rows: int) -> list[str]:
    rng = np.random.default_rng(1)
    return ["x" * int(length) for length in rng.integers(10, 60, rows)]


@pytest.mark.parametrize("action", ["report", "end_certificate", "strong"])
async def test_the_alarm_and_what_it_ends(action: str) -> None:
    async with watched(action) as proxy:
        seen = await send(proxy, healthy(60))
        before = await state(proxy)
        assert before["drift"]["alarmed"] == []
        assert before["certificate"]["state"] == "valid"
        assert "x-upshift-certificate" not in seen.headers
        assert proxy.count("upshift_certificate_valid_until_seconds") > time.time()

        await send(proxy, [LONG] * 60)
        seen = await send(proxy, [SHORT])
        after = await state(proxy)
        assert after["drift"]["alarmed"] == ["prompt_length"]
        assert after["drift"]["since"] <= time.time()
        assert proxy.count("upshift_drift", signal="prompt_length") > 0.25
        ended = action != "report"
        assert after["certificate"]["state"] == ("ended" if ended else "valid")
        assert (seen.headers.get("x-upshift-certificate") == "ended") == ended
        assert (proxy.count("upshift_certificate_valid_until_seconds") < time.time()) == ended
        policy = proxy.live.app.gateway.scorers.policy
        assert policy.certified == (() if ended else (0.6, 0.7)), "nothing may be shifted for load any more"
        assert seen.headers["x-upshift-tier"] == ("strong" if action == "strong" else "weak")
        assert after["certificate"]["ended_by"] == (["prompt_length"] if ended else [])
        assert (await proxy.ask("upshift-evaluator-0.5")).headers["x-upshift-tier"] == "weak", (
            "its own choice"
        )


class Spread(FixedScorers):
    """A pre-router whose score the prompt names, fitted on scores spread over [0, 1]; strong from .8 on."""

    def __init__(self) -> None:
        super().__init__(0.9, "mf", 0.8)
        even = np.linspace(0.0, 1.0, 500)
        self.rows = CalibrationRows(even, None, None, np.ones(500), np.ones(500))
        self.plan = plan_of(self.rows, self.policy.default, 0.0)
        self.reference = reference_of(self.rows, self.policy.default, 0.0, self.plan)

    async def read_prompt(self, prompt: str, signals: Signals, difficulty: bool = True) -> None:
        signals.route_score = float(prompt.split()[-1])


def scored(count: int, highest: float = 1.0) -> list[str]:
    values = np.random.default_rng(2).permutation(np.linspace(0.0, highest, count))
    return [f"score {value:.4f}" for value in values]


async def test_a_moved_point_is_no_drift() -> None:
    """After a move the share of strong answers is held against the new point, and counted from then on."""
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        tiers = [
            {"name": each.model.removesuffix("-model"), "url": each.url, "model": each.model}
            for each in (weak, strong)
        ]
        settings = make_settings(tiers, loop={"interval_s": 0.1, "drift": {"least_rows": 40}})
        async with live_proxy(settings, Spread()) as proxy:

            async def signal(name: str) -> dict[str, Any]:
                found = (await state(proxy))["drift"]["signals"]
                return next(one for one in found if one["name"] == name)

            await send(proxy, scored(60))
            assert (await signal("strong_share"))["rows"] == 60
            async with proxy.session.get(f"{proxy.url}/admin/curve") as answer:
                points = (await answer.json())["points"]
            point = min(points, key=lambda one: abs(one["strong_share"] - 0.8))
            move = {
                "threshold": point["threshold"],
                "version": proxy.live.app.gateway.scorers.policy.version,
            }
            async with proxy.session.post(f"{proxy.url}/admin/operating-point", json=move) as answer:
                assert answer.status == 200, await answer.text()
            await asyncio.sleep(0.4)
            await send(proxy, scored(60))
            assert (await signal("strong_share"))["rows"] == 60, "what was answered before is another point's"
            after = await state(proxy)
            assert after["drift"]["alarmed"] == []
            assert after["savings"]["requests"] == 120
            await send(proxy, scored(100, highest=0.05))
            assert "strong_share" in (await state(proxy))["drift"]["alarmed"]


async def test_few_requests_tell_nothing() -> None:
    async with watched("end_certificate") as proxy:
        await send(proxy, [LONG] * 39)
        (signal,) = (await state(proxy))["drift"]["signals"]
        assert (signal["value"], signal["rows"], signal["alarmed"]) == (None, 39, False)

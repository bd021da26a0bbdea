"""Shadow samples: what is asked, when it is not, what is kept of it, and that no request notices."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.loop.shadow import Budget
from tests.proxy.live_proxy import FixedScorers, LiveProxy, live_proxy, make_settings
from tests.upstream import Upstream

STRONG_USD = 10 * 7 / 1e6  # seven tokens an answer of the upstream


@contextlib.asynccontextmanager
async def proxy_with(
    tmp_path: Path, shadow: dict[str, Any], score: float = 0.9, **sections: Any
) -> AsyncIterator[tuple[LiveProxy, Upstream, Upstream]]:
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        weak.script.text, strong.script.text = "weak says", "strong says"
        tiers = [
            {"name": "weak", "url": weak.url, "model": "weak-model", "output_usd_per_mtok": 1.0},
            {"name": "strong", "url": strong.url, "model": "strong-model", "output_usd_per_mtok": 10.0},
        ]
        log = {"url": f"sqlite:///{tmp_path / 'log.db'}", "flush_interval_s": 0.05}
        sections["log"] = {**log, **sections.get("log", {})}
        sections["loop"] = {"shadow": {"share": 1.0, "requests_per_minute": 0, **shadow}, "interval_s": 0.1}
        async with live_proxy(make_settings(tiers, **sections), FixedScorers(score)) as proxy:
            yield proxy, weak, strong


def shadows(tmp_path: Path) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM shadows ORDER BY rowid")]


async def until(condition: Any, within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.02)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("store_text", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_accepted_answer_also_asks_strong(tmp_path: Path, stream: bool, store_text: bool) -> None:
    async with proxy_with(tmp_path, {}, log={"store_text": store_text}) as (proxy, _, strong):
        seen = await proxy.ask(stream=stream)
        assert (seen.status, seen.headers["x-upshift-tier"]) == (200, "weak")
        await until(lambda: proxy.count("upshift_shadow_total", outcome="ok") == 1)
        (asked,) = strong.seen
        assert asked.body["model"] == "strong-model"
        assert not asked.body.get("stream")
        assert proxy.count("upshift_cost_usd_total", tier="strong") == pytest.approx(STRONG_USD)
        assert proxy.count("upshift_tokens_total", tier="strong", served="true") == 0
        await proxy.ask("weak", stream=stream)  # pinned: never
        await proxy.ask("upshift-evaluator-0.9", stream=stream)  # the client's own choice: never
        assert proxy.count("upshift_shadow_total") == 1
        await until(lambda: proxy.live.app.loop.snapshot().savings.shadow_usd > 0)
        found = proxy.live.app.loop.snapshot()
        assert found.shadow.outcomes == {"ok": 1}
        assert found.savings.shadow_usd == pytest.approx(STRONG_USD)
        assert found.savings.saved_usd == pytest.approx(
            found.savings.baseline_usd - found.savings.cost_usd - STRONG_USD
        )
    (row,) = shadows(tmp_path)
    assert row["request_id"] == seen.headers["x-request-id"]
    assert (row["served"], row["outcome"], row["propensity"]) == ("weak", "ok", 1.0)
    assert (row["answer_score"], row["policy"]) == (0.9, "fixed-0.9")
    assert (row["weak_sha256"], row["strong_sha256"]) == (sha256("weak says"), sha256("strong says"))
    assert row["cost_usd"] == pytest.approx(STRONG_USD)
    texts = (row["weak_answer"], row["strong_answer"])
    assert texts == (("weak says", "strong says") if store_text else (None, None))
    assert (row["prompt"] is not None) == store_text


async def test_where_strong_answered_anyway_nothing_is_asked(tmp_path: Path) -> None:
    async with proxy_with(tmp_path, {}, score=0.1, log={"store_text": True}) as (proxy, _, strong):
        assert (await proxy.ask()).headers["x-upshift-decision"] == "escalated"
        assert proxy.count("upshift_shadow_total", outcome="strong_answered") == 1
        assert len(strong.seen) == 1
    (row,) = shadows(tmp_path)
    assert (row["served"], row["strong_answer"], row["weak_answer"]) == ("strong", "strong says", None)


async def test_the_share_is_what_is_drawn(tmp_path: Path) -> None:
    async with proxy_with(tmp_path, {"share": 0.25}) as (proxy, _, _strong):
        for _ in range(120):
            await proxy.ask()
        await until(lambda: not proxy.live.app.gateway.shadows.running)
        drawn = proxy.count("upshift_shadow_total")
    assert 12 <= drawn <= 50  # 30 expected, four standard errors
    assert {row["propensity"] for row in shadows(tmp_path)} == {0.25}


async def test_money_and_minutes_are_bounded(tmp_path: Path) -> None:
    async with proxy_with(tmp_path, {"usd_per_day": 1.5 * STRONG_USD}) as (proxy, _, strong):
        for _ in range(4):
            await proxy.ask()
            await until(lambda: not proxy.live.app.gateway.shadows.running)
        assert len(strong.seen) == 2
        assert proxy.count("upshift_shadow_total", outcome="budget") == 2
    assert [row["outcome"] for row in shadows(tmp_path)] == ["ok", "ok", "budget", "budget"]
    budget = Budget(60, 0, lambda: 0.0)
    start = 1e9
    assert [budget.take(start + number / 10) for number in range(12)].count(True) == 11  # ten at once
    assert budget.take(start + 3)
    spent = Budget(0, 1.0, lambda: 0.6)
    spent.spend(0.5, start)
    assert not spent.take(start)
    assert spent.take(start + 86_400), "another day"


async def test_a_slow_or_broken_strong_tier_delays_nobody(tmp_path: Path) -> None:
    shadow = {"timeout_s": 0.3, "max_running": 1}
    async with proxy_with(tmp_path, shadow) as (proxy, _, strong):
        strong.script.delay_s = 5.0
        first, second = await proxy.ask(), await proxy.ask()
        assert first.status == second.status == 200
        assert max(first.seconds, second.seconds) < 2.0
        assert proxy.count("upshift_shadow_total", outcome="load") == 1, "one at a time"
        await until(lambda: proxy.count("upshift_shadow_total", outcome="timeout") == 1)
        strong.reset()
        strong.script.status = 500
        assert (await proxy.ask()).status == 200
        await until(lambda: proxy.count("upshift_shadow_total", outcome="error") == 1)
        assert proxy.outcomes() == {"ok": 3}


async def test_it_is_cancelled_by_a_shutdown(tmp_path: Path) -> None:
    async with proxy_with(tmp_path, {}) as (proxy, _, strong):
        strong.script.delay_s = 30.0
        assert (await proxy.ask()).status == 200
        await until(lambda: len(strong.seen) == 1)
        started = time.monotonic()
    assert time.monotonic() - started < 5.0
    assert [row["outcome"] for row in shadows(tmp_path)] == ["cancelled"]


async def test_it_is_off_by_default(tmp_path: Path) -> None:
    async with proxy_with(tmp_path, {"share": 0.0}) as (proxy, _, _strong):
        assert proxy.live.app.gateway.shadows is None

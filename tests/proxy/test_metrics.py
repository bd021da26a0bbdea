"""The contract's metrics: complete, bounded, equal to the client's own count over workers and reloads."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.metrics import Metrics
from tests.api_server import ApiServer
from tests.proxy.exposition import Exposition
from tests.proxy.server_process import ServerProcess, server_process, write_config
from tests.upstream import USAGE, Upstream

CONTRACT: dict[str, list[str]] = {
    "requests": ["api", "outcome", "strategy"], "decisions": ["decision", "reason"],
    "request_seconds": ["api", "decision"], "time_to_first_token_seconds": ["decision"],
    "overhead_seconds": ["stage"], "score": ["scorer"], "scorer_seconds": ["scorer"],
    "scorer_batch_size": ["scorer"], "cache_requests": ["cache", "result"],
    "backend_requests": ["outcome", "tier"], "backend_seconds": ["tier"], "backend_up": ["tier"],
    "circuit_open": ["tier"], "hedges": ["outcome"], "tokens": ["kind", "served", "tier"],
    "cost_usd": ["tier"], "baseline_cost_usd": ["estimated"], "fail_open": ["reason", "scorer"],
    "shadow": ["outcome"], "live_quality": ["bound"], "drift": ["signal"], "log_rows_dropped": [],
    "certificate_valid_until_seconds": [], "in_flight_requests": [], "policy_info": ["version"],
}  # fmt: skip
# Of the embedded pair's kinds, but for one that is unlike them.
PROMPTS = [
    "Calculate 7 + 28.",
    "Today is Friday. What day is it in 2 days?",
    "hello",
    "Write 'tub' in reverse.",
]


def test_every_name_of_the_contract_is_there() -> None:
    metrics = Metrics(["weak", "strong"])
    declared = {
        collector._name: sorted(collector._labelnames)  # type: ignore[attr-defined]
        for collector in metrics.registry._collector_to_names
    }
    missing = {name: declared.get(f"upshift_{name}") for name, labels in CONTRACT.items()
               if declared.get(f"upshift_{name}") != labels}  # fmt: skip
    assert not missing


@pytest.mark.timeout(300)
async def test_two_workers_count_what_the_client_counts(repository: Path, tmp_path: Path) -> None:
    """Decisions, outcomes, tokens, cost and savings, before and after a reload, on whichever worker."""
    with Upstream("demo-phi") as weak, Upstream("demo-mistral") as strong:
        strong.script.text = "A longer answer than the other one gives."
        config = tmp_path / "upshift.yaml"
        write_config(
            config, {"weak": weak.url, "strong": strong.url}, bundle=str(repository / "demo/bundle"),
            server={"workers": 2},
        )  # fmt: skip
        text = config.read_text().replace("weak-model", "demo-phi").replace("strong-model", "demo-mistral")
        prices = {"weak": 1, "strong": 10}
        for name, price in prices.items():
            text = text.replace(
                f"  name: {name}\n",
                f"  name: {name}\n  input_usd_per_mtok: {price}\n  output_usd_per_mtok: {price}\n",
            )
        config.write_text(text)
        async with server_process(config) as server, aiohttp.ClientSession() as session:
            await server.until(lambda: server.ready_lines == 2)
            count = Count()
            await drive(session, server.url, count)
            await compare(session, server.url, count)
            server.signal(signal.SIGHUP)
            await server.until(lambda: server.log.count("reloaded: policy") == 2)
            await drive(session, server.url, count)
            found = await compare(session, server.url, count)
            await check_state(session, server, found)


async def check_state(session: aiohttp.ClientSession, server: ServerProcess, found: Exposition) -> None:
    """What is no count: one policy, both tiers up, the plan, and a worker that died leaves its counts."""
    assert found.by("upshift_backend_up", "tier") == {"weak": 1.0, "strong": 1.0}
    assert found.by("upshift_circuit_open", "tier") == {"weak": 0.0, "strong": 0.0}
    assert len(found.by("upshift_policy_info", "version")) == 1
    plan = found.by("upshift_planned_strong_share", "bound")
    assert 0.0 < plan["low"] < plan["expected"] < plan["high"] < 1.0
    async with session.get(server.url + "/readyz") as response:
        pid = (await response.json())["pid"]
    before = found.total("upshift_requests_total")
    os.kill(pid, signal.SIGKILL)
    await server.until(lambda: server.ready_lines == 3)
    after = await scrape(session, server.url)
    assert after.total("upshift_requests_total") == before
    assert after.total("upshift_in_flight_requests") == 0


class Count:
    """The client's own account."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.apis: Counter[str] = Counter()
        self.cost_usd = 0.0

    def add(self, api: str, status: int, headers: Any) -> None:
        self.apis[api] += 1
        self.outcomes["ok" if status < 400 else "client_error"] += 1
        if "x-upshift-decision" in headers:
            self.decisions[headers["x-upshift-decision"], headers["x-upshift-reason"]] += 1
        self.cost_usd += float(headers.get("x-upshift-cost-usd", 0))


async def drive(session: aiohttp.ClientSession, url: str, count: Count) -> None:
    """Routed, pinned, streamed and refused requests, each on a connection of its own."""

    async def post(api: str, path: str, body: dict[str, Any]) -> None:
        async with session.post(url + path, json=body, headers={"connection": "close"}) as response:
            data = await response.read()
            headers = dict(response.headers)
            if body.get("stream") and b'"cost_usd":' in data:
                headers["x-upshift-cost-usd"] = data.split(b'"cost_usd":')[1].split(b"}")[0].decode()
            count.add(api, response.status, headers)

    chat = "/v1/chat/completions"
    calls = []
    for prompt in PROMPTS * 2:
        for model in ("upshift", "upshift-evaluator-0.2", "upshift-mf-1", "weak", "strong"):
            message = {"model": model, "messages": [{"role": "user", "content": prompt}]}
            calls.append(post("chat_completions", chat, message))
        calls.append(post("chat_completions", chat, {**message, "model": "upshift", "stream": True}))
        calls.append(post("chat", "/chat", {"prompt": prompt}))
        calls.append(post("chat_completions", chat, {**message, "model": "no-such-model"}))
        calls.append(post("chat_completions", chat, {"model": "upshift"}))
    for start in range(0, len(calls), 8):
        await asyncio.gather(*calls[start : start + 8])


async def scrape(session: aiohttp.ClientSession, url: str) -> Exposition:
    async with session.get(url + "/metrics", headers={"connection": "close"}) as response:
        assert response.status == 200
        return Exposition(await response.text())


async def compare(session: aiohttp.ClientSession, url: str, count: Count) -> Exposition:
    """One scrape of one worker against the client's account, once it is level: a request is counted after its
    last byte, so that the other worker may be behind for a moment."""
    end = time.monotonic() + 5.0
    while True:
        found = await scrape(session, url)
        try:
            check_counts(found, count)
        except AssertionError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)
        else:
            return found


def check_counts(found: Exposition, count: Count) -> None:
    assert found.by("upshift_requests_total", "outcome") == dict(count.outcomes)
    assert found.by("upshift_requests_total", "api") == dict(count.apis)
    decisions = {
        (labels["decision"], labels["reason"]): value
        for labels, value in found.samples("upshift_decisions_total")
    }
    assert decisions == dict(count.decisions)
    assert {decision for decision, _ in decisions} >= {"weak", "escalated", "pinned"}
    calls = found.by("upshift_backend_requests_total", "tier")
    tokens = USAGE["prompt_tokens"], USAGE["completion_tokens"]
    for tier, number in calls.items():
        assert found.total("upshift_tokens_total", tier=tier, kind="prompt") == number * tokens[0]
        assert found.total("upshift_tokens_total", tier=tier, kind="completion") == number * tokens[1]
    cost = found.total("upshift_cost_usd_total")
    assert cost == pytest.approx(calls["weak"] * 18e-6 + calls["strong"] * 180e-6)
    assert cost == pytest.approx(count.cost_usd, rel=1e-6)
    answered = sum(count.decisions.values())  # whoever answered, strong would have used as many tokens here
    assert found.total("upshift_baseline_cost_usd_total") == pytest.approx(answered * 180e-6)
    assert found.total("upshift_request_seconds_count") == sum(count.apis.values())
    for stage in ("queue", "read", "prompt_score", "evaluator_score", "total"):
        assert found.total("upshift_overhead_seconds_count", stage=stage) > 0, stage
    for scorer in ("mf", "evaluator"):
        assert found.total("upshift_score_count", scorer=scorer) > 0, scorer
    assert not found.total("upshift_score_count", scorer="difficulty"), "no rule asked for it"


def test_hostile_values_make_no_series(own_api: ApiServer) -> None:
    """Whatever clients send, the number of series stays that of the closed lists."""

    def scraped() -> Exposition:
        return Exposition(own_api.anonymous.get("/metrics").text)

    def ask(text: str) -> None:
        odd = f"{text}\"}}\\n{{evil='1'}}"
        body = {"model": odd, "messages": [{"role": "user", "content": odd}], "user": odd}
        headers = {"x-upshift-strategy": f"zzz-{abs(hash(text))}", "x-request-id": f"id-{abs(hash(text))}"}
        own_api.http.post("/v1/chat/completions", json=body, headers=headers)
        own_api.http.post("/v1/chat/completions", json={**body, "model": "upshift"})
        own_api.http.post(
            "/v1/chat/completions",
            json={**body, "model": "upshift", "upshift": {"strategy": odd, "threshold": 0.3}},
        )
        own_api.http.post(
            "/v1/chat/completions", json={**body, "model": f"upshift-evaluator-0.{abs(hash(text)) % 10**9}"}
        )
        own_api.http.get(f"/v1/{abs(hash(text))}")
        own_api.http.post("/chat", json={"prompt": odd, "strategy": odd})

    ask("first")
    before = scraped()
    for number in range(30):
        ask(f"\x00\u2028 {number} " + "x" * 300)
    after = scraped()
    assert after.series == before.series
    assert after.total("upshift_requests_total") > before.total("upshift_requests_total")
    assert "evil" not in after.text


def test_a_failing_scorer_says_which_and_how(own_api: ApiServer) -> None:
    own_api.scorers.fails = True
    message = {"model": "upshift", "messages": [{"role": "user", "content": "hello"}]}
    assert own_api.http.post("/v1/chat/completions", json=message).status_code == 200
    found = Exposition(own_api.anonymous.get("/metrics").text)
    assert found.total("upshift_fail_open_total", scorer="evaluator", reason="error") == 1
    assert found.total("upshift_decisions_total", reason="scorer_failed") == 1


def test_the_baseline_learns_lengths_from_prompts_that_both_answered() -> None:
    from proxy.baseline import Baseline
    from proxy.record import TierUse
    from routing.tier import Ladder, Tier

    baseline = Baseline(Ladder([Tier("weak", "w", 1, 1), Tier("strong", "s", 10, 10)]))

    def use(tier: int, completion: int, served: bool) -> TierUse:
        return TierUse(
            tier, "ok", 0.1, 100, completion, cost_usd=(100 + completion) * 1e-5 * tier, served=served
        )

    assert baseline.price([use(0, 100, True)]) == (pytest.approx(200 * 10e-6), True)
    for _ in range(1_000):
        assert baseline.price([use(0, 100, False), use(1, 300, True)]) == (pytest.approx(400e-5), False)
    estimate, estimated = baseline.price([use(0, 100, True)])
    assert estimated
    assert estimate == pytest.approx((100 + 300) * 10e-6, rel=0.02)
    assert baseline.price([]) == (0.0, False)


def test_a_tier_that_a_reload_took_away_raises_no_alarm() -> None:
    metrics = Metrics(["weak", "strong"])
    metrics.show_backend("weak", up=False, open_circuits=1)
    metrics.for_tiers(["small", "strong"])
    found = Exposition(metrics.render().decode())
    assert found.total("upshift_backend_up", tier="weak") == 1
    assert found.total("upshift_circuit_open", tier="weak") == 0

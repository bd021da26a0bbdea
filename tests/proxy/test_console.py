"""The console's server side: who sees what, the operating point over workers, recent decisions, the curve."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram

from proxy.bundle_scorers import BundleOnDuty, load_bundle
from proxy.console.curve import curve_of
from proxy.console.figures import Figures
from proxy.live import LiveApp
from proxy.operating_point import OperatingPoint
from proxy.plan import plan_of
from proxy.recent import SLOTS, Recent
from proxy.settings import RoutingSettings
from proxy.shared_memory import FOLDER
from routing.certificate import Certificate
from routing.curve import trace_points
from routing.signals import Signals
from tests.api_server import KEY, ApiServer, api_server
from tests.proxy.live_proxy import FixedScorers, live_proxy, make_settings
from tests.proxy.test_ports import free_port, running
from tests.upstream import Upstream

ADMIN_KEY = "admin-key-of-the-test"
FIGURES = ("/admin/overview", "/admin/decisions", "/admin/curve")


@pytest.fixture(scope="module")
def bundle(repository: Path) -> BundleOnDuty:
    return load_bundle(repository / "demo/bundle", RoutingSettings(strategy="evaluator"), 1)


def two_tiers(weak: Upstream, strong: Upstream) -> list[dict[str, Any]]:
    return [{"name": each.model.removesuffix("-model"), "url": each.url, "model": each.model}
            for each in (weak, strong)]  # fmt: skip


def certified(bundle: BundleOnDuty, *passed: float, days: float = 30) -> FixedScorers:
    """The bundle's policy under a certificate for `passed`; its scores are the test's."""
    end = time.time() + days * 86_400
    until = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(end))
    certificate = Certificate(
        True, "evaluator", 0.95, 0.95, None, 0.05, passed[-1], 0.4, 0.96, None, tuple(passed), 300, 300, 0.0,
        "certified: 40.0% of the strong calls saved", valid_until=until,
    )  # fmt: skip
    scorers = FixedScorers(0.9)
    scorers.policy = _default(bundle, "evaluator")
    scorers.policy.certified = tuple(passed) if days > 0 else ()
    scorers.plan, scorers.rows, scorers.certificate = bundle.plan, bundle.rows, certificate
    scorers.valid_until = end
    return scorers


def _default(bundle: BundleOnDuty, strategy: str) -> Any:
    data = {**bundle.policy.to_dict(), "default": strategy}
    return type(bundle.policy).from_dict(data)


def test_the_page_is_open_and_guarded_by_its_policy(own_api: ApiServer) -> None:
    page = own_api.anonymous.get("/console")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in page.headers
    for name in ("style.css", "main.js", "icon.svg", "page.json"):
        assert f"console/{name}" in page.text or name == "page.json"
        found = own_api.anonymous.get(f"/console/{name}")
        assert found.status_code == 200, name
        again = own_api.anonymous.get(f"/console/{name}", headers={"if-none-match": found.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert own_api.anonymous.head("/console").status_code == 200
    assert own_api.anonymous.get("/console/", follow_redirects=True).url.path == "/console"
    for path in ("/console/nothing.js", "/console/../settings.py", "/console/%2e%2e/page.py", "/consoles"):
        assert own_api.anonymous.get(path).status_code == 404, path
    assert own_api.anonymous.post("/console", json={}).status_code == 405


def test_no_file_of_the_page_reaches_beyond_the_server(repository: Path) -> None:
    for path in (repository / "proxy/console/static").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        assert "innerHTML" not in text, path
    page = (repository / "proxy/console/static/index.html").read_text()
    assert "<script>" not in page
    assert re.findall(r"\s(?:on\w+|style)=", page) == []


def test_figures_are_for_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine, or a key of scope admin; a change by a page needs the key everywhere; no CORS at all."""
    monkeypatch.setenv("UPSHIFT_ADMIN_KEYS", ADMIN_KEY)
    far, page = {"x-forwarded-for": "10.0.0.1"}, {"origin": "https://evil.example"}
    with api_server(server={"cors_origins": ["*"]}) as api:

        def get(path: str, **headers: str) -> Any:
            return api.anonymous.get(path, headers={**headers})

        for path in FIGURES:
            assert get(path).status_code == 200
            assert get(path, **far).status_code == 401
            assert get(path, **far, authorization=f"Bearer {KEY}").status_code == 403
            assert get(path, **far, authorization="Bearer wrong").status_code == 401
            found = get(path, **far, **page, authorization=f"Bearer {ADMIN_KEY}")
            assert found.status_code == 200
            assert not [name for name in found.headers if name.startswith("access-control-")]
        move = {"threshold": None, "version": get("/admin/overview").json()["point"]["version"]}
        post = api.anonymous.post
        assert post("/admin/operating-point", json=move).status_code == 200  # a program of this machine
        assert post("/admin/operating-point", json=move, headers=page).status_code == 401
        preflight = api.anonymous.options("/admin/overview", headers=page)
        assert not [name for name in preflight.headers if name.startswith("access-control-")]
        key = {"authorization": f"Bearer {ADMIN_KEY}"}
        assert post("/admin/operating-point", json=move, headers={**page, **key}).status_code == 200


def test_bad_questions_get_clear_answers(own_api: ApiServer) -> None:
    get = own_api.anonymous.get
    for path in ("decisions?limit=0", "decisions?limit=100000", "decisions?since=-1", "decisions?since=nan",
                 "decisions?since=soon", "curve?strategy=none", f"curve?strategy={'x' * 50}"):  # fmt: skip
        found = get(f"/admin/{path}")
        assert found.status_code == 400, path
        assert set(found.json()["error"]) == {"message", "type", "param", "code"}
    for body in ({}, [], {"threshold": 2, "version": "x"}, {"threshold": "high", "version": "x"},
                 {"threshold": 0.5}, {"threshold": None, "version": "x" * 200}):  # fmt: skip
        assert own_api.anonymous.post("/admin/operating-point", json=body).status_code == 400, body
    assert own_api.anonymous.post("/admin/operating-point", content=b"{").status_code == 400
    assert own_api.anonymous.post("/admin/operating-point", content=b" " * (5 << 20)).status_code == 413
    other = own_api.anonymous.post("/admin/operating-point", json={"threshold": 0.5, "version": "old"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "policy_changed")


def test_without_a_bundle_it_says_so(own_api: ApiServer) -> None:
    told = own_api.anonymous.get("/admin/curve").json()
    assert told["points"] == []
    assert "curve cannot be drawn" in told["missing"]
    assert told["promise"]["state"] == "none"
    overview = own_api.anonymous.get("/admin/overview").json()
    assert overview["strong_share"] is None
    assert overview["money"]["saved_share"] is None
    assert overview["loop"]["quality"]["estimate"] is None
    refused = own_api.anonymous.post(
        "/admin/operating-point", json={"threshold": 0.1, "version": overview["point"]["version"]}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "point_not_allowed")


def test_the_curve_is_what_the_rules_do(bundle: BundleOnDuty) -> None:
    """Every point's share of strong answers is the rule's own over the calibration prompts."""
    rows, policy = bundle.rows, bundle.policy
    assert rows is not None
    row = 1.0 / len(rows)  # a threshold set on a row's own score may fall on either side of it
    weak = rows.q_weak.mean() / rows.q_strong.mean()
    for strategy in policy.strategies:
        points = trace_points(rows, policy, strategy)
        for point in points[::6]:
            plan = plan_of(rows, policy.rule(strategy, point.threshold), policy.explore_share)
            assert plan is not None
            assert point.strong_share == pytest.approx(plan.expected, abs=1.01 * row), (strategy, point)
        shares = [point.strong_share for point in points]
        assert shares == sorted(shares, reverse=True)
        assert points[0].quality == pytest.approx(1.0, abs=0.01)
        worst = points[-1]
        assert worst.quality == pytest.approx(weak, abs=0.01)
        assert worst.low is not None
        assert worst.high is not None
        assert worst.low < weak < worst.high


def test_the_interval_covers(bundle: BundleOnDuty) -> None:
    """Prompts drawn anew from the same ones: 95 in 100 intervals hold the truth, give or take chance."""
    rows, rng = bundle.rows, np.random.default_rng(0)
    assert rows is not None
    truth = trace_points(rows, bundle.policy, "evaluator", [0.4])
    at = next(index for index, point in enumerate(truth) if point.threshold == 0.4)
    held = 0
    for _ in range(100):
        draw = rng.integers(0, len(rows), 300)
        columns = {
            field.name: None if (column := getattr(rows, field.name)) is None else column[draw]
            for field in dataclasses.fields(rows)
        }
        points = trace_points(dataclasses.replace(rows, **columns), bundle.policy, "evaluator", [0.4])
        point = next(one for one in points if one.threshold == 0.4)
        held += point.low <= truth[at].quality <= point.high
    assert 0.89 <= held / 100 <= 0.995


async def test_only_certified_points_may_be_put_in_force(
    bundle: BundleOnDuty, caplog: pytest.LogCaptureFixture
) -> None:
    under = certified(bundle, 0.2, 0.3, 0.45)
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        tiers = two_tiers(weak, strong)
        async with live_proxy(make_settings(tiers), under) as proxy:

            async def get(path: str) -> Any:
                async with proxy.session.get(f"{proxy.url}/admin/{path}") as answer:
                    return await answer.json()

            async def move(threshold: float | None) -> tuple[int, Any]:
                body = {"threshold": threshold, "version": under.policy.version}
                async with proxy.session.post(f"{proxy.url}/admin/operating-point", json=body) as answer:
                    return answer.status, await answer.json()

            curve = await get("curve")
            assert curve["promise"]["state"] == "valid"
            assert [point["threshold"] for point in curve["points"] if point["certified"]] == [0.2, 0.3, 0.45]
            calibrated = next(point for point in curve["points"] if point["calibrated"])
            allowed = {point["threshold"] for point in curve["points"] if point["allowed"]}
            assert allowed == {0.2, 0.3, 0.45, calibrated["threshold"]}
            free = next(p["threshold"] for p in curve["points"] if not p["allowed"])
            status, told = await move(free)
            assert (status, told["error"]["code"]) == (400, "point_not_allowed")
            assert "certificate does not hold" in told["error"]["message"]
            plan = proxy.count("upshift_planned_strong_share", bound="expected")
            status, told = await move(0.45)
            assert (status, told["threshold"], told["certified"]) == (200, 0.45, True)
            assert "action=operating_point key=this machine" in caplog.text
            assert "to=0.45 certified=True" in caplog.text
            answer = await proxy.ask()
            assert answer.data["upshift"]["threshold"] == 0.45
            named = await proxy.ask("upshift-evaluator")  # asked for by name: the calibrated one
            assert named.data["upshift"]["threshold"] == calibrated["threshold"]
            assert proxy.count("upshift_planned_strong_share", bound="expected") < plan
            assert (await get("overview"))["point"]["moved_at"] == pytest.approx(time.time(), abs=30)
            assert (await move(None))[1]["threshold"] == calibrated["threshold"]
            assert proxy.count("upshift_planned_strong_share", bound="expected") == pytest.approx(plan)
            await move(0.2)
            assert await proxy.live.reload(lambda: make_settings(tiers))  # the configuration decides again
            assert (await get("overview"))["point"]["moved_at"] is None


async def test_a_certificate_that_is_over_promises_nothing(bundle: BundleOnDuty) -> None:
    for days, strategy, state in ((-1.0, "evaluator", "ended"), (30.0, "mf", "other")):
        found = curve_of(certified(bundle, 0.3, days=days), ["weak", "strong"], strategy, 0.3, 0.3, True)
        assert found.promise.state == state
        assert found.promise.reason.startswith("No certificate")
        assert not any(point.certified for point in found.points)


def test_a_ladder_of_three_says_why_it_has_no_curve(bundle: BundleOnDuty) -> None:
    scorers = certified(bundle, 0.3)
    scorers.certificate = None
    scorers.policy = type(bundle.policy).from_dict({**scorers.policy.to_dict(), "tiers": 3})
    found = curve_of(scorers, ["a", "b", "c"], "evaluator", 0.3, 0.3, True)
    assert found.points == []
    assert found.missing.startswith("No curve, because it is drawn for two tiers and this ladder has 3")


async def test_the_admin_port_has_the_console_and_its_playground() -> None:
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        port = free_port()
        settings = make_settings(two_tiers(weak, strong), server={"admin_port": port, "cors_origins": ["*"]})
        live = LiveApp(settings, FixedScorers(0.9))
        async with running(settings, live) as (there, _), aiohttp.ClientSession() as session:
            admin = f"127.0.0.1:{port}"
            for host, status in ((there, 404), (admin, 200)):
                for path in ("/console", "/console/main.js", "/admin/overview"):
                    async with session.get(f"http://{host}{path}") as answer:
                        assert answer.status == status, (host, path)
            async with session.get(f"http://{admin}/console/page.json") as answer:
                assert (await answer.json())["api"] == "admin/"
            chat = {"model": "upshift", "messages": [{"role": "user", "content": "hello"}]}
            page, ask = {"origin": f"http://{admin}"}, f"http://{admin}/admin/chat/completions"
            async with session.post(ask, json=chat, headers=page) as answer:
                assert answer.status == 401
            async with session.post(ask, json=chat) as answer:
                assert answer.status == 200
                assert answer.headers["x-upshift-decision"] == "weak"
                assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
            async with session.post(f"http://{admin}/admin/route", json={"prompt": "hello"}) as answer:
                told = await answer.json()
                assert told["answer_cut"] == 0.5
            async with session.post(f"http://{there}/admin/chat/completions", json=chat) as answer:
                assert answer.status == 404


def test_the_lines_of_both_scores_are_where_decisions_turn(bundle: BundleOnDuty) -> None:
    """`limits` says for each prompt where each score would change what the cascade does."""
    rng = np.random.default_rng(1)
    for strategy in ("cascade", "evaluator", "mf"):
        rule = bundle.policy.rule(strategy, None)
        for mf, difficulty, adequate in rng.random((400, 3)).tolist():
            signals = Signals(route_score=mf, difficulty=difficulty, answer_score=adequate)
            route, kept = rule.limits(signals)
            if route is not None and abs(mf - route) > 1e-9:
                assert (rule.enter(signals).tier == 1) == (mf > route)
            if kept is not None and abs(adequate - kept) > 1e-9:
                assert rule.accept(0, signals) == (adequate > kept)


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "request_id": f"req-{number}",
        "at": 1_000.0 + number,
        "api": "chat",
        "stream": False,
        "strategy": "mf",
        "policy": "p",
        "decision": "weak",
        "reason": "easy_prompt",
        "tier": "weak",
        "outcome": "ok",
        "status": 200,
        "cost_usd": 1e-6,
        "total_s": 0.1,
        **more,
    }


def test_the_ring_keeps_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    recent = Recent()
    for number in range(SLOTS + 44):
        recent.add(row(number))
    found = recent.read(0.0, SLOTS)
    assert [one["request_id"] for one in found] == [f"req-{n}" for n in range(SLOTS + 43, 43, -1)]
    assert [one["request_id"] for one in recent.read(1_000.0 + SLOTS + 42, SLOTS)] == [
        f"req-{SLOTS + 43}", f"req-{SLOTS + 42}"
    ]  # fmt: skip
    assert len(recent.read(0.0, 5)) == 5
    recent.add(row(900, prompt="é" * 1_000, request_id="~" * 128))
    recent.add(row(901, prompt="\x01" * 1_000))  # six characters each in JSON: too long, so without it
    recent.add(row(902, prompt="half \ud800 a pair"))
    kept = recent.read(1_900.0, 3)
    assert [one.get("prompt") for one in kept] == [None, None, "é" * 160]
    assert len({one["id"] for one in recent.read(0.0, SLOTS)}) == SLOTS


def test_workers_see_each_others_decisions_and_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes; its row outlives it, and the next process goes on in it."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    recent, point = Recent(), OperatingPoint()
    recent.add(row(1))
    code = (
        "from proxy.recent import Recent; from proxy.operating_point import OperatingPoint\n"
        f"recent = Recent(); recent.add({row(2)!r}); OperatingPoint().set('bundle', 'mf', 0.25)\n"
        "print(len(recent.read(0.0, 9)), recent.read(0.0, 9)[0]['id'])\n"
    )

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.getcwd()},
                              capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip

    assert other() == "2 1-1"
    assert [one["request_id"] for one in recent.read(0.0, 9)] == ["req-2", "req-1"]
    moved = point.read("bundle", "mf")
    assert moved is not None
    assert moved.threshold == 0.25
    assert point.read("another", "mf") is None
    assert point.read("bundle", "evaluator") is None
    point.clear()
    assert point.read("bundle", "mf") is None
    assert other() == "3 1-2"
    assert abs(recent.since() - time.time()) < 60
    assert len(list(tmp_path.glob("decisions-*.row"))) == 2


def test_quantiles_are_prometheus_own() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "h", ["tier"], buckets=(1, 2, 4), registry=registry)
    for value in (0.5, 1.5, 1.5, 3.0):
        histogram.labels("a").observe(value)
    figures = Figures(registry.collect())
    assert figures.quantile("h", 0.5) == pytest.approx(1.5)  # histogram_quantile(0.5, h_bucket)
    assert figures.quantile("h", 0.25, tier="a") == pytest.approx(1.0)
    assert figures.quantile("h", 0.5, tier="b") is None
    histogram.labels("a").observe(100.0)
    assert Figures(registry.collect()).quantile("h", 1.0) == 4.0
    assert not math.isnan(figures.total("h_count"))


async def test_calls_in_flight_by_tier() -> None:
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        weak.script.delay_s = 0.4
        tiers = two_tiers(weak, strong)
        async with live_proxy(make_settings(tiers)) as proxy:
            asked = asyncio.ensure_future(proxy.ask("weak"))
            while not weak.seen:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert proxy.count("upshift_backend_in_flight_requests", tier="weak") == 1
            assert (await asked).status == 200
            await proxy.settled()
            assert proxy.count("upshift_backend_in_flight_requests") == 0

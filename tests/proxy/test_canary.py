"""A bundle on trial: its share, its end on an alarm or by hand, and that a bad one harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.proxy.bundle_copies import light_copy, wrong_copy
from tests.proxy.live_proxy import LiveProxy, live_proxy, make_settings
from tests.server_process import ServerProcess, pick_port
from tests.trainer.answering import Answering, Body
from tests.trainer.judging import material_of
from tests.upstream import Upstream
from trainer.cli_label import main as judge_samples

KINDS = (
    "Find 17 + 28.",
    "Today is Friday. What day is it in 9 days?",
    "Write the word lamp backwards.",
    "Sort these numbers: 9 2 5 1.",
)
MF = {"strategy": "mf", "threshold": 0.3, "explore_share": 0.0}  # no evaluator: a few milliseconds a request


@pytest.fixture
def pair():
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        weak.script.text, strong.script.text = "weak says", "strong says"
        yield [
            {"name": "weak", "url": weak.url, "model": "weak-model", "output_usd_per_mtok": 1.0},
            {"name": "strong", "url": strong.url, "model": "strong-model", "output_usd_per_mtok": 10.0},
        ]


@pytest.fixture
def stable(tmp_path: Path) -> str:
    """The version in force."""
    return light_copy(tmp_path / "stable").version


def settings_with(
    pair: list[dict[str, Any]], canary: Path, tmp_path: Path, routing: Any = MF, store_text: bool = False,
    **loop: Any,
) -> Any:  # fmt: skip
    trial = {"bundle": str(canary), "share": 0.5, "least_rows": 30, **loop.pop("trial", {})}
    return make_settings(
        pair,
        routing=routing,
        bundle=str(tmp_path / "stable"),  # type: ignore[arg-type]
        log={"url": f"sqlite:///{tmp_path / 'log.db'}", "flush_interval_s": 0.05, "store_text": store_text},
        loop={"interval_s": 0.1, "canary": trial, "drift": {"least_rows": 10_000}, **loop},
    )


@contextlib.asynccontextmanager
async def trial_of(settings: Any) -> AsyncIterator[LiveProxy]:
    async with live_proxy(settings) as proxy:
        yield proxy


async def ask(proxy: LiveProxy, session: str, prompt: str = "", model: str = "upshift") -> Any:
    prompt = prompt or KINDS[sum(session.encode()) % len(KINDS)]
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    url, headers = f"{proxy.url}/v1/chat/completions", {"x-upshift-session": session}
    async with proxy.session.post(url, json=body, headers=headers) as answer:
        assert answer.status == 200
        return {name.lower(): value for name, value in answer.headers.items()}


async def post(proxy: LiveProxy, path: str) -> tuple[int, Any]:
    async with proxy.session.post(f"{proxy.url}{path}") as answer:
        return answer.status, await answer.json()


async def report(proxy: LiveProxy) -> dict[str, Any]:
    async with proxy.session.get(f"{proxy.url}/admin/loop") as answer:
        assert answer.status == 200
        return dict((await answer.json())["canary"])


async def until_state(proxy: LiveProxy, state: str) -> dict[str, Any]:
    end = time.monotonic() + 60
    while (found := await report(proxy))["state"] != state:
        assert time.monotonic() < end, found
        await asyncio.sleep(0.05)
    return found


async def test_a_share_of_sessions_then_promotion(pair, stable: str, tmp_path: Path) -> None:
    version = light_copy(tmp_path / "canary", "good").version
    async with trial_of(settings_with(pair, tmp_path / "canary", tmp_path)) as proxy:
        seen: dict[str, str] = {}
        for number in range(40):
            told = await ask(proxy, f"s{number}")
            seen[f"s{number}"] = told["x-upshift-policy"]
            assert (told["x-upshift-reason"] == "canary") == (told["x-upshift-policy"] == version)
        assert {stable: True, version: True} == dict.fromkeys(seen.values(), True)
        assert 8 <= list(seen.values()).count(version) <= 32
        for session, policy in seen.items():
            assert (await ask(proxy, session, "Another question."))["x-upshift-policy"] == policy
        assert (await ask(proxy, "x", model="upshift-mf-0.2"))["x-upshift-policy"] == stable
        for name in (stable, version):
            assert proxy.count("upshift_policy_info", version=name) == 1
        assert proxy.count("upshift_canary_share") == 0.5
        on_trial = proxy.count("upshift_canary_requests_total", arm="canary")
        assert on_trial == 2 * list(seen.values()).count(version)
        assert on_trial + proxy.count("upshift_canary_requests_total", arm="stable") == 80
        found = await until_state(proxy, "running")
        await asyncio.sleep(0.5)
        assert (await report(proxy))["canary"]["requests"] == on_trial
        assert found["canary"]["version"] == version

        assert await post(proxy, "/admin/canary/promote") == (200, {"status": "promoted"})
        told = [await ask(proxy, session) for session in seen]
        assert {one["x-upshift-policy"] for one in told} == {version}
        assert "canary" not in {one["x-upshift-reason"] for one in told}
        assert proxy.count("upshift_policy_info", version=stable) == 0
        assert proxy.count("upshift_policy_info", version=version) == 1
        assert proxy.count("upshift_canary_share") == 0
        status, refused = await post(proxy, "/admin/canary/promote")
        assert (status, refused["error"]["code"]) == (409, "no_canary")
        assert (await until_state(proxy, "promoted"))["reason"] == "by hand"
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as database:
        logged = dict(database.execute("SELECT policy, COUNT(*) FROM decisions GROUP BY policy"))
    assert logged == {stable: 81 - on_trial, version: on_trial + 40}


async def test_an_alarm_sends_it_back_for_good(pair, stable: str, tmp_path: Path) -> None:
    version = wrong_copy(tmp_path / "canary").version
    state = {"state_dir": str(tmp_path / "state")}
    settings = settings_with(pair, tmp_path / "canary", tmp_path, **state)
    async with trial_of(settings) as proxy:
        for number in range(80):
            await ask(proxy, f"s{number}")
        found = await until_state(proxy, "rolled_back")
        assert found["reason"].startswith("strong_share: ")
        assert found["canary"]["planned_share"] > 0.9 > found["canary"]["strong_share"]
        assert {(await ask(proxy, f"s{number}"))["x-upshift-policy"] for number in range(20)} == {stable}
        assert proxy.count("upshift_canary_rolled_back") == 1
        assert proxy.count("upshift_policy_info", version=version) == 0
    async with trial_of(settings) as proxy:  # a restart does not try it again
        assert {(await ask(proxy, f"s{number}"))["x-upshift-policy"] for number in range(20)} == {stable}
        await until_state(proxy, "rolled_back")


def prefer_strong(body: Body) -> str:
    """The judge: what the strong model says is right, what the weak one says is wrong."""
    return json.dumps({"reason": "known", "score": 10 if "strong" in material_of(body)["answer"] else 0})


async def test_low_quality_sends_it_back(pair, tmp_path: Path) -> None:
    """Nothing fails, the plan is kept; only the judge of the sampled answers finds what is wrong with it."""
    light_copy(tmp_path / "stable", "all strong", threshold=0.0)
    version = light_copy(tmp_path / "canary", "all weak", threshold=1.0).version
    settings = settings_with(
        pair, tmp_path / "canary", tmp_path, {"strategy": "mf", "explore_share": 0.0}, store_text=True,
        trial={"least_quality": 0.9}, quality_interval_s=0.2,
        shadow={"share": 1.0, "requests_per_minute": 0, "usd_per_day": 0},
    )  # fmt: skip
    database = f"sqlite:///{tmp_path / 'log.db'}"
    with Answering(prefer_strong) as judge:
        async with trial_of(settings) as proxy:
            for number in range(80):
                await ask(proxy, f"s{number}")
            await asyncio.sleep(0.5)
            found = await report(proxy)
            assert found["state"] == "running", found
            assert found["canary"]["strong_share"] == 0.0
            out = str(tmp_path / "live.jsonl")
            command = ["--from-log", database, "--judge", judge.url_of("j"), "--out", out]
            assert await asyncio.to_thread(judge_samples, command) == 0
            found = await until_state(proxy, "rolled_back")
            assert found["reason"].startswith("live_quality: at most 0.")
            assert "0.900 is the least" in found["reason"]
            assert found["canary"]["quality"]["high"] < 0.9 < found["stable"]["quality"]["estimate"]
            assert found["canary"]["version"] == version
            assert (await ask(proxy, "s1"))["x-upshift-policy"] == found["stable"]["version"]


async def test_by_hand_without_rollback_of_its_own(pair, stable: str, tmp_path: Path) -> None:
    wrong_copy(tmp_path / "canary")
    settings = settings_with(pair, tmp_path / "canary", tmp_path, trial={"rollback": False})
    async with trial_of(settings) as proxy:
        for number in range(80):
            await ask(proxy, f"s{number}")
        await asyncio.sleep(0.4)
        assert (await report(proxy))["state"] == "running"
        assert (await post(proxy, "/admin/canary/rollback"))[0] == 200
        assert {(await ask(proxy, f"s{number}"))["x-upshift-policy"] for number in range(20)} == {stable}


async def test_a_bad_bundle_is_refused_and_the_old_one_stays(pair, stable: str, tmp_path: Path) -> None:
    light_copy(tmp_path / "canary", "good")
    (tmp_path / "canary/mf.safetensors").write_bytes(b"damaged")
    bad = settings_with(pair, tmp_path / "canary", tmp_path)
    async with trial_of(bad) as proxy:
        assert (await ask(proxy, "s"))["x-upshift-policy"] == stable
        assert "mf.safetensors is damaged" in (await until_state(proxy, "refused"))["reason"]
    light_copy(tmp_path / "other", "other")
    async with trial_of(settings_with(pair, tmp_path / "other", tmp_path)) as proxy:
        assert not await proxy.live.reload(lambda: bad), "a reload is refused as a whole"
        await until_state(proxy, "running")


@pytest.mark.timeout(300)
def test_every_worker_sends_it_back(pair, stable: str, tmp_path: Path, repository: Path) -> None:
    wrong_copy(tmp_path / "canary")
    settings = settings_with(pair, tmp_path / "canary", tmp_path)
    data = settings.model_dump(mode="json", exclude_unset=True)
    port = pick_port()
    data["server"] |= {"workers": 2, "port": port}
    (tmp_path / "upshift.yaml").write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(tmp_path / "upshift.yaml")]
    server = ServerProcess(command, port, tmp_path / "proxy.log", {"PYTHONPATH": str(repository)})
    try:
        server.wait_ready("/readyz", 120)

        def asked(session: str) -> tuple[str, int]:
            """The policy that answered, over a connection of its own, and the worker's process."""
            body = {
                "model": "upshift",
                "messages": [{"role": "user", "content": KINDS[int(session[1:]) % 4]}],
            }
            with httpx.Client(base_url=server.origin, timeout=30) as client:
                answer = client.post(
                    "/v1/chat/completions", json=body, headers={"x-upshift-session": session}
                )
                return answer.headers["x-upshift-policy"], client.get("/readyz").json()["pid"]

        found: dict[int, set[str]] = {}
        for number in range(80):
            policy, pid = asked(f"s{number}")
            found.setdefault(pid, set()).add(policy)
        assert len(found) == 2
        end = time.monotonic() + 60
        while httpx.get(f"{server.origin}/admin/loop").json()["canary"]["state"] != "rolled_back":
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(0.5)
        after: dict[int, set[str]] = {}
        for number in range(24):
            policy, pid = asked(f"s{number}")
            after.setdefault(pid, set()).add(policy)
        assert len(after) == 2
        assert set().union(*after.values()) == {stable}
        metrics = httpx.get(f"{server.origin}/metrics").text
        assert "upshift_canary_rolled_back 1.0" in metrics
    finally:
        server.stop()

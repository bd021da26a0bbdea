"""Words that must never come out: keys, headers and prompts are sent through success and failure, and nothing
that Upshift says, logs, counts or stores may hold one of them."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from proxy.auth_settings import hash_key
from proxy.settings import Settings
from tests import chaos_faults as faults
from tests.chaos_upstream import ChaosUpstream, Exchange, Fault, healthy
from tests.proxy.live_proxy import FixedScorers, LiveProxy, Seen, live_proxy, make_settings
from tests.proxy.otlp_collector import Collector

PROMPT = "canary-prompt-7f3a"
CLIENT_KEY = "sk-canary-client-91bc"
BAD_KEY = "sk-canary-wrong-55aa"
BACKEND_KEY = "sk-canary-backend-d20e"
HEADER = "canary-header-4c1d"
URL_WORD = "canary-in-the-url-88"
WORDS = (PROMPT, CLIENT_KEY, BAD_KEY, BACKEND_KEY, HEADER, URL_WORD, hash_key(CLIENT_KEY))
_CANARY = re.compile("|".join(map(re.escape, WORDS)))


async def quotes_everything(exchange: Exchange) -> None:
    """A backend that repeats what it was sent in its error, key included."""
    said = f"Incorrect API key provided: {BACKEND_KEY}"
    await exchange.whole(
        401, json.dumps({"error": {"message": said, "type": "auth", "code": BACKEND_KEY}}).encode()
    )


async def quotes_with_403(exchange: Exchange) -> None:
    await exchange.whole(403, json.dumps({"detail": f"key {BACKEND_KEY} may not"}).encode())


async def quotes_with_500(exchange: Exchange) -> None:
    said = f"worker crashed with Authorization: Bearer {BACKEND_KEY}"
    await exchange.whole(500, json.dumps({"error": {"message": said}}).encode(), f"x-debug: {BACKEND_KEY}")


async def quotes_in_an_event(exchange: Exchange) -> None:
    if not exchange.stream:
        await quotes_with_500(exchange)
        return
    await exchange.head()
    await exchange.chunk(b'data: {"error": {"message": "bad key %s"}}\n\n' % BACKEND_KEY.encode())
    await exchange.end()


FAULTS: list[Fault] = [
    healthy, quotes_everything, quotes_with_403, quotes_with_500, quotes_in_an_event, faults.malformed_json,
    faults.truncated, faults.reset_mid_body, faults.close_unanswered, faults.status(503), faults.html_error,
    faults.wrong_shape, faults.non_utf8, faults.error_200, faults.hang, faults.bad_http,
]  # fmt: skip


def settings_of(urls: list[str], folder: Path, traces_url: str) -> Settings:
    tiers = [
        {"name": name, "url": url, "model": f"{name}-model", "api_key_env": "UPSHIFT_TEST_BACKEND_KEY"}
        for name, url in zip(("weak", "strong"), urls, strict=True)
    ]
    key = {"id": "canary", "sha256": hash_key(CLIENT_KEY), "requests_per_minute": 10_000}
    return make_settings(
        tiers, log={"url": f"sqlite:///{folder}/log.db", "flush_interval_s": 0.05}, auth={"keys": [key]},
        server={"request_timeout_s": 1.0, "max_body_bytes": 4096}, telemetry={"traces_url": traces_url},
        backends={"breaker_failures": 0, "outlier_share": 0},
    )  # fmt: skip


async def ask(proxy: LiveProxy, path: str, body: bytes, **headers: str) -> Seen:
    sent = {"authorization": f"Bearer {CLIENT_KEY}", "content-type": "application/json", "x-canary": HEADER,
            "cookie": HEADER, "user-agent": HEADER, **headers}  # fmt: skip
    async with proxy.session.post(
        f"{proxy.url}{path}?secret={URL_WORD}", data=body, headers=sent
    ) as response:
        return Seen(response.status, dict(response.headers), await response.read(), 0.0)


def bodies() -> list[tuple[str, bytes]]:
    """Good and bad ones, with the prompt wherever it may stand."""
    chat = {"messages": [{"role": "user", "content": PROMPT}], "user": PROMPT, "metadata": {"a": PROMPT}}
    out: list[tuple[str, bytes]] = []
    for model in ("upshift", "weak", "strong"):
        for stream in (False, True):
            body = {"model": model, "stream": stream, **chat}
            out.append(("/v1/chat/completions", json.dumps(body).encode()))
    out += [
        ("/v1/completions", json.dumps({"model": "weak", "prompt": PROMPT}).encode()),
        ("/v1/responses", json.dumps({"model": "upshift", "input": PROMPT}).encode()),
        ("/v1/embeddings", json.dumps({"model": "weak", "input": PROMPT}).encode()),
        ("/chat", json.dumps({"prompt": PROMPT}).encode()),
        ("/v1/route", json.dumps({"prompt": PROMPT}).encode()),
    ]
    wrong: list[Any] = [
        {"model": "upshift", "messages": PROMPT}, {"model": "upshift", "messages": [PROMPT]},
        {"model": "upshift", "messages": [{"role": 1, "content": PROMPT}]},
        {"model": "upshift", **chat, "temperature": PROMPT}, {"model": "upshift", **chat, "n": PROMPT},
        {"model": "upshift", **chat, "upshift": {"strategy": 4, "x": 1}},
        {"model": "upshift", **chat, "filler": PROMPT * 1000}, [PROMPT], PROMPT,
    ]  # fmt: skip
    out += [("/v1/chat/completions", json.dumps(body).encode()) for body in wrong]
    out += [("/v1/chat/completions", f'{{"model": "{PROMPT}'.encode()), ("/chat", PROMPT.encode())]
    return out


async def ask_everything(folder: Path, traces_url: str, score: float) -> tuple[list[Seen], str]:
    """All answers that clients got, and the metrics."""
    answers: list[Seen] = []
    async with ChaosUpstream("weak-model", "fine") as weak, ChaosUpstream("strong-model", "fine") as strong:
        settings = settings_of([weak.url, strong.url], folder, traces_url)
        async with live_proxy(settings, FixedScorers(score)) as proxy:
            for fault in FAULTS:
                weak.fault = strong.fault = fault
                few = bodies() if fault is healthy else bodies()[:7]
                answers += await asyncio.gather(*(ask(proxy, path, body) for path, body in few))
            weak.fault = strong.fault = healthy
            wrong_key = {"authorization": f"Bearer {BAD_KEY}"}
            for path, body in bodies()[:11]:
                answers.append(await ask(proxy, path, body, **wrong_key))
                answers.append(await ask(proxy, path, body, **{"content-type": HEADER}))
                answers.append(await ask(proxy, path, body, **{"x-upshift-strategy": "psychic"}))
            proxy.live.app.gateway.scorers.fails = True  # type: ignore[attr-defined]
            answers += await asyncio.gather(*(ask(proxy, path, body) for path, body in bodies()[:6]))
            async with proxy.session.get(f"{proxy.url}/metrics?{URL_WORD}") as response:
                metrics = await response.text()
            await proxy.settled()
    return answers, metrics


@pytest.mark.parametrize("score", [0.9, 0.1], ids=["accepted", "rejected"])
async def test_no_canary_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str], score: float,
) -> None:  # fmt: skip
    monkeypatch.setenv("UPSHIFT_TEST_BACKEND_KEY", BACKEND_KEY)
    caplog.set_level(logging.DEBUG)
    with Collector() as collector:
        answers, metrics = await ask_everything(tmp_path, collector.url, score)
    assert len(collector.spans) > 50
    exported = b"".join(collector.bodies).decode("latin-1")
    assert not _CANARY.search(exported), _CANARY.findall(exported)
    statuses = {seen.status for seen in answers}
    assert {200, 400, 401, 413, 415, 500, 502, 503, 504} <= statuses, statuses
    for seen in answers:
        told = json.dumps(seen.headers) + seen.body.decode("utf-8", "replace")
        found = set(_CANARY.findall(told)) - own_words(seen)
        assert not found, (seen.status, found, told[:500])
    assert "upshift_requests_total" in metrics
    assert not _CANARY.search(metrics)
    logged = "\n".join(f"{record.getMessage()} {record.exc_text or ''}" for record in caplog.records
                       if record.name.startswith(("upshift", "uvicorn", "proxy")))  # fmt: skip
    assert not _CANARY.search(logged), _CANARY.findall(logged)
    assert not _CANARY.search("".join(capfd.readouterr()))
    check_log(tmp_path)


def own_words(seen: Seen) -> set[str]:
    """A client's own wrong field or model name may be named to it; nobody else's words, and no key."""
    return {PROMPT, HEADER} if seen.status in (400, 404, 415) else set()


def check_log(folder: Path) -> None:
    database = sqlite3.connect(folder / "log.db")
    rows = database.execute("SELECT * FROM decisions").fetchall()
    database.close()
    assert len(rows) > 50
    assert not _CANARY.search(json.dumps(rows))
    for file in folder.glob("log.db*"):
        assert not _CANARY.search(file.read_bytes().decode("latin-1")), file

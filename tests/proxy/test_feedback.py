"""Feedback beside the decision it is about: stored, counted, refused with the reason."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.auth_settings import hash_key
from tests.proxy.live_proxy import FixedScorers, LiveProxy, live_proxy, make_settings
from tests.proxy.postgres_server import postgres_server, why_not
from tests.upstream import Upstream


@contextlib.asynccontextmanager
async def proxy_with(log: dict[str, Any], **sections: Any) -> AsyncIterator[LiveProxy]:
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        tiers = [
            {"name": "weak", "url": weak.url, "model": "weak-model"},
            {"name": "strong", "url": strong.url, "model": "strong-model"},
        ]
        settings = make_settings(tiers, log=log, **sections)
        async with live_proxy(settings, FixedScorers(0.9)) as proxy:
            yield proxy


async def rate(proxy: LiveProxy, body: Any, key: str = "") -> tuple[int, dict[str, Any]]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with proxy.session.post(f"{proxy.url}/v1/feedback", json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def rate_answers(url: str, store_text: bool) -> None:
    log = {"url": url, "flush_interval_s": 0.2, "store_text": store_text}
    async with proxy_with(log) as proxy:
        ids = [(await proxy.ask()).headers["x-request-id"] for _ in range(2)]
        ids.append((await proxy.ask("strong")).headers["x-request-id"])
        for identity, field, value in zip(ids, ("rating", "quality", "rating"), (0.25, 1, 0.5), strict=True):
            status, told = await rate(proxy, {"request_id": identity, field: value})
            assert (status, told.get("quality"), told.get("request_id")) == (200, value, identity), told
        assert told["decision"] == "pinned"
        status, told = await rate(proxy, {"request_id": ids[0], "rating": 1, "comment": "größer"})
        assert status == (200 if store_text else 400)
        assert store_text or told["error"]["code"] == "text_not_stored"
        assert proxy.count("upshift_feedback_total", decision="weak", rating="bad") == 1
        assert proxy.count("upshift_feedback_total", decision="weak", rating="good") == 1 + store_text
        assert proxy.count("upshift_feedback_total", decision="pinned") == 1
        status, told = await rate(proxy, {"request_id": "req_nobody", "rating": 1})
        assert (status, told["error"]["code"]) == (404, "request_not_found")
        assert "x-request-id" in told["error"]["message"]


@pytest.mark.parametrize("store_text", [False, True])
async def test_it_lies_beside_the_decision(tmp_path: Path, store_text: bool) -> None:
    await rate_answers(f"sqlite:///{tmp_path / 'log.db'}", store_text)
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as database:
        joined = database.execute(
            "SELECT tier, quality, comment FROM feedback JOIN decisions USING (request_id) "
            "ORDER BY feedback.rowid"
        ).fetchall()
    assert joined[:3] == [("weak", 0.25, None), ("weak", 1.0, None), ("strong", 0.5, None)]
    assert joined[3:] == ([("weak", 1.0, "größer")] if store_text else [])


@pytest.mark.postgres
@pytest.mark.skipif(bool(why_not()), reason=why_not())
async def test_it_lies_there_in_postgres_too() -> None:
    import psycopg

    with postgres_server() as server:
        await rate_answers(server.url, store_text=True)
        with psycopg.connect(server.url) as connection:
            (count,) = connection.execute("SELECT COUNT(*) FROM feedback").fetchone() or (0,)
        assert count == 4


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"rating": 1}, "request_id"),
        ({"request_id": "x"}, "rating"),
        ({"request_id": "x", "rating": 1, "quality": 1}, "rating"),
        ({"request_id": "x", "rating": 1.5}, "[0, 1]"),
        ({"request_id": "x", "rating": "good"}, "a number"),
        ({"request_id": "x", "rating": True}, "a number"),
        ({"request_id": "x", "rating": 1, "stars": 5}, "stars"),
        ({"request_id": "a\0b", "rating": 1}, "no request"),
        ([], "JSON object"),
    ],
)
async def test_what_is_wrong_is_named(tmp_path: Path, body: Any, word: str) -> None:
    async with proxy_with({"url": f"sqlite:///{tmp_path / 'log.db'}"}) as proxy:
        status, told = await rate(proxy, body)
    assert status == (404 if word == "no request" else 400)
    assert word in told["error"]["message"]


async def test_without_a_log_there_is_nothing_to_put_it_beside() -> None:
    async with proxy_with({}) as proxy:
        status, told = await rate(proxy, {"request_id": "x", "rating": 1})
    assert (status, told["error"]["code"]) == (404, "no_decision_log")
    assert "log.url" in told["error"]["message"]


async def test_a_key_may_be_for_feedback_alone(tmp_path: Path) -> None:
    scopes = {"chatter": ["chat"], "rater": ["feedback"], "embedder": ["embeddings"]}
    keys = [{"id": name, "sha256": hash_key(name), "scopes": listed} for name, listed in scopes.items()]
    log = {"url": f"sqlite:///{tmp_path / 'log.db'}", "flush_interval_s": 0.05}
    async with proxy_with(log, auth={"keys": keys}) as proxy:
        found = {name: (await rate(proxy, {"request_id": "a b", "rating": 1}, name))[0] for name in scopes}
        assert found == {"chatter": 404, "rater": 404, "embedder": 403}
        body = {"model": "weak", "messages": [{"role": "user", "content": "x"}]}
        headers = {"authorization": "Bearer rater"}
        url = f"{proxy.url}/v1/chat/completions"
        async with proxy.session.post(url, json=body, headers=headers) as answer:
            assert answer.status == 403

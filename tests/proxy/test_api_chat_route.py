"""`POST /chat` and `POST /v1/route`."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from tests.api_server import KEY, ApiServer

KEYS = {
    "model", "score", "text", "tier", "escalated", "route_score", "reason", "usage", "cost_usd", "latency_ms",
    "request_id",
}  # fmt: skip


def test_accepted(api: ApiServer):
    answer = api.http.post("/chat", json={"prompt": "What is six times seven?", "system": "Be brief."})
    data = answer.json()
    assert set(data) == KEYS
    assert (data["model"], data["tier"], data["escalated"]) == ("weak-model", "weak", False)
    assert data["score"] == pytest.approx(0.9)
    assert data["text"] == api.weak.script.text
    assert data["reason"] == "adequate"
    assert data["usage"]["total_tokens"] == 18
    assert data["cost_usd"] == pytest.approx((11 * 1 + 7 * 2) / 1e6)
    assert data["latency_ms"] > 0
    assert data["request_id"] == answer.headers["x-request-id"]
    assert api.weak.last.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is six times seven?"},
    ]


def test_escalated_pays_for_both(api: ApiServer):
    api.scorers.score = 0.2
    data = api.http.post("/chat", json={"prompt": "x"}).json()
    assert (data["tier"], data["escalated"], data["reason"]) == ("strong", True, "inadequate")
    assert data["score"] == pytest.approx(0.2)
    assert data["cost_usd"] == pytest.approx((11 * 1 + 7 * 2 + 11 * 10 + 7 * 20) / 1e6)


def test_strategy_and_threshold(api: ApiServer):
    api.scorers.score = 0.6  # P(strong should answer) = 0.4
    for threshold, tier in ((0.3, "strong"), (0.5, "weak"), (0, "strong"), (1, "weak"), (None, "weak")):
        body = {"prompt": "x", "strategy": "evaluator", "threshold": threshold}
        assert api.http.post("/chat", json=body).json()["tier"] == tier


def test_pinned_has_no_score(api: ApiServer):
    data = api.http.post("/chat", json={"prompt": "x", "model": "strong"}).json()
    assert (data["score"], data["route_score"], data["reason"]) == (None, None, "pinned")


def test_other_fields_reach_the_backend_as_they_are(api: ApiServer):
    body = b'{"prompt":"x","top_k":5,"seed":123456789012345678901234567890,"max_tokens":9}'
    assert api.http.post("/chat", content=body).status_code == 200
    raw = api.weak.last.raw
    for part in (
        b'"top_k":5',
        b'"seed":123456789012345678901234567890',
        b'"max_tokens":9',
    ):
        assert part in raw
    assert b'"prompt"' not in raw


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"system": 5}, "system"),
        ({"stream": True}, "stream"),
        ({"stream": "no"}, "stream"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": "0.5"}, "threshold"),
        ({"strategy": "psychic"}, "upshift"),
        ({"strategy": 5}, "strategy"),
        ({"upshift": 5}, "upshift"),
        ({"model": 5}, "model"),
    ],
)
def test_bad_fields(api: ApiServer, fields: dict[str, Any], param: str):
    answer = api.http.post("/chat", json={"prompt": "x", **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert not api.weak.seen + api.strong.seen


def test_stream_false_is_fine(api: ApiServer):
    assert api.http.post("/chat", json={"prompt": "x", "stream": False, "n": 1}).status_code == 200
    assert b"stream" not in api.weak.last.raw


def test_backend_errors_come_through(api: ApiServer):
    api.weak.script.status = api.strong.script.status = 429
    api.strong.script.retry_after = "3"
    answer = api.http.post("/chat", json={"prompt": "x"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_client_that_leaves_ends_the_work(api: ApiServer):
    api.weak.script.delay_s = 30
    started = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=httpx.Timeout(5, read=0.3)) as client:
            started.set()
            with pytest.raises(httpx.ReadTimeout):
                client.post(
                    api.root + "/chat", json={"prompt": "x"}, headers={"authorization": f"Bearer {KEY}"}
                )

    client = threading.Thread(target=ask)
    client.start()
    assert started.wait(5)
    assert api.weak.wait_until(lambda: api.weak.in_flight == 1)
    client.join(10)
    assert api.weak.wait_until(lambda: api.weak.in_flight == 0 and api.weak.cancelled == 1)
    assert api.weak.wait_until(lambda: "upshift_in_flight_requests 0.0" in api.http.get("/metrics").text)


def test_route_generates_nothing(api: ApiServer):
    data = api.http.post("/v1/route", json={"prompt": "x"}).json()
    assert (data["decision"], data["tier"], data["checked"]) == ("weak", "weak", True)
    assert (data["strategy"], data["threshold"]) == ("evaluator", 0.5)
    conversation = {"messages": [{"role": "user", "content": "x"}], "model": "upshift-evaluator-0"}
    assert api.http.post("/v1/route", json=conversation).json()["threshold"] == 0
    assert api.http.post("/v1/route", json={"prompt": "x", "model": "strong"}).json()["decision"] == "pinned"
    for way in ({"threshold": 0.25}, {"upshift": {"threshold": 0.25}}):
        assert api.http.post("/v1/route", json={"prompt": "x", **way}).json()["threshold"] == 0.25
    headers = {"x-upshift-strategy": "evaluator-0.75"}
    assert api.http.post("/v1/route", json={"prompt": "x"}, headers=headers).json()["threshold"] == 0.75
    assert not api.weak.seen + api.strong.seen


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": None},
        {"prompt": ""},
        {"prompt": 5},
        {"prompt": {"a": 1}},
        {"messages": []},
        {"messages": "x"},
        {"messages": [{"role": "user"}, 5]},
        {"strategy": "psychic"},
        {"strategy": 5},
        {"threshold": 2},
        {"threshold": "x"},
        {"upshift": {"surprise": 1}},
        {"model": "upshift-evaluator-9"},
        {"n": 0},
    ],
)
def test_bad_route_fields(api: ApiServer, fields: dict[str, Any]):
    answer = api.http.post("/v1/route", json={"prompt": "x", **fields})
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

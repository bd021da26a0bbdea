"""`/v1/embeddings`: a configured backend, else the tier that was named, else the last one."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.api_server import ApiServer, api_server
from tests.upstream import Upstream


def embed(api: ApiServer, **body: Any) -> httpx.Response:
    body = {"model": "upshift", "input": ["a", "bb"], **body}
    return api.http.post("/v1/embeddings", json=body)


@pytest.mark.parametrize(
    ("model", "tier"),
    [("upshift", "strong"), ("upshift-mf-0.4", None), ("weak", "weak"), ("strong-model", "strong")],
)
def test_without_a_backend_of_its_own_the_tier_is_asked(api: ApiServer, model: str, tier: str | None):
    answer = embed(api, model=model, dimensions=3, encoding_format="float")
    if tier is None:  # a strategy this policy lacks is no model
        assert answer.status_code == 404
        return
    assert answer.status_code == 200
    assert [item["index"] for item in answer.json()["data"]] == [0, 1]
    assert answer.headers["x-upshift-tier"] == tier
    assert float(answer.headers["x-upshift-cost-usd"]) == pytest.approx(4e-6 if tier == "weak" else 40e-6)
    backend = api.weak if tier == "weak" else api.strong
    assert backend.last.body["dimensions"] == 3
    assert backend.last.body["model"] == backend.model
    assert b"upshift" not in answer.content


def test_a_tier_without_embeddings_is_a_404_that_names_the_remedy(api: ApiServer):
    api.strong.script.lacks = frozenset({"/embeddings"})
    answer = embed(api)
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "The backend of 'strong-model' serves no embeddings; configure an `embeddings` backend.",
        "type": "invalid_request_error",
        "param": "model",
        "code": None,
    }
    assert 'upshift_backend_in_flight_requests{tier="strong"} 0.0' in api.http.get("/metrics").text


@pytest.mark.parametrize("value", [None, 4, [], "", {"a": 1}])
def test_bad_input(api: ApiServer, value: object):
    answer = embed(api, input=value)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input"
    assert not api.strong.seen


def test_configured_backend():
    with Upstream("vectors", key="sk-vectors") as own, pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPSHIFT_TEST_VECTORS_KEY", "sk-vectors")
        section = {"url": own.url, "model": "vectors", "api_key_env": "UPSHIFT_TEST_VECTORS_KEY"}
        with api_server(embeddings=section) as api:
            for model in ("upshift", "vectors"):
                answer = embed(api, model=model)
                assert answer.status_code == 200, answer.text
                assert answer.headers["x-upshift-model"] == "vectors"
            assert embed(api, model="weak").headers["x-upshift-tier"] == "weak"
            api.weak.script.lacks = frozenset({"/embeddings"})
            assert embed(api, model="weak").json()["error"]["message"].endswith("name 'vectors'.")
            assert embed(api, model="nothing").status_code == 404
            listed = api.http.get("/v1/models").json()["data"]
            assert "vectors" in [card["id"] for card in listed]
            assert [seen.headers["authorization"] for seen in own.seen] == ["Bearer sk-vectors"] * 2

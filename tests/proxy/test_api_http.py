"""What every answer carries, and the methods beside POST: CORS, OPTIONS, HEAD, request ids, models."""

from __future__ import annotations

import httpx
import pytest

from tests.api_server import KEY, ApiServer, api_server

PAGE = {"origin": "https://app.example"}
CHAT = "/v1/chat/completions"
BODY = {"model": "upshift", "messages": [{"role": "user", "content": "hello"}]}


def answers(api: ApiServer) -> dict[str, httpx.Response]:
    """One answer of every kind."""
    return {
        "chat": api.http.post(CHAT, json=BODY, headers=PAGE),
        "stream": api.http.post(CHAT, json={**BODY, "stream": True}, headers=PAGE),
        "pinned": api.http.post(CHAT, json={**BODY, "model": "weak"}, headers=PAGE),
        "pinned stream": api.http.post(CHAT, json={**BODY, "model": "weak", "stream": True}, headers=PAGE),
        "completion": api.http.post(
            "/v1/completions", json={"model": "upshift", "prompt": "x"}, headers=PAGE
        ),
        "embeddings": api.http.post("/v1/embeddings", json={"model": "upshift", "input": "x"}, headers=PAGE),
        "response": api.http.post("/v1/responses", json={"model": "upshift", "input": "x"}, headers=PAGE),
        "native": api.http.post(
            "/v1/responses", json={"model": "weak", "input": "x", "stream": True}, headers=PAGE
        ),
        "/chat": api.http.post("/chat", json={"prompt": "x"}, headers=PAGE),
        "route": api.http.post("/v1/route", json={"prompt": "x"}, headers=PAGE),
        "models": api.http.get("/v1/models", headers=PAGE),
        "bad key": api.anonymous.get("/v1/models", headers=PAGE),
        "bad body": api.http.post(CHAT, content=b"{", headers=PAGE),
        "unknown url": api.http.get("/v1/nothing", headers=PAGE),
        "wrong method": api.http.get(CHAT, headers=PAGE),
    }


def test_every_answer_has_the_common_headers(api: ApiServer):
    seen = answers(api)
    for name, answer in seen.items():
        headers = answer.headers
        assert headers["access-control-allow-origin"] == "*", name
        exposed = headers["access-control-expose-headers"].split(", ")
        told = [header for header in headers if header.startswith(("x-upshift-", "x-request-id", "openai-"))]
        assert set(told) <= set(exposed), name
        assert headers["openai-processing-ms"].isdigit(), name
        assert headers["openai-version"] == "2020-10-01", name
        counts = [pair[0] for pair in headers.multi_items()]
        assert len(counts) == len(set(counts)), (name, counts)
    ids = [answer.headers["x-request-id"] for answer in seen.values()]
    assert len(set(ids)) == len(ids)


def test_a_request_id_goes_in_and_out(api: ApiServer, model: str):
    mine = {"x-request-id": "trace-7/a"}
    answer = api.http.post(CHAT, json={**BODY, "model": model}, headers=mine)
    assert answer.headers["x-request-id"] == "trace-7/a"
    assert all(seen.headers["x-request-id"] == "trace-7/a" for seen in api.weak.seen + api.strong.seen)
    for path in ("/v1/models", "/v1/nothing", "/healthz"):
        assert api.http.get(path, headers=mine).headers["x-request-id"] == "trace-7/a"
    assert api.http.post("/chat", json={"prompt": "x"}, headers=mine).json()["request_id"] == "trace-7/a"


@pytest.mark.parametrize("bad", [b"a b", b"x" * 129, "é".encode(), b""])
def test_an_odd_request_id_is_replaced(api: ApiServer, bad: bytes):
    answer = api.http.post(CHAT, json=BODY, headers={b"x-request-id": bad})
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/embeddings", "/chat", "/v1/models", "/v1/new"])
def test_preflight(api: ApiServer, path: str):
    asked = "authorization,content-type,x-stainless-os"
    answer = api.anonymous.options(
        path,
        headers=PAGE | {"access-control-request-method": "POST", "access-control-request-headers": asked},
    )
    assert answer.status_code == 204
    assert answer.content == b""
    assert "content-length" not in answer.headers
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == asked
    assert not api.weak.seen


def test_pages_get_no_answers_of_the_operator(api: ApiServer):
    for path in ("/metrics", "/healthz", "/readyz", "/openapi.json"):
        answer = api.anonymous.get(path, headers=PAGE)
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


def test_only_named_origins():
    with api_server(server={"cors_origins": ["https://app.example"]}) as api:
        there = api.http.post(CHAT, json=BODY, headers=PAGE).headers
        assert there["access-control-allow-origin"] == "https://app.example"
        assert there["vary"] == "origin"
        other = api.http.get("/v1/models", headers={"origin": "https://evil.example"}).headers
        assert "access-control-allow-origin" not in other
        assert other["vary"] == "origin"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/upshift", "/healthz", "/readyz"])
def test_head_is_get_without_a_body(api: ApiServer, path: str):
    head, get = api.http.head(path), api.http.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]
    assert api.http.head("/v1/nothing").status_code == 404


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/chat"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_405(api: ApiServer, path: str, method: str):
    answer = api.http.request(method, path)
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    if method != "HEAD":
        assert answer.json()["error"]["code"] == "method_not_allowed"
    assert api.http.post("/v1/models").status_code == 405


def test_a_trailing_slash_does_not_matter(api: ApiServer):
    assert api.http.post(CHAT + "/", json=BODY).status_code == 200
    assert len(api.http.get("/v1/models/").json()["data"]) > 4


def test_a_base_url_without_v1_is_explained(api: ApiServer):
    error = api.http.post("/chat/completions", json=BODY).json()["error"]
    assert error["code"] == "unknown_url"
    assert "/v1" in error["message"]


def test_models(api: ApiServer):
    listed = api.http.get("/v1/models").json()
    assert listed["object"] == "list"
    ids = [card["id"] for card in listed["data"]]
    assert len(ids) == len(set(ids))
    assert {"upshift", "upshift-evaluator", "weak", "strong", "weak-model", "strong-model"} <= set(ids)
    for name in [*ids, "upshift-evaluator-0.35"]:
        card = api.http.get(f"/v1/models/{name}").json()
        assert (card["id"], card["object"]) == (name, "model")
    missing = api.http.get("/v1/models/no/such%2Fmodel")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_every_listed_model_answers(api: ApiServer):
    for card in api.http.get("/v1/models").json()["data"]:
        answer = api.http.post(CHAT, json={**BODY, "model": card["id"]})
        assert answer.status_code == 200, (card["id"], answer.text)


def test_the_clients_key_and_headers_stay_here(api: ApiServer):
    own = {"cookie": "a=b", "x-secret": "s", "traceparent": "00-1-2-01"}
    for path, body in ((CHAT, BODY), ("/v1/embeddings", {"model": "weak", "input": "x"})):
        api.http.post(path, json=body, headers=own)
        seen = api.weak.last.headers
        assert KEY not in str(seen)
        assert not {"cookie", "x-secret"} & set(seen)
        assert seen["traceparent"] == "00-1-2-01"

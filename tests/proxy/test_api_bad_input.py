"""Bad input is a clear 4xx in OpenAI's shape, routed or pinned, and nothing of it reaches a backend.

What Upshift does not understand, but a backend might, reaches the backend byte for byte.
"""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from tests.api_server import ApiServer

HELLO = b'[{"role":"user","content":"hello"}]'
POSTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/route",
    "/chat",
)
BOMB = gzip.compress(b" " * (64 << 20), compresslevel=1)  # 16 times the limit, unpacked


def check_error(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The error object; fails unless status, shape and headers are what every error has."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert answer.headers["openai-processing-ms"].isdigit()
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["x-should-retry"] == "false"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def body_for(path: str, model: str, **fields: Any) -> dict[str, Any]:
    """A good body for any of the POST paths."""
    own: dict[str, Any] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
        "/v1/completions": {"prompt": "hello"},
        "/v1/responses": {"input": "hello"},
        "/v1/embeddings": {"input": "hello"},
    }.get(path, {"prompt": "hello"})
    return {"model": model, **own, **fields}


# (name, the fields of a chat completion as JSON text, the parameter that is named)
CHAT = [
    ("empty_messages", '"messages":[]', "messages"),
    ("no_messages", '"stream":false', "messages"),
    ("null_messages", '"messages":null', "messages"),
    ("messages_string", '"messages":"hello"', "messages"),
    ("message_string", '"messages":["hello"]', "messages[0]"),
    ("message_null", '"messages":[null]', "messages[0]"),
    ("no_role", '"messages":[{"content":"x"}]', "messages[0].role"),
    ("role_number", '"messages":[{"role":1,"content":"x"}]', "messages[0].role"),
    ("content_number", '"messages":[{"role":"user","content":4}]', "messages[0].content"),
    ("content_object", '"messages":[{"role":"user","content":{}}]', "messages[0].content"),
    ("lone_surrogate", '"messages":[{"role":"user","content":"\\ud800"}]', None),
    ("n_zero", '"messages":[{"role":"user","content":"x"}],"n":0', "n"),
    ("n_negative", '"messages":[{"role":"user","content":"x"}],"n":-3', "n"),
    ("n_big_float", '"messages":[{"role":"user","content":"x"}],"n":1e-3', "n"),
    ("n_half", '"messages":[{"role":"user","content":"x"}],"n":1.5', "n"),
    ("n_true", '"messages":[{"role":"user","content":"x"}],"n":true', "n"),
    ("n_string", '"messages":[{"role":"user","content":"x"}],"n":"2"', "n"),
    ("hot", '"messages":[{"role":"user","content":"x"}],"temperature":"hot"', "temperature"),
    ("stream_string", '"messages":[{"role":"user","content":"x"}],"stream":"true"', "stream"),
    ("max_tokens", '"messages":[{"role":"user","content":"x"}],"max_tokens":"9"', "max_tokens"),
    ("options", '"messages":[{"role":"user","content":"x"}],"stream_options":[]', "stream_options"),
    ("format", '"messages":[{"role":"user","content":"x"}],"response_format":"json"', "response_format"),
    ("upshift", '"messages":[{"role":"user","content":"x"}],"upshift":"mf"', "upshift"),
]


@pytest.mark.parametrize("name", ["upshift", "strong-model"])
@pytest.mark.parametrize(("fields", "param"), [case[1:] for case in CHAT], ids=[case[0] for case in CHAT])
def test_bad_chat_fields(api: ApiServer, name: str, fields: str, param: str | None):
    answer = api.http.post("/v1/chat/completions", content=f'{{"model":"{name}",{fields}}}'.encode())
    error = check_error(answer, 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert not api.weak.seen + api.strong.seen


RAW = [
    ("empty", b""),
    ("spaces", b"   "),
    ("truncated", b'{"model":"upshift","messages":['),
    ("array", b"[1,2]"),
    ("string", b'"hello"'),
    ("number", b"5"),
    ("null", b"null"),
    ("two_values", b'{"model":"upshift"}{}'),
    ("single_quotes", b"{'model':'upshift'}"),
    ("nan", b'{"model":"upshift","messages":' + HELLO + b',"prompt":"x","input":"x","temperature":NaN}'),
    ("infinity", b'{"model":"upshift","messages":' + HELLO + b',"prompt":"x","input":"x","top_p":-Infinity}'),
    ("not_utf8", b'{"model":"\xff\xfe","messages":' + HELLO + b',"prompt":"x","input":"x"}'),
    ("utf16", '{"model":"upshift","prompt":"x","input":"x"}'.encode("utf-16")),
    ("nul_bytes", b"\0\0\0\0"),
    ("deep_array", b'{"model":"upshift","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("deep_unclosed", b'{"model":' * 50_000),
    (
        "many_fields",
        b'{"model":"upshift","messages":'
        + HELLO
        + b',"prompt":"x","input":"x",'
        + b",".join(b'"field_%d":1' % number for number in range(2_000))
        + b"}",
    ),
    ("control_character", b'{"model":"upshift","prompt":"a\nb","input":"a\nb"}'),
]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", [case[1] for case in RAW], ids=[case[0] for case in RAW])
def test_bad_bodies(api: ApiServer, path: str, body: bytes):
    check_error(api.http.post(path, content=body), 400, 404)
    assert not api.weak.seen + api.strong.seen


@pytest.mark.parametrize("path", POSTS)
def test_unknown_model(api: ApiServer, path: str):
    answer = api.http.post(path, json=body_for(path, "no-such-model"))
    error = check_error(answer, 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", [5, ["upshift"], {"a": 1}, True, "", "\ud800", "x" * 5000])
def test_bad_model(api: ApiServer, path: str, name: object):
    check_error(api.http.post(path, content=json.dumps(body_for(path, name)).encode()), 400, 404)


@pytest.mark.parametrize("path", POSTS)
def test_keys(api: ApiServer, path: str):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic c2stY2xpZW50"}):
        error = check_error(api.anonymous.post(path, content=b"not json", headers=headers), 401)
        assert error["code"] in ("missing_api_key", "invalid_api_key")


@pytest.mark.parametrize("path", POSTS)
def test_content_types(api: ApiServer, path: str):
    body = json.dumps(body_for(path, "upshift")).encode()
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "jsonish",
    ):
        check_error(api.http.post(path, content=body, headers={"content-type": kind}), 415)
    for kind in ("application/json; charset=utf-8", "application/vnd.api+json", "Application/JSON"):
        assert api.http.post(path, content=body, headers={"content-type": kind}).status_code == 200


@pytest.mark.parametrize("path", POSTS)
def test_bodies_over_the_limit(api: ApiServer, path: str):
    big = json.dumps(body_for(path, "upshift", filler="x" * (4 << 20))).encode()
    assert check_error(api.http.post(path, content=big), 413)["code"] == "request_too_large"

    def pieces():
        for start in range(0, len(big), 1 << 16):
            yield big[start : start + (1 << 16)]

    check_error(api.http.post(path, content=pieces()), 413)  # chunked: no length to look at


@pytest.mark.parametrize("path", POSTS)
def test_gzip(api: ApiServer, path: str):
    body = json.dumps(body_for(path, "upshift")).encode()
    headers = {"content-encoding": "gzip"}
    assert api.http.post(path, content=gzip.compress(body), headers=headers).status_code == 200
    assert len(BOMB) < 1 << 20
    check_error(api.http.post(path, content=BOMB, headers=headers), 413)
    for wrong in (b"not gzip", gzip.compress(body)[:-4], zlib.compress(body), gzip.compress(body) * 2):
        check_error(api.http.post(path, content=wrong, headers=headers), 400)
    check_error(api.http.post(path, content=body, headers={"content-encoding": "br"}), 415)


@pytest.mark.parametrize(
    "field",
    [
        b'"response_format":' + b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'"response_format":{"type":"json_schema","json_schema":{"name":"\\udfff"}}',
        b'"stream_options":' + b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'"upshift":' + b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'"n":' + b"[" * 5000 + b"]" * 5000,
    ],
)
def test_fields_that_cannot_be_read(api: ApiServer, field: bytes):
    for path, own in (("/v1/chat/completions", b'"messages":' + HELLO), ("/v1/completions", b'"prompt":"x"')):
        check_error(api.http.post(path, content=b'{"model":"upshift",' + own + b"," + field + b"}"), 400)


@pytest.mark.parametrize(
    "parts",
    [
        '[{"type":["text"],"text":"x"}]',
        '[{"type":{"a":1}}]',
        '["x",5,null]',
        '[{"type":"image_url","image_url":7}]',
        '[{"type":"text","text":null}]',
        "[]",
    ],
)
def test_odd_content_parts_are_for_the_backend_to_judge(api: ApiServer, model: str, parts: str):
    body = f'{{"model":"{model}","messages":[{{"role":"user","content":{parts}}}]}}'
    assert api.http.post("/v1/chat/completions", content=body.encode()).status_code == 200


ODD_FIELDS = (
    b'"vendor":{"b" :  1.50, "a":[1e3, 12345678901234567890123]}',
    b'"seed":123456789012345678901234567890',
    b'"emoji":"\\ud83d\\ude00 \\u00e9 \xc3\xa9"',
    b'"deep":' + b"[" * 500 + b"]" * 500,
    b'"logit_bias":{"50256":-100}',
    b'"user":"a\\/b"',
)


def test_unknown_fields_arrive_byte_for_byte(api: ApiServer, model: str):
    body = b'{"model":"%s","messages":%s,%s}' % (model.encode(), HELLO, b",".join(ODD_FIELDS))
    answer = api.http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 200, answer.text
    for seen in api.weak.seen + api.strong.seen:
        for field in ODD_FIELDS:
            name, _, value = field.partition(b":")
            assert value in seen.raw, name
        assert HELLO in seen.raw


def test_a_pinned_body_that_needs_no_change_is_not_changed(api: ApiServer):
    body = b'{ "messages" : ' + HELLO + b' ,\n "model":"strong-model", "x" : 1.0 }'
    assert api.http.post("/v1/chat/completions", content=body).status_code == 200
    assert api.strong.last.raw == body


def test_a_whole_number_is_an_integer_however_it_is_written(api: ApiServer, model: str):
    """2.0 is one to a JSON schema; a backend in Python would index by it."""
    body = b'{"model":"%b","messages":[{"role":"user","content":"x"}],"n":2.0,"max_tokens":9e0,"top_p":1.0}'
    answer = api.http.post("/v1/chat/completions", content=body % model.encode())
    assert answer.status_code == 200, answer.text
    backend = api.weak if api.weak.seen else api.strong
    assert b'"n":2,' in backend.last.raw
    assert b'"max_tokens":9,' in backend.last.raw
    assert b'"top_p":1.0' in backend.last.raw


def test_more_choices_than_can_be_judged(api: ApiServer):
    body = {"messages": [{"role": "user", "content": "x"}], "n": 129}
    routed = api.http.post("/v1/chat/completions", json={"model": "upshift", **body})
    assert (routed.status_code, routed.json()["error"]["param"]) == (400, "n")
    assert not api.weak.seen + api.strong.seen
    assert api.http.post("/v1/chat/completions", json={"model": "weak", **body}).status_code == 200


def test_the_last_of_duplicate_keys_counts(api: ApiServer):
    body = b'{"model":"no-such","messages":[],"messages":' + HELLO + b',"model":"upshift","n":0,"n":1}'
    assert api.http.post("/v1/chat/completions", content=body).status_code == 200
    assert api.weak.last.body["messages"] == json.loads(HELLO)
    assert api.weak.last.raw.count(b'"messages"') == 1


def test_our_own_field_never_leaves(api: ApiServer, model: str):
    body = body_for("/v1/chat/completions", model, upshift={"threshold": 0.5})
    assert api.http.post("/v1/chat/completions", json=body).status_code == 200
    assert all(b"upshift" not in seen.raw for seen in api.weak.seen + api.strong.seen)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"threshold": 2}, "upshift"),
        ({"threshold": -0.1}, "upshift"),
        ({"threshold": "high"}, "upshift.threshold"),
        ({"threshold": True}, "upshift.threshold"),
        ({"strategy": 4}, "upshift.strategy"),
        ({"strategy": "psychic"}, "upshift"),
        ({"stream_mode": "never"}, "upshift.stream_mode"),
        ({"stream_mode": ["hold"]}, "upshift.stream_mode"),
        ({"surprise": 1}, "upshift.surprise"),
    ],
)
def test_bad_options(api: ApiServer, options: dict[str, Any], param: str):
    answer = api.http.post(
        "/v1/chat/completions", json=body_for("/v1/chat/completions", "upshift", upshift=options)
    )
    assert check_error(answer, 400)["param"] == param


@pytest.mark.parametrize(
    "value",
    ["psychic", "mf-2", "mf-x", "mf-", "-", "evaluator-nan", "evaluator-1e400", "x" * 4000],
)
def test_bad_strategy_header(api: ApiServer, value: str):
    body = body_for("/v1/chat/completions", "upshift")
    headers = {"x-upshift-strategy": value.encode("latin-1")}
    check_error(api.http.post("/v1/chat/completions", json=body, headers=headers), 400)
    check_error(api.http.post("/v1/route", json=body_for("/v1/route", "upshift"), headers=headers), 400)


@pytest.mark.parametrize(
    "name",
    ["upshift-", "upshift-psychic", "upshift-evaluator-", "upshift-evaluator-2", "upshift-evaluator-nan",
     "upshift-evaluator-1e5", "upshift-evaluator--1", "router-mf", "router-sw_ranking-0.5", "router-mf-..",
     "upshift-evaluator-0.5-0.5", "upshift-evaluator-inf", "UPSHIFT"],
)  # fmt: skip
def test_bad_model_names(api: ApiServer, name: str):
    check_error(api.http.post("/v1/chat/completions", json=body_for("/v1/chat/completions", name)), 400, 404)
    check_error(api.http.get(f"/v1/models/{name}"), 400, 404)

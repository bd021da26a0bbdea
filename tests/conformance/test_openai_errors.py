"""The SDK's exception classes, and that it does not repeat what cannot succeed."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.api_server import KEY, ApiServer

HELLO = [{"role": "user", "content": "hello"}]
CLASSES = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    413: openai.APIStatusError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}


@pytest.fixture
def client(api: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=api.url, api_key=KEY, max_retries=2, timeout=20) as made:
        yield made


def fail(api: ApiServer, status: int) -> None:
    api.weak.script.status = api.strong.script.status = status


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", list(CLASSES))
def test_backend_errors(api: ApiServer, client: openai.OpenAI, status: int, stream: bool, model: str):
    """With two retries allowed, none is made: every tier that could help has been asked already."""
    fail(api, status)
    with pytest.raises(CLASSES[status]) as caught:
        client.chat.completions.create(model=model, messages=HELLO, stream=stream)
    error = caught.value
    assert isinstance(error, openai.APIStatusError)
    assert error.status_code == status
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.request_id
    assert error.response.headers["x-should-retry"] == "false"
    asked = [len(api.weak.seen), len(api.strong.seen)]
    assert max(asked) <= 1 + (status in (429, 502, 503, 504))  # the proxy may repeat once; the SDK never does


@pytest.mark.parametrize("status", [429, 503])
def test_a_backend_that_names_a_time_is_asked_again(api: ApiServer, client: openai.OpenAI, status: int):
    fail(api, status)
    api.strong.script.retry_after = "7"
    with pytest.raises(CLASSES[status]) as caught:
        client.with_options(max_retries=0).chat.completions.create(model="strong", messages=HELLO)
    assert isinstance(caught.value, openai.APIStatusError)
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["x-should-retry"]) == ("7", "true")


def test_a_weak_failure_is_never_seen(api: ApiServer, client: openai.OpenAI):
    for status in (401, 404, 429, 500, 503):
        api.weak.script.status = status
        answer = client.chat.completions.create(model="upshift", messages=HELLO)
        assert answer.choices[0].message.content == api.strong.script.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}',
        b'{"detail":"nope"}',
        b'{"error":"nope"}',
        b'{"error":{"message":"nope"}}',
        b"<html>nope</html>",
        b"",
        b"\xff\xfe",
        b'{"error":{"message":5,"code":7,"param":[1],"type":{}}}',
    ],
)
def test_any_shape_of_error_comes_out_as_one(api: ApiServer, client: openai.OpenAI, model: str, body: bytes):
    fail(api, 400)
    api.weak.script.raw_error = api.strong.script.raw_error = body
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=HELLO)
    error = caught.value.body
    assert isinstance(error, dict)
    assert isinstance(error["message"], str)
    assert error["message"]
    assert all(isinstance(error[name], str | None) for name in ("type", "param", "code"))


def test_wrong_keys_and_names(api: ApiServer, client: openai.OpenAI):
    with (
        pytest.raises(openai.AuthenticationError) as wrong,
        openai.OpenAI(base_url=api.url, api_key="sk-wrong", max_retries=2) as stranger,
    ):
        stranger.chat.completions.create(model="upshift", messages=HELLO)
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no-such", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as empty:
        client.chat.completions.create(model="upshift", messages=[])
    assert empty.value.param == "messages"
    assert not api.weak.seen + api.strong.seen


def test_a_stream_that_breaks_is_an_error(api: ApiServer, client: openai.OpenAI):
    api.strong.script.break_after_chunks = 3
    for model in ("strong", "upshift-evaluator-0"):
        stream = client.chat.completions.create(model=model, messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="broke off"):
            list(stream)

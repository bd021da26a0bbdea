"""What backends leave out or send as null is mended in routed answers; what conforms stays as it came."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.answer_form import AnswerForm
from proxy.attempt import Asked, TierAttempt
from proxy.call import parse_call
from proxy.relay import StreamRelay
from tests.proxy.test_relay import PieceReply, chunk, cut, events, field, make_call, relayed, whole_stream

USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def choice(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None, **more}


async def streamed(data: bytes, read: str = "ready", **fields: Any) -> list[Any]:
    attempt = TierAttempt(0, make_call(**fields), PieceReply([data]), Asked())
    await (attempt.ready() if read == "ready" else attempt.complete())
    return [item for item in events(await relayed(attempt)) if item != "[DONE]"]


def test_a_plain_answer_is_completed() -> None:
    answer = {
        "choices": [{"message": {"content": "hi", "function_call": None, "tool_calls": None,
                                 "reasoning": None}, "finish_reason": "stop", "stop_reason": None}],
        "usage": {**USAGE, "prompt_tokens_details": None,
                  "completion_tokens_details": {"audio_tokens": None}},
        "system_fingerprint": None, "service_tier": None, "kv_transfer_params": None,
    }  # fmt: skip
    assert AnswerForm("chat", "phi").complete(answer)
    assert answer.pop("id").startswith("chatcmpl-")  # type: ignore[attr-defined]
    assert isinstance(answer.pop("created"), int)
    message = {"role": "assistant", "content": "hi", "refusal": None, "reasoning": None}
    assert answer == {
        "object": "chat.completion", "model": "phi", "service_tier": None, "kv_transfer_params": None,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop",
                     "stop_reason": None}],
        "usage": {**USAGE, "total_tokens": 5, "completion_tokens_details": {}},
    }  # fmt: skip
    assert not AnswerForm("chat", "phi").complete({**answer, "id": "c1", "created": 1})


def test_logprobs_and_tool_calls_are_completed() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    logprobs = {"content": [{"token": "a", "logprob": -1.0}]}
    message = {"role": "assistant", "tool_calls": [call]}
    answer = {"choices": [{"message": message, "finish_reason": "tool_calls", "logprobs": logprobs}]}
    AnswerForm("chat", "m").complete(answer)
    assert message["content"] is None
    assert call.pop("id").startswith("call_")  # type: ignore[attr-defined]
    assert call == {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert logprobs == {
        "content": [{"token": "a", "logprob": -1.0, "bytes": None, "top_logprobs": []}], "refusal": None,
    }  # fmt: skip


def test_completions_are_completed() -> None:
    answer = {"created": 1.0, "choices": [{"text": "a", "finish_reason": "stop"}], "usage": None}
    AnswerForm("completions", "m").complete(answer)
    assert answer.pop("id").startswith("cmpl-")  # type: ignore[attr-defined]
    assert answer == {
        "object": "text_completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "text": "a", "logprobs": None, "finish_reason": "stop"}],
    }  # fmt: skip


ODD = [
    None,
    True,
    0,
    -1.5,
    1e300,
    -7,
    "",
    "a",
    [],
    [None, {}],
    {},
    {"a": None},
    {"content": 5, "tool_calls": 5},
]


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(
    ["id", "object", "created", "model", "usage", "message", "delta", "logprobs", "index", "text"]
), st.sampled_from(ODD)))  # fmt: skip
def test_no_value_breaks_it(values: dict[str, Any]) -> None:
    for nested in (values, {"content": values}, {"tool_calls": [values]}, {"content": [values]}):
        item = {**values, "message": nested, "delta": nested, "logprobs": nested}
        AnswerForm("chat", "m").complete({**values, "choices": [item]})
        form = AnswerForm("chat", "m")
        part = {**values, "choices": [dict(item)]}
        form.complete_chunk(part)
        form.begin_choices(part)
        orjson.dumps(part)


@pytest.mark.parametrize("read", ["ready", "complete"])
async def test_every_chunk_tells_the_same_id_and_time(read: str) -> None:
    """Ollama counts `created` anew in each; others give the chunk an id of its own."""
    words = [str(number) for number in range(12)]
    data = b"".join(
        event({**HEAD, "id": f"c{at // 6}", "created": at, "choices": [choice({"content": word})]})
        for at, word in enumerate(words)
    )
    out = await streamed(data + chunk({}, "stop"), read)
    assert {(item["id"], item["created"]) for item in out} == {("c0", 0)}
    assert [item["choices"][0]["delta"].get("content") for item in out[:-1]] == words


@pytest.mark.parametrize("read", ["ready", "complete"])
async def test_the_first_chunk_says_the_role(read: str) -> None:
    data = b"".join(event({**HEAD, "choices": [choice({"content": word})]}) for word in "abcdef")
    out = await streamed(data + chunk({}, "stop"), read)
    assert [item["choices"][0]["delta"].get("role") for item in out] == ["assistant"] + [None] * 6


@pytest.mark.parametrize("read", ["ready", "complete"])
async def test_what_all_chunks_lack_is_added_to_all(read: str) -> None:
    logprobs = {"content": [{"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}]}
    pieces = [choice({"content": "a", "tool_calls": None}, logprobs=logprobs) for _ in range(9)]
    data = chunk({"role": "assistant", "content": ""})
    data += b"".join(event({**HEAD, "choices": [piece]}) for piece in pieces)
    data += event({**HEAD, "choices": [choice({}, finish_reason="stop")], "usage": {**USAGE}})
    out = await streamed(data, read, logprobs=True)
    assert all(item["choices"][0]["logprobs"]["refusal"] is None for item in out[1:-1])
    assert not any("tool_calls" in item["choices"][0]["delta"] for item in out)
    assert out[-1]["usage"]["total_tokens"] == 5


@pytest.mark.parametrize("first", ["head", "choices"])
@settings(max_examples=30)
@given(st.lists(st.integers(0, 10_000), max_size=8))
async def test_chunks_that_conform_pass_as_the_bytes_that_came(first: str, places: list[int]) -> None:
    data = whole_stream(usage=False)
    if first == "choices":  # as llama.cpp orders them
        parts = [orjson.loads(item[6:]) for item in data.split(b"\n\n")[:-2]]
        data = b"".join(event({"choices": part.pop("choices"), **part}) for part in parts)
        data += b"data: [DONE]\n\n"
    attempt = TierAttempt(1, make_call(), PieceReply(cut(data, places)), Asked())
    await attempt.ready()
    relay = StreamRelay(attempt, field, AnswerForm("chat", "m"))
    out = b"".join([piece async for piece in relay.pieces()])
    assert out.split(b"\n\n")[:-3] == data.split(b"\n\n")[:-3]
    assert not relay._mends
    assert relay._common


async def test_a_completions_stream_has_one_id() -> None:
    call = parse_call("completions", b'{"model":"m","prompt":"q","stream":true}', 10)
    data = b"".join(event({"choices": [{"text": word, "index": 0}]}) for word in "abcdef")
    data += event({"choices": [{"text": "", "index": 0, "finish_reason": "stop"}]})
    attempt = TierAttempt(0, call, PieceReply([data]), Asked())
    await attempt.ready()
    relay = StreamRelay(attempt, field, AnswerForm("completions", "m"))
    out = events(b"".join([piece async for piece in relay.pieces()]))[:-1]
    assert len({item["id"] for item in out if isinstance(item, dict)}) == 1
    assert all(item["object"] == "text_completion" for item in out if isinstance(item, dict))

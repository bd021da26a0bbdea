"""A pinned answer: the bytes that came where they have OpenAI's form, else mended, streams and plain ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answer_form import AnswerForm
from proxy.attempt import Asked, TierAttempt
from proxy.pinned_form import PinnedForm, pinned_body
from tests.proxy.test_answer_form import HEAD, event
from tests.proxy.test_relay import PieceReply, events, make_call, whole_stream

TOKEN = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}


async def passed(*pieces: bytes) -> bytes:
    """What goes on of pieces that hold whole events."""

    async def come() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    form = PinnedForm(AnswerForm("chat", "phi"))
    return b"".join([piece async for piece in form.pieces(come())])


def whole_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at some of its events."""
    parts = data.split(b"\n\n")[:-1]
    edges = sorted({0, len(parts), *(cut % len(parts) for cut in cuts)})
    return [b"".join(part + b"\n\n" for part in parts[at:to]) for at, to in pairwise(edges)]


@given(st.lists(st.integers(0, 50), max_size=5))
async def test_a_stream_that_conforms_is_the_same_bytes(cuts: list[int]) -> None:
    data = b": hello\n\n" + whole_stream()
    data = data.replace(
        b'"choices":[],"usage"', b'"object":"chat.completion.chunk","created":1,"choices":[],"usage"'
    )
    assert await passed(*whole_pieces(data, cuts)) == data


@given(st.lists(st.integers(0, 50), max_size=5))
async def test_a_stream_that_does_not_is_mended_in_every_chunk(cuts: list[int]) -> None:
    def content(text: str) -> dict[str, Any]:
        return {
            "index": 0,
            "delta": {"content": text},
            "logprobs": {"content": [TOKEN]},
            "finish_reason": None,
        }

    said = [{**HEAD, "choices": [content(text)]} for text in "abcdef"]
    usage = {"prompt_tokens": 1, "completion_tokens": 6, "total_tokens": 7, "prompt_tokens_details": None}
    data = b"".join(map(event, [*said, {**HEAD, "choices": [], "usage": usage, "own": None}]))
    sent = await passed(*whole_pieces(data + b"data: [DONE]\n\n", cuts))
    returns = [piece.replace(b"\n", b"\r\n") for piece in whole_pieces(data + b"data: [DONE]\n\n", cuts)]
    assert await passed(*returns) == sent
    *chunks, last, done = events(sent)
    assert done == "[DONE]"
    assert [one["choices"][0]["delta"]["content"] for one in chunks] == list("abcdef")
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all(one["choices"][0]["logprobs"] == {"content": [TOKEN], "refusal": None} for one in chunks)
    assert "prompt_tokens_details" not in last["usage"]
    assert last["own"] is None  # what the specification has never heard of stays


async def test_later_chunks_are_not_read_where_the_first_conform() -> None:
    odd = b'data: {"choices": [ {"delta": {}} ]}\n\n'
    conform = whole_stream(usage=False, done=False)
    assert await passed(conform, odd) == conform + odd
    assert await passed(odd, odd) != odd + odd
    usage = event({**HEAD, "choices": [], "usage": {"prompt_tokens": 1, "prompt_tokens_details": None}})
    *_, last = events(await passed(conform, odd + usage))
    assert last["usage"] == {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
    assert (await passed(conform, odd + usage)).startswith(conform + odd)


@pytest.mark.parametrize(
    "piece",
    [b"data: [DONE]\n\n", b": still here\n\n", b"data: 7\n\n", b"data: {half\n\n", b"",
     b'data: {"error": {"message": "no"}}\n\n'],
)  # fmt: skip
async def test_what_is_no_chunk_stays(piece: bytes) -> None:
    assert await passed(piece) == piece


@pytest.mark.parametrize("choices", [None, 4, [3], [{"delta": 3}], [{"delta": {"tool_calls": [2, {}]}}]])
async def test_chunks_of_any_shape_pass(choices: object) -> None:
    (chunk,) = events(await passed(event({"choices": choices})))
    assert chunk["object"] == "chat.completion.chunk"


async def test_a_plain_answer_is_mended_or_the_same_bytes() -> None:
    def body(**usage: Any) -> bytes:
        message = {"role": "assistant", "content": "hi", "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        counts = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, **usage}
        answer = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": counts}
        return orjson.dumps(answer, option=orjson.OPT_INDENT_2)

    async def sent(raw: bytes) -> bytes:
        attempt = TierAttempt(0, make_call(stream=False), PieceReply([raw]), Asked())
        await attempt.complete()
        return pinned_body(attempt, AnswerForm("chat", "phi"))

    assert await sent(body()) == body()
    mended = orjson.loads(await sent(body(prompt_tokens_details=None)))
    assert mended == orjson.loads(body())

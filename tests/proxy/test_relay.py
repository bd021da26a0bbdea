"""A committed answer on its way out: cut anywhere, changed nowhere but at its last chunk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answer_form import AnswerForm
from proxy.attempt import Asked, TierAttempt
from proxy.call import Call, parse_call
from proxy.completion import Usage
from proxy.relay import StreamRelay, plain_body, with_field
from proxy.sse import EventSplitter, event_data
from routing.errors import BackendBroken

WORDS = ["Hé", "llo ", "你好 ", "[DONE]", ' "finish_reason":"stop" ', "\u2028", "🙂", " end"]


def chunk(delta: dict[str, object], finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
        **more,
    }
    return b"data: " + orjson.dumps(body) + b"\n\n"


def usage_chunk() -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}
    return b"data: " + orjson.dumps({"id": "c1", "model": "m", "choices": [], "usage": usage}) + b"\n\n"


def whole_stream(usage: bool = True, done: bool = True) -> bytes:
    out = chunk({"role": "assistant", "content": ""})
    out += b"".join(chunk({"content": word}) for word in WORDS)
    out += chunk({}, "stop")
    return out + (usage_chunk() if usage else b"") + (b"data: [DONE]\n\n" if done else b"")


class PieceReply:
    """A reply whose body comes in given pieces."""

    status = 200
    headers: Mapping[str, str] = {"content-type": "text/event-stream"}

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.closed = False

    async def read(self) -> bytes:
        return b"".join(self._pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def close(self) -> None:
        self.closed = True


def make_call(**more: object) -> Call:
    body = {"model": "upshift", "messages": [{"role": "user", "content": "q"}], "stream": True, **more}
    return parse_call("chat", orjson.dumps(body), 10)


def field(usage: Usage) -> bytes:
    return orjson.dumps({"tokens": usage.completion_tokens})


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(place % len(data) for place in places)})
    return [data[start:end] for start, end in pairwise(marks)]


async def relayed(attempt: TierAttempt) -> bytes:
    return b"".join([piece async for piece in StreamRelay(attempt, field, AnswerForm("chat", "m")).pieces()])


def events(data: bytes) -> list[object]:
    found = [event_data(event) for event in EventSplitter().feed(data)]
    return [orjson.loads(item) if item != b"[DONE]" else "[DONE]" for item in found]


@given(
    st.lists(st.integers(0, 10_000), max_size=12),
    st.sampled_from(["none", "ready", "complete"]),
    st.booleans(),
)
async def test_any_cut_gives_the_same_stream(places: list[int], read: str, asked: bool) -> None:
    call = make_call() if asked else make_call(stream_options={"include_usage": True})
    attempt = TierAttempt(1, call, PieceReply(cut(whole_stream(), places)), Asked(usage=asked))
    if read == "ready":
        await attempt.ready()
    elif read == "complete":
        await attempt.complete()
    out = events(await relayed(attempt))
    assert out[-1] == "[DONE]"
    chunks = [item for item in out if isinstance(item, dict)]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == "".join(WORDS)
    carriers = [c for c in chunks if "upshift" in c]
    assert [c["upshift"] for c in carriers] == [{"tokens": 8}]
    assert carriers[0] is chunks[-1]
    assert any("usage" in c and c["usage"] for c in chunks) != asked
    assert len(chunks) == len(WORDS) + 2 + (not asked)


@given(st.lists(st.integers(0, 10_000), max_size=6))
async def test_crlf_line_ends_are_understood(places: list[int]) -> None:
    data = whole_stream().replace(b"\n", b"\r\n")
    attempt = TierAttempt(1, make_call(), PieceReply(cut(data, places)), Asked(usage=True))
    out = events(await relayed(attempt))
    assert out[-1] == "[DONE]"
    assert len(out) == len(WORDS) + 3


async def test_missing_done_is_added_and_a_second_one_dropped() -> None:
    for data in (whole_stream(done=False), whole_stream() + b"data: [DONE]\n\n"):
        attempt = TierAttempt(1, make_call(), PieceReply([data]), Asked(usage=True))
        assert (await relayed(attempt)).count(b"data: [DONE]\n\n") == 1


async def test_truncated_stream_is_an_error_and_never_looks_finished() -> None:
    data = whole_stream()[:400]
    attempt = TierAttempt(1, make_call(), PieceReply([data]), Asked(usage=True))
    sent: list[bytes] = []

    async def send_all() -> None:
        async for piece in StreamRelay(attempt, field, AnswerForm("chat", "m")).pieces():
            sent.append(piece)

    with pytest.raises(BackendBroken, match=r"finish reason|valid JSON"):
        await send_all()
    assert b"[DONE]" not in b"".join(sent)
    assert b'"finish_reason":"stop"' not in b"".join(sent)


async def test_error_event_inside_a_stream_is_raised_not_relayed() -> None:
    data = chunk({"role": "assistant", "content": "a"}) + b'data: {"error": {"message": "out of memory"}}\n\n'
    attempt = TierAttempt(1, make_call(), PieceReply([data[:300], data[300:]]), Asked())
    with pytest.raises(BackendBroken, match="error came inside"):
        await relayed(attempt)


@pytest.mark.parametrize(
    "bad", [b": \x80\n\n", b"\x80ata: {}\n\n", b"event: \xff\n" + chunk({"content": "x"})]
)
@pytest.mark.parametrize("size", [1, 10_000])
async def test_bytes_that_are_no_text_never_reach_a_client(bad: bytes, size: int) -> None:
    whole = whole_stream()
    middle = whole.index(b"\n\n", len(whole) // 2) + 2
    data = whole[:middle] + bad + whole[middle:]
    pieces = cut(data, list(range(0, len(data), size)))
    attempt = TierAttempt(0, make_call(), PieceReply(pieces), Asked())
    try:
        await attempt.ready()
        sent = await relayed(attempt)
    except BackendBroken as broken:
        assert "UTF-8" in str(broken)  # noqa: PT017 - a held stream drops what it does not understand instead
    else:
        assert size > 1
        sent.decode()


async def test_stream_without_content_is_not_ready() -> None:
    attempt = TierAttempt(1, make_call(), PieceReply([chunk({"role": "assistant", "content": ""})]), Asked())
    with pytest.raises(BackendBroken, match="before any content"):
        await attempt.ready()


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_begins_a_stream_and_is_no_part_of_the_answer(name: str) -> None:
    """A model that thinks for a minute must not be silent for one; its thoughts are not judged."""
    pieces = [chunk({"role": "assistant", "content": ""}), chunk({name: "hm"}), chunk({name: "so"})]
    pieces += [chunk({"content": "yes"}), chunk({}, "stop")]
    attempt = TierAttempt(1, make_call(), PieceReply(pieces), Asked())
    await attempt.ready()
    assert len(attempt.events) == 2
    assert attempt.prefix() == []
    out = await relayed(attempt)
    assert [event["choices"][0]["delta"].get(name) for event in events(out)[1:3]] == ["hm", "so"]  # type: ignore[index]
    judged = TierAttempt(0, make_call(), PieceReply(pieces), Asked())
    await judged.complete()
    assert judged.answers()[0].text == "yes"
    assert judged.usage.completion_tokens == 3


async def test_logprobs_asked_for_ourselves_are_taken_out_of_streams() -> None:
    item = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    body = orjson.loads(event_data(chunk({"role": "assistant", "content": "a"})))
    body["choices"][0]["logprobs"] = {"content": [item]}
    data = b"data: " + orjson.dumps(body) + b"\n\n" + chunk({}, "stop")
    attempt = TierAttempt(0, make_call(), PieceReply([data]), Asked(logprobs=True))
    await attempt.complete()
    assert attempt.answers()[0].logprobs == [-0.5]
    out = await relayed(attempt)
    assert b"-0.5" not in out
    assert events(out)[0]["choices"][0]["logprobs"] is None  # type: ignore[index]


async def test_plain_body_keeps_its_bytes_but_for_the_field() -> None:
    body = (
        b'{ "id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
        b'{"role":"assistant","content":"h\\u00e9","refusal":null},"logprobs":null,"finish_reason":"stop"}],'
        b'"big":123456789012345678901234567890, "usage":{"prompt_tokens":1,'
        b'"completion_tokens":2,"total_tokens":3} }\n'
    )
    call = parse_call("chat", b'{"model":"upshift","messages":[{"role":"user","content":"q"}]}', 10)
    attempt = TierAttempt(0, call, PieceReply([body]), Asked())
    await attempt.complete()
    told = plain_body(attempt, field, AnswerForm("chat", "m"))
    assert told == body.rstrip()[:-1].rstrip() + b',"upshift":{"tokens":2}}'


def test_field_is_added_to_an_empty_object() -> None:
    assert with_field(b"{ }", b"1") == b'{"upshift":1}'


def test_unknown_fields_reach_the_backend_byte_for_byte() -> None:
    vendor = b'{"a" : [1.50, 1e999999, "\\u00e9"]}'
    body = b'{"model": "upshift", "messages": [{"role":"user","content":"q"}], "vendor": ' + vendor + b"}"
    call = parse_call("chat", body, 10)
    assert b'"vendor":' + vendor in call.encode({"model": b'"m"'})
    assert call.encode({"model": b'"upshift"'}) is body

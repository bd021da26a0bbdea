from __future__ import annotations

import asyncio
import json

import pytest

from demo.backend import InProcessBackend
from demo.tasks import draw_tasks
from routing.errors import BackendBroken, BackendTimeout, BackendUnavailable
from routing.protocols import Backend, BackendReply, BackendRequest

PROMPTS = [task.prompt for task in draw_tasks("test", 12)]
LONG = {"max_tokens": 900, "ignore_eos": True}


def chat_request(stream=False, timeout_s=None, **options):
    body = {"messages": [{"role": "user", "content": "What is 17 + 28?"}], "stream": stream, **options}
    return BackendRequest("/chat/completions", json.dumps(body).encode(), stream=stream, timeout_s=timeout_s)


def content(body, index=0):
    return body["choices"][index]["message"]["content"]


async def wait_until_idle(backend, limit_s=5.0):
    async with asyncio.timeout(limit_s):
        while backend.engine.steps_running:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.005)


async def test_it_is_a_backend(backend):
    assert isinstance(backend, Backend)
    reply = await backend.send(chat_request())
    assert isinstance(reply, BackendReply)
    assert isinstance(await backend.send(chat_request(stream=True)), BackendReply)


async def test_chat_answer(post):
    status, body = await post()
    assert status == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == "demo-phi"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert content(body).startswith("17 + 28 = ")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
@pytest.mark.parametrize("options", [{}, {"stop": ["+ 2", "2, "]}, {"max_tokens": 3}, {"logprobs": 1}])
async def test_stream_equals_whole(post, path, options):
    if path == "/chat/completions" and "logprobs" in options:
        options = {"logprobs": True, "top_logprobs": 2}
    for prompt in PROMPTS[:4]:
        _, whole = await post(prompt, path, **options)
        _, events = await post(prompt, path, stream=True, stream_options={"include_usage": True}, **options)
        assert events[-1]["choices"] == []
        assert events[-1]["usage"] == whole["usage"]
        choices = [event["choices"][0] for event in events[:-1]]
        assert [c["finish_reason"] for c in choices[:-1]] == [None] * (len(choices) - 1)
        assert choices[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
        if path == "/chat/completions":
            assert choices[0]["delta"] == {"role": "assistant", "content": ""}
            assert "".join(c["delta"].get("content", "") for c in choices) == content(whole)
            told = [entry for c in choices if c["logprobs"] for entry in c["logprobs"]["content"]]
            expected = (whole["choices"][0]["logprobs"] or {"content": []})["content"]
        else:
            assert "".join(c["text"] for c in choices) == whole["choices"][0]["text"]
            told = [t for c in choices if c["logprobs"] for t in c["logprobs"]["token_logprobs"]]
            expected = (whole["choices"][0]["logprobs"] or {"token_logprobs": []})["token_logprobs"]
        assert len(told) == len(expected)


async def test_stream_without_usage_option_has_no_usage(post):
    _, events = await post(stream=True)
    assert all("usage" not in event for event in events)
    assert all(event["choices"] for event in events)


async def test_logprobs(post):
    _, body = await post(logprobs=True, top_logprobs=3)
    entries = body["choices"][0]["logprobs"]["content"]
    assert len(entries) == body["usage"]["completion_tokens"]
    assert entries[-1]["token"] == "<|end|>"
    assert "".join(entry["token"] for entry in entries[:-1]) == content(body)
    for entry in entries:
        assert entry["logprob"] <= 0
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"]  # greedy takes the likeliest
    _, plain = await post("Hi", path="/completions", logprobs=2, max_tokens=4)
    logprobs = plain["choices"][0]["logprobs"]
    assert (
        len({len(logprobs[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}) == 1
    )


async def test_stop_string_is_removed(post):
    _, body = await post(stop="= ")
    assert content(body) == "17 + 28 "
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_max_tokens(post):
    for name in ("max_tokens", "max_completion_tokens"):
        _, body = await post(**{name: 2})
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 2
        assert content(body) == "17"


async def test_seed_reproduces_and_differs(post):
    hot = {"temperature": 1.5, "max_tokens": 30, "ignore_eos": True}
    (_, one), (_, same), (_, other) = await asyncio.gather(
        post(seed=7, **hot), post(seed=7, **hot), post(seed=8, **hot)
    )
    assert content(one) == content(same) != content(other)
    _, narrow = await post(temperature=1.5, top_p=1e-6, seed=1)
    assert content(narrow) == content((await post())[1])


async def test_several_choices_and_prompts(post):
    _, body = await post(n=2, seed=1, temperature=1.5, max_tokens=30, ignore_eos=True)
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert content(body, 0) != content(body, 1)
    _, events = await post(n=2, stream=True)
    for index in (0, 1):
        choices = [e["choices"][0] for e in events if e["choices"][0]["index"] == index]
        assert choices[0]["delta"]["role"] == "assistant"
        assert choices[-1]["finish_reason"] == "stop"
    _, body = await post(["Hi", "Yes"], path="/completions", n=2, max_tokens=2, echo=True)
    assert [choice["text"][:2] for choice in body["choices"]] == ["Hi", "Hi", "Ye", "Ye"]


async def test_together_as_alone(post):
    alone = [(await post(prompt))[1] for prompt in PROMPTS]
    together = await asyncio.gather(*(post(prompt) for prompt in PROMPTS))
    assert [content(body) for _, body in together] == [content(body) for body in alone]


async def test_system_message_and_text_parts_reach_the_prompt(backend, post):
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "17 + 28?"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    reply = await backend.send(chat_request(messages=messages))
    body = json.loads(await reply.read())
    rendered = "<|begin|><|system|>Be brief.<|end|><|user|>What is\n17 + 28?<|end|><|assistant|>"
    expected = backend._loaded.tokenizer.encode(rendered, add_special_tokens=False)
    assert body["usage"]["prompt_tokens"] == len(expected)


@pytest.mark.parametrize("gone", ["close", "cancel"])
async def test_an_abandoned_stream_stops_generating(backend, gone):
    reply = await backend.send(chat_request(stream=True, **LONG))
    chunks = reply.chunks()
    await anext(chunks)
    await anext(chunks)
    if gone == "close":
        await reply.close()
        await reply.close()
    else:
        await chunks.aclose()
    await wait_until_idle(backend, 1.5)
    await chunks.aclose()


async def test_a_cancelled_call_stops_generating(backend):
    task = asyncio.create_task(backend.send(chat_request(**LONG)))
    await asyncio.sleep(0.05)
    assert backend.engine.steps_running
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until_idle(backend, 1.5)


async def test_the_deadline_is_kept(backend):
    with pytest.raises(BackendTimeout):
        await backend.send(chat_request(timeout_s=0.05, **LONG))
    await wait_until_idle(backend, 1.5)


async def test_the_event_loop_is_never_blocked(backend):
    task = asyncio.create_task(backend.send(chat_request(max_tokens=200, ignore_eos=True)))
    loop, gaps = asyncio.get_running_loop(), []
    while not task.done():
        before = loop.time()
        await asyncio.sleep(0.001)
        gaps.append(loop.time() - before)
    assert sorted(gaps)[len(gaps) // 2] < 0.05


async def test_a_closed_engine_says_so(weak):
    backend = InProcessBackend(weak, "demo-phi")
    task = asyncio.create_task(backend.send(chat_request(**LONG)))
    await asyncio.sleep(0.05)
    await backend.close()
    with pytest.raises(BackendBroken):
        await task
    with pytest.raises(BackendUnavailable):
        await backend.send(chat_request())


@pytest.mark.parametrize(
    ("options", "status", "param", "code"),
    [
        ({"max_tokens": 2000}, 400, "messages", "context_length_exceeded"),
        ({"prompt": "word " * 2000}, 400, "messages", "context_length_exceeded"),
        ({"temperature": 3}, 400, "temperature", "invalid_value"),
        ({"temperature": "hot"}, 400, "temperature", "invalid_type"),
        ({"top_p": 0}, 400, "top_p", "invalid_value"),
        ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
        ({"n": 0}, 400, "n", "invalid_value"),
        ({"stop": 5}, 400, "stop", None),
        ({"stop": [""]}, 400, "stop", None),
        ({"top_logprobs": 2}, 400, "top_logprobs", None),
        ({"tools": [{}]}, 400, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "unsupported_parameter"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", None),
        ({"model": "gpt-4"}, 404, "model", "model_not_found"),
        ({"messages": []}, 400, "messages", None),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0]", None),
    ],
)
async def test_errors_are_openais(post, options, status, param, code):
    got, body = await post(**options)
    assert got == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == "invalid_request_error"
    assert (body["error"]["param"], body["error"]["code"]) == (param, code)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_json_object(backend, raw):
    reply = await backend.send(BackendRequest("/chat/completions", raw))
    assert reply.status == 400


async def test_models_and_unknown_paths(backend):
    for path, status in (("/models", 200), ("/models/demo-phi", 200), ("/models/x", 404), ("/nope", 404)):
        reply = await backend.send(BackendRequest(path, b"", method="GET"))
        assert reply.status == status
    reply = await backend.send(BackendRequest("/chat/completions", b"", method="GET"))
    assert reply.status == 405

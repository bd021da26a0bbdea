"""Routed streams: the same text as the whole answer, nothing of a rejected one, and nothing leaked."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from demo.tokenizer import END
from tests.vllm.conftest import Stack
from tests.vllm.prompts import KEEP_WEAK, PROMPTS, SHIFT_UP, ask

STRATEGIES = [KEEP_WEAK, SHIFT_UP, "upshift-random-0.0", "upshift"]


@pytest.mark.parametrize("model", STRATEGIES)
def test_the_pieces_add_up_to_the_whole_answer(model: str, client: openai.OpenAI) -> None:
    for prompt in PROMPTS[:3]:
        whole = client.chat.completions.create(model=model, **ask(prompt))
        with client.chat.completions.create(model=model, stream=True, **ask(prompt)) as stream:
            chunks = list(stream)
        if model == "upshift" and chunks[-1].model != whole.model:
            continue  # exploration drew the two differently
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert {chunk.model for chunk in chunks} == {whole.model}


def test_headers_tell_the_decision_before_the_first_piece(client: openai.OpenAI) -> None:
    for model, decision in ((KEEP_WEAK, "weak"), (SHIFT_UP, "escalated")):
        raw = client.chat.completions.with_raw_response.create(model=model, stream=True, **ask(PROMPTS[0]))
        assert raw.headers["x-upshift-decision"] == decision
        with raw.parse() as stream:
            assert len(list(stream)) > 1


@pytest.mark.parametrize("with_usage", [False, True])
@pytest.mark.parametrize("model", [KEEP_WEAK, SHIFT_UP])
def test_a_stream_has_vllms_events_and_one_word_more(model: str, with_usage: bool, stack: Stack) -> None:
    """What vLLM sends for the same request, with the decision on an event that is there anyway."""
    direct_server = stack.weak if model == KEEP_WEAK else stack.strong
    body = {**ask(PROMPTS[1]), "stream": True}
    if with_usage:
        body["stream_options"] = {"include_usage": True}
    through = _events(stack.proxy.base_url, {"model": model, **body})
    direct = _events(direct_server.base_url, {"model": direct_server.model, **body})
    told = [event for event in through if "upshift" in event]
    assert len(told) == 1
    if with_usage:
        assert told[0]["usage"] is not None
        assert told[0] is through[-1]
    else:
        assert told[0]["choices"][0]["finish_reason"] is not None
        assert not any(event.get("usage") for event in through)
    assert _content(through) == _content(direct)
    assert _usage(through) == _usage(direct)
    assert not any(choice.get("logprobs") for event in through for choice in event["choices"])


def test_a_stream_with_logprobs_keeps_them(stack: Stack) -> None:
    body = {**ask(PROMPTS[2]), "stream": True, "logprobs": True, "top_logprobs": 1}
    through = _events(stack.proxy.base_url, {"model": KEEP_WEAK, **body})
    direct = _events(stack.weak.base_url, {"model": "demo-phi", **body})
    told = _told_tokens(through)
    assert told
    assert told == _told_tokens(direct)


def _told_tokens(events: list[dict[str, Any]]) -> list[Any]:
    """The log-probabilities of a stream, token by token.

    How many tokens vLLM puts into one event is a matter of its pace, but they must spell that event's text.
    """
    told = []
    for event in events:
        for choice in event["choices"]:
            tokens = choice["logprobs"]["content"] if choice.get("logprobs") else []
            spelled = "".join(token["token"] for token in tokens if token["token"] != END)
            assert spelled == (choice["delta"].get("content") or "")
            told += tokens
    return told


def test_an_error_of_a_stream_is_a_status_and_not_an_event(stack: Stack) -> None:
    body = {"model": "upshift", **ask("7 " * 2000), "stream": True}
    answer = httpx.post(f"{stack.proxy.base_url}/chat/completions", json=body, timeout=30.0)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def _events(base_url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON events of a stream, which must end in `[DONE]`."""
    with httpx.stream("POST", f"{base_url}/chat/completions", json=body, timeout=30.0) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def _content(events: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


def _usage(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event["usage"] for event in events if event.get("usage")]

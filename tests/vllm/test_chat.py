"""`POST /chat`: one prompt in, one judged answer out."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.vllm.conftest import Stack
from tests.vllm.prompts import PROMPTS, ask

FIELDS = {
    *("model", "score", "text", "tier", "escalated", "route_score", "reason"),
    *("usage", "cost_usd", "latency_ms", "request_id"),
}


def _chat(stack: Stack, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{stack.proxy.origin}/chat", json=body, timeout=30.0)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_an_accepted_answer(stack: Stack, weak_direct: openai.OpenAI) -> None:
    answer = _chat(
        stack, prompt=PROMPTS[0], strategy="evaluator", threshold=1.0, temperature=0.0, max_tokens=24
    )
    direct = weak_direct.chat.completions.create(model="demo-phi", **ask(PROMPTS[0]))
    assert set(answer) >= FIELDS
    assert answer["text"] == direct.choices[0].message.content
    assert answer["model"] == "demo-phi"
    assert answer["tier"] == "weak"
    assert answer["escalated"] is False
    assert 0.0 <= answer["score"] <= 1.0
    assert answer["usage"]["completion_tokens"] == direct.usage.completion_tokens
    assert answer["latency_ms"] > 0.0


def test_a_rejected_answer(stack: Stack, strong_direct: openai.OpenAI) -> None:
    answer = _chat(
        stack, prompt=PROMPTS[0], strategy="evaluator", threshold=0.0, temperature=0.0, max_tokens=24
    )
    direct = strong_direct.chat.completions.create(model="demo-mistral", **ask(PROMPTS[0]))
    assert answer["text"] == direct.choices[0].message.content
    assert answer["model"] == "demo-mistral"
    assert answer["tier"] == "strong"
    assert answer["escalated"] is True


def test_no_evaluator_no_score(stack: Stack) -> None:
    answer = _chat(stack, prompt=PROMPTS[0], strategy="random", threshold=0.0, max_tokens=4)
    assert answer["score"] is None
    assert answer["tier"] == "strong"
    assert answer["escalated"] is False


def test_the_policy_in_force_answers(stack: Stack) -> None:
    for prompt in PROMPTS:
        answer = _chat(stack, prompt=prompt, system="Answer in one word.", temperature=0.0, max_tokens=24)
        assert set(answer) >= FIELDS
        assert answer["text"]


@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"prompt": 7}, {"prompt": "hi", "threshold": 2}])
def test_bad_input_is_an_openai_shaped_400(stack: Stack, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{stack.proxy.origin}/chat", json=body, timeout=30.0)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

"""Routed answers: whichever tier speaks, the text is vLLM's, and nothing the proxy asked for shows."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.vllm.conftest import Stack
from tests.vllm.prompts import KEEP_WEAK, PROMPTS, SHIFT_UP, ask


@pytest.mark.parametrize("prompt", PROMPTS)
def test_an_accepted_answer_is_the_weak_models(
    prompt: str, client: openai.OpenAI, weak_direct: openai.OpenAI
) -> None:
    raw = client.chat.completions.with_raw_response.create(model=KEEP_WEAK, **ask(prompt))
    direct = weak_direct.chat.completions.create(model="demo-phi", **ask(prompt))
    routed = raw.parse()
    assert routed.choices[0].message.content == direct.choices[0].message.content
    assert routed.choices[0].finish_reason == direct.choices[0].finish_reason
    assert routed.usage == direct.usage
    assert routed.model == raw.headers["x-upshift-model"] == "demo-phi"
    assert raw.headers["x-upshift-tier"] == "weak"
    assert raw.headers["x-upshift-decision"] == "weak"
    assert raw.headers["x-upshift-reason"] == "adequate"
    assert 0.0 <= float(raw.headers["x-upshift-evaluator-score"]) <= 1.0
    assert raw.headers["x-request-id"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_rejected_answer_is_replaced_by_the_strong_models(
    prompt: str, client: openai.OpenAI, strong_direct: openai.OpenAI
) -> None:
    raw = client.chat.completions.with_raw_response.create(model=SHIFT_UP, **ask(prompt))
    direct = strong_direct.chat.completions.create(model="demo-mistral", **ask(prompt))
    routed = raw.parse()
    assert routed.choices[0].message.content == direct.choices[0].message.content
    assert routed.usage == direct.usage
    assert routed.model == "demo-mistral"
    assert raw.headers["x-upshift-decision"] == "escalated"
    assert raw.headers["x-upshift-reason"] in {"inadequate", "hard_check"}


def test_a_prompt_sent_straight_to_the_strong_model_says_so(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="upshift-random-0.0", **ask(PROMPTS[0]))
    assert raw.headers["x-upshift-decision"] == "strong"
    assert raw.headers["x-upshift-reason"] == "random"
    assert raw.parse().model == "demo-mistral"


def test_the_policy_in_force_routes_every_prompt(client: openai.OpenAI) -> None:
    for prompt in PROMPTS:
        raw = client.chat.completions.with_raw_response.create(model="upshift", **ask(prompt))
        completion = raw.parse()
        assert raw.headers["x-upshift-decision"] in {"weak", "strong", "escalated"}
        assert raw.headers["x-upshift-policy"]
        assert completion.model in {"demo-phi", "demo-mistral"}
        told = completion.model_extra["upshift"]
        assert told["decision"] == raw.headers["x-upshift-decision"]
        assert told["tier"] == raw.headers["x-upshift-tier"]


@pytest.mark.parametrize("model", [KEEP_WEAK, SHIFT_UP])
def test_logprobs_the_proxy_asked_for_do_not_leak(model: str, stack: Stack) -> None:
    """The evaluator reads token log-probabilities; a client who did not ask sees what vLLM sends without."""
    direct_server = stack.weak if model == KEEP_WEAK else stack.strong
    body = ask(PROMPTS[3])
    through = _post(stack.proxy.base_url, {"model": model, **body})
    direct = _post(direct_server.base_url, {"model": direct_server.model, **body})
    assert said(through["choices"]) == said(direct["choices"])
    assert set(said(through)) - {"upshift"} == set(said(direct))


def test_logprobs_the_client_asked_for_arrive_with_the_number_it_asked_for(stack: Stack) -> None:
    body = ask(PROMPTS[3], logprobs=True, top_logprobs=3)
    through = _post(stack.proxy.base_url, {"model": KEEP_WEAK, **body})
    direct = _post(stack.weak.base_url, {"model": "demo-phi", **body})
    assert said(through["choices"]) == said(direct["choices"])
    assert len(through["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3


def test_unknown_body_fields_reach_vllm(client: openai.OpenAI, weak_direct: openai.OpenAI) -> None:
    """`top_k: 1` is vLLM's own field: it makes sampling at temperature 1 greedy."""
    hot = {**ask(PROMPTS[4]), "temperature": 1.0}
    greedy = weak_direct.chat.completions.create(model="demo-phi", **ask(PROMPTS[4]))
    for model in ("demo-phi", KEEP_WEAK):
        for seed in range(4):
            sampled = client.chat.completions.create(model=model, **hot, seed=seed, extra_body={"top_k": 1})
            assert sampled.choices[0].message.content == greedy.choices[0].message.content


def test_stop_and_several_choices_are_vllms(client: openai.OpenAI, strong_direct: openai.OpenAI) -> None:
    wanted = {**ask(PROMPTS[5]), "temperature": 0.9, "seed": 11, "n": 2, "stop": ["e"], "max_tokens": 8}
    routed = client.chat.completions.create(model="upshift-random-0.0", **wanted)
    direct = strong_direct.chat.completions.create(model="demo-mistral", **wanted)
    assert [choice.message.content for choice in routed.choices] == [
        c.message.content for c in direct.choices
    ]
    assert routed.usage == direct.usage


def test_an_unknown_model_is_a_404_that_names_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no-such-model", **ask("hello"))
    assert caught.value.code == "model_not_found"
    assert "no-such-model" in caught.value.message


def test_an_overlong_prompt_is_a_400_through_every_tier(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="upshift", **ask("7 " * 2000))
    assert caught.value.response.headers["x-should-retry"] == "false"


def said(value: Any) -> Any:
    """Without nulls: vLLM sends some that OpenAI has not, and leaves out others that it has."""
    if isinstance(value, dict):
        return {name: said(part) for name, part in value.items() if part is not None}
    return [said(part) for part in value] if isinstance(value, list) else value


def _post(base_url: str, body: dict[str, object]) -> dict[str, Any]:
    answer = httpx.post(f"{base_url}/chat/completions", json=body, timeout=30.0)
    answer.raise_for_status()
    return dict(answer.json())


@pytest.mark.parametrize("model", ["weak", KEEP_WEAK])
def test_answers_have_the_form_of_the_specification(stack: Stack, model: str) -> None:
    """vLLM sends null for objects and leaves `refusal` out of streamed log-probabilities."""
    body = {**ask(PROMPTS[0]), "model": model, "max_tokens": 4}
    url = f"{stack.proxy.base_url}/chat/completions"
    plain = httpx.post(url, json=body, timeout=30.0).json()
    assert "prompt_tokens_details" not in plain["usage"]
    assert not {"annotations", "function_call"} & set(plain["choices"][0]["message"])
    assert {"content", "refusal", "role"} <= set(plain["choices"][0]["message"])
    asked = {**body, "logprobs": True, "stream": True}
    with httpx.stream("POST", url, json=asked, timeout=30.0) as answer:
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: {")]
    told = [choice["logprobs"] for line in lines for choice in json.loads(line)["choices"]]
    assert any(told)
    assert all(part["refusal"] is None for part in told if part)

"""Asking for a tier or a model id: vLLM's own answer, but for what OpenAI's specification does not have."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.vllm.conftest import Stack
from tests.vllm.prompts import PROMPTS, ask


def test_the_list_of_models_names_strategies_tiers_and_backend_ids(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {
        "upshift",
        "upshift-mf",
        "upshift-evaluator",
        "weak",
        "strong",
        "demo-phi",
        "demo-mistral",
    } <= names


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_model_id_pins_and_gives_what_vllm_gives(
    prompt: str, client: openai.OpenAI, strong_direct: openai.OpenAI
) -> None:
    raw = client.chat.completions.with_raw_response.create(model="demo-mistral", **ask(prompt))
    direct = strong_direct.chat.completions.create(model="demo-mistral", **ask(prompt))
    assert raw.headers["x-upshift-decision"] == "pinned"
    assert raw.headers["x-upshift-tier"] == "strong"
    assert raw.headers["x-upshift-model"] == "demo-mistral"
    routed = raw.parse()
    assert _without_identity(routed) == _without_identity(direct)


def test_a_tier_name_pins_too(client: openai.OpenAI, weak_direct: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="weak", **ask(PROMPTS[0]))
    direct = weak_direct.chat.completions.create(model="demo-phi", **ask(PROMPTS[0]))
    assert raw.headers["x-upshift-decision"] == "pinned"
    assert _without_identity(raw.parse()) == _without_identity(direct)


def test_pinned_answers_differ_from_vllms_in_id_time_and_nulls_only(stack: Stack) -> None:
    body = {"model": "demo-phi", **ask(PROMPTS[1])}
    through = httpx.post(f"{stack.proxy.base_url}/chat/completions", json=body, timeout=30.0)
    direct = httpx.post(f"{stack.weak.base_url}/chat/completions", json=body, timeout=30.0)
    one, other = through.json(), direct.json()
    assert list(one) == list(other)
    message = other["choices"][0]["message"]
    for part, names in (
        (other["usage"], ("prompt_tokens_details", "completion_tokens_details")),
        (message, ("annotations", "function_call")),
    ):
        for name in names:
            assert part.pop(name) is None
    for answer in (one, other):
        del answer["id"], answer["created"]
    assert one == other


def test_a_pinned_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="demo-phi", **ask(PROMPTS[2]))
    with client.chat.completions.create(model="demo-phi", stream=True, **ask(PROMPTS[2])) as stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content


def test_logprobs_that_were_asked_for_arrive(client: openai.OpenAI, weak_direct: openai.OpenAI) -> None:
    wanted = ask(PROMPTS[0], logprobs=True, top_logprobs=2)
    through = client.chat.completions.create(model="demo-phi", **wanted)
    direct = weak_direct.chat.completions.create(model="demo-phi", **wanted)
    assert through.choices[0].logprobs is not None
    assert through.choices[0].logprobs == direct.choices[0].logprobs


def test_an_overlong_prompt_is_vllms_own_client_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo-phi", **ask("7 " * 2000))
    assert "512" in caught.value.message


def _without_identity(completion: openai.types.chat.ChatCompletion) -> dict[str, object]:
    return completion.model_dump(exclude={"id", "created"})

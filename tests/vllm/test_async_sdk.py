"""The asynchronous OpenAI SDK: many requests at once, plain and streamed, each with its own answer."""

from __future__ import annotations

import asyncio

import openai

from tests.vllm.prompts import KEEP_WEAK, PROMPTS, SHIFT_UP, ask

MODELS = ["demo-phi", "demo-mistral", KEEP_WEAK, SHIFT_UP]


async def _plain(client: openai.AsyncOpenAI, model: str, prompt: str) -> str:
    completion = await client.chat.completions.create(model=model, **ask(prompt))
    return completion.choices[0].message.content or ""


async def _streamed(client: openai.AsyncOpenAI, model: str, prompt: str) -> str:
    stream = await client.chat.completions.create(model=model, stream=True, **ask(prompt))
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def test_concurrent_answers_belong_to_their_prompts(async_client: openai.AsyncOpenAI) -> None:
    questions = [(model, prompt) for model in MODELS for prompt in PROMPTS]
    one_by_one = [await _plain(async_client, model, prompt) for model, prompt in questions]
    together = await asyncio.gather(*(_plain(async_client, model, prompt) for model, prompt in questions))
    streamed = await asyncio.gather(*(_streamed(async_client, model, prompt) for model, prompt in questions))
    answers = dict(zip(questions, one_by_one, strict=True))
    for prompt in PROMPTS:
        assert answers[KEEP_WEAK, prompt] == answers["demo-phi", prompt]
        assert answers[SHIFT_UP, prompt] == answers["demo-mistral", prompt]
    assert list(together) == one_by_one
    assert list(streamed) == one_by_one


async def test_a_stream_left_early_frees_the_proxy(async_client: openai.AsyncOpenAI) -> None:
    for model in ("demo-mistral", KEEP_WEAK):
        stream = await async_client.chat.completions.create(model=model, stream=True, **ask(PROMPTS[0]))
        async for _ in stream:
            break
        await stream.close()
    assert await _plain(async_client, "demo-mistral", PROMPTS[0])

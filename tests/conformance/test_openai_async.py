"""The asynchronous SDK: many streams at once, and streams that are left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest

from tests.api_server import KEY, ApiServer

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def client(api: ApiServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=api.url, api_key=KEY, max_retries=0, timeout=20) as made:
        yield made


async def text_of(client: openai.AsyncOpenAI, model: str, prompt: str) -> str:
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], stream=True
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def test_plain_and_helper(api: ApiServer, client: openai.AsyncOpenAI, model: str):
    answer = await client.chat.completions.create(model=model, messages=HELLO)
    assert answer.choices[0].message.content == api.weak.script.text
    async with client.chat.completions.stream(model=model, messages=HELLO) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == api.weak.script.text


async def test_fifty_streams_at_once(api: ApiServer, client: openai.AsyncOpenAI, model: str):
    api.weak.script.piece_delay_s = api.strong.script.piece_delay_s = 0.005
    texts = await asyncio.gather(*(text_of(client, model, f"prompt {index}") for index in range(50)))
    assert set(texts) == {api.weak.script.text}


async def test_a_stream_that_is_left_ends_the_backends_work(api: ApiServer, client: openai.AsyncOpenAI):
    api.strong.script.text = "word " * 400
    api.strong.script.piece_delay_s = 0.02
    for model in ("strong", "upshift-evaluator-0"):
        stream = await client.chat.completions.create(model=model, messages=HELLO, stream=True)
        async for _ in stream:
            break
        assert api.strong.in_flight == 1
        await stream.close()
        assert await asyncio.to_thread(api.strong.wait_until, lambda: api.strong.in_flight == 0)


async def test_a_request_that_is_cancelled_ends_the_backends_work(
    api: ApiServer, client: openai.AsyncOpenAI, model: str
):
    api.weak.script.delay_s = api.strong.script.delay_s = 30
    task = asyncio.ensure_future(client.chat.completions.create(model=model, messages=HELLO))
    busy = lambda: api.weak.in_flight + api.strong.in_flight  # noqa: E731
    assert await asyncio.to_thread(api.weak.wait_until, lambda: busy() == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(api.weak.wait_until, lambda: busy() == 0)


async def test_responses(api: ApiServer, client: openai.AsyncOpenAI):
    events = await client.responses.create(model="upshift", input="hello", stream=True)
    kinds = [event.type async for event in events]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")

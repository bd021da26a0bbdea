"""The HTTP wrapper over a real socket, called with the OpenAI client."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvicorn

from demo.backend import InProcessBackend
from demo.serve import create_app

openai = pytest.importorskip("openai")


@pytest.fixture
async def served(weak):
    backend = InProcessBackend(weak, "demo-phi")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(backend), log_level="warning", ws="none")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", backend
        server.should_exit = True
        await task


async def test_openai_client_reads_answers_streams_and_errors(served):
    url, backend = served
    messages = [{"role": "user", "content": "What is 17 + 28?"}]
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["demo-phi"]
        whole = await client.chat.completions.create(model="demo-phi", messages=messages)
        stream = await client.chat.completions.create(model="demo-phi", messages=messages, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == whole.choices[0].message.content
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="demo-phi", messages=messages, max_tokens=4000)
        assert caught.value.code == "context_length_exceeded"
        endless = await client.chat.completions.create(
            model="demo-phi", messages=messages, stream=True, max_tokens=900, extra_body={"ignore_eos": True}
        )
        await anext(aiter(endless))
        await endless.close()
        async with asyncio.timeout(2):
            while backend.engine.steps_running:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.01)

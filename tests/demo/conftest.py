"""The shipped pair, loaded once, and a backend over the weak one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import torch

from demo.backend import InProcessBackend
from demo.pair import FOLDERS, LoadedModel, load_model
from routing.protocols import BackendRequest

Post = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # matrices this small are slower on two


@pytest.fixture(scope="session")
def weak() -> LoadedModel:
    return load_model(FOLDERS["demo-phi"])


@pytest.fixture(scope="session")
def strong() -> LoadedModel:
    return load_model(FOLDERS["demo-mistral"])


@pytest.fixture
async def backend(weak: LoadedModel) -> AsyncIterator[InProcessBackend]:
    backend = InProcessBackend(weak, "demo-phi", max_rows=8)
    yield backend
    await backend.close()


@pytest.fixture
def post(backend: InProcessBackend) -> Post:
    """Ask the backend; returns status and decoded JSON, or for a stream the list of its events."""

    async def ask(prompt: str = "What is 17 + 28?", path: str = "/chat/completions", **options: Any) -> Any:
        question = (
            {"prompt": prompt}
            if path == "/completions"
            else {"messages": [{"role": "user", "content": prompt}]}
        )
        body = json.dumps({"model": "demo-phi", **question, **options}).encode()
        reply = await backend.send(BackendRequest(path, body, stream=bool(options.get("stream"))))
        raw = await reply.read()
        await reply.close()
        if not reply.headers["content-type"].startswith("text/event-stream"):
            return reply.status, json.loads(raw)
        events = raw.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        return reply.status, [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    return ask

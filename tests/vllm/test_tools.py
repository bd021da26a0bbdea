"""Tools and JSON through the proxy in front of a real vLLM server: its parsers, its grammar, its deltas.

One server stands for both tiers, under two names: what is asked here goes to the strong one by rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from tests.server_process import ServerProcess
from tests.vllm.conftest import PROXY_READY_TIMEOUT_S, VLLM_READY_TIMEOUT_S, skip_elsewhere, start_proxy
from tests.vllm.environment import ensure_vllm_python
from tests.vllm.process import vllm_process
from tests.vllm.tool_writer import make_tool_writer

_PARSERS = (
    "--enable-auto-tool-choice",
    "--tool-call-parser",
    "hermes",
    "--served-model-name",
    "small",
    "large",
)
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
            "additionalProperties": False,
        },
    },
}
QUESTION: Any = {"role": "user", "content": "What is the weather in Paris?"}


class City(pydantic.BaseModel):
    """What `parse` is asked for."""

    city: str
    n: int


@pytest.fixture(scope="module")
def writer(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """vLLM with the model that calls tools."""
    skip_elsewhere()
    folder = tmp_path_factory.mktemp("writer")
    make_tool_writer(repository / "demo" / "models" / "strong", folder / "model")
    server = vllm_process(
        ensure_vllm_python(repository), folder / "model", "large", folder / "vllm.log", _PARSERS
    )
    try:
        server.wait_ready("/health", VLLM_READY_TIMEOUT_S)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def sdk(writer: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """OpenAI's client of a proxy with the embedded pair's bundle, which never saw tools."""
    log = tmp_path_factory.mktemp("proxy") / "log"
    proxy = start_proxy(f"{writer.base_url}#small", f"{writer.base_url}#large", log)
    try:
        proxy.wait_ready("/readyz", PROXY_READY_TIMEOUT_S)
        with openai.OpenAI(base_url=proxy.base_url, api_key="unused", max_retries=0, timeout=50.0) as client:
            yield client
    finally:
        proxy.stop()


MODELS = pytest.mark.parametrize("model", ["upshift", "small"])  # routed, pinned
CHOICES = pytest.mark.parametrize("choice", ["auto", "required", "named"])


def _tool_choice(choice: str) -> Any:
    return {"type": "function", "function": {"name": "get_weather"}} if choice == "named" else choice


@MODELS
@CHOICES
def test_a_tool_is_called(sdk: openai.OpenAI, model: str, choice: str) -> None:
    answer = sdk.chat.completions.create(
        model=model, messages=[QUESTION], tools=[TOOL], tool_choice=_tool_choice(choice), temperature=0
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"location": "Paris"}
    if model == "upshift":
        assert (answer.model_extra or {})["upshift"]["tier"] == "strong"  # a bundle that never saw tools


@MODELS
@CHOICES
def test_a_tool_is_called_in_deltas(sdk: openai.OpenAI, model: str, choice: str) -> None:
    stream = sdk.chat.completions.create(
        model=model,
        messages=[QUESTION],
        tools=[TOOL],
        tool_choice=_tool_choice(choice),
        stream=True,
        temperature=0,
    )
    name, arguments, ids, reasons = "", "", [], []
    for chunk in stream:
        for one in chunk.choices:
            reasons += [one.finish_reason] if one.finish_reason else []
            for delta in one.delta.tool_calls or []:
                ids += [delta.id] if delta.id else []
                name += (delta.function and delta.function.name) or ""
                arguments += (delta.function and delta.function.arguments) or ""
    assert (name, len(ids)) == ("get_weather", 1)
    assert json.loads(arguments) == {"location": "Paris"}
    assert reasons in (["tool_calls"], ["stop"])  # vLLM's of a named tool


@MODELS
def test_a_tool_result_is_read(sdk: openai.OpenAI, model: str) -> None:
    first = sdk.chat.completions.create(model=model, messages=[QUESTION], tools=[TOOL], temperature=0)
    message = first.choices[0].message
    (call,) = message.tool_calls or []
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns: Any = [QUESTION, message.model_dump(exclude_none=True), result]
    second = sdk.chat.completions.create(model=model, messages=turns, tools=[TOOL], temperature=0).choices[0]
    assert second.finish_reason == "stop"
    assert "sunny" in (second.message.content or "")


@MODELS
def test_json_under_a_schema(sdk: openai.OpenAI, model: str) -> None:
    question: Any = {"role": "user", "content": "Give city and n as JSON."}
    parsed = sdk.chat.completions.parse(model=model, messages=[question], response_format=City)
    assert isinstance(parsed.choices[0].message.parsed, City)
    with sdk.chat.completions.stream(model=model, messages=[question], response_format=City) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, City)


@MODELS
def test_json_mode(sdk: openai.OpenAI, model: str) -> None:
    question: Any = {"role": "user", "content": "Give city and n as JSON."}
    answer = sdk.chat.completions.create(
        model=model, messages=[question], response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)

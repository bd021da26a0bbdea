"""The `openai` SDK against the proxy: what a user's program calls, routed, escalated and pinned."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pydantic
import pytest

from tests.api_server import KEY, ApiServer

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
HELLO = [{"role": "user", "content": "hello"}]


class Person(pydantic.BaseModel):
    name: str
    age: int


@pytest.fixture
def client(api: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=api.url, api_key=KEY, max_retries=0, timeout=20) as made:
        yield made


@pytest.fixture
def served(api: ApiServer, model: str) -> str:
    """The text that must be seen: the answer of the tier that is to serve."""
    api.weak.script.text = "from the weak tier, not for everybody"
    api.strong.script.text = "from the strong tier, é 你好 👩‍👩‍👧"
    return api.weak.script.text if api.scorers.score > 0.5 and model == "upshift" else api.strong.script.text


def test_plain(client: openai.OpenAI, model: str, served: str):
    answer = client.chat.completions.create(model=model, messages=HELLO)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == served
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 18
    assert answer._request_id


def test_stream(client: openai.OpenAI, model: str, served: str):
    chunks = list(client.chat.completions.create(model=model, messages=HELLO, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == served
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    for same in ("id", "created", "model"):
        assert len({getattr(chunk, same) for chunk in chunks}) == 1


def test_stream_with_usage(client: openai.OpenAI, model: str, served: str):
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model=model, messages=HELLO, stream=True, stream_options=options)
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 18
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("cut_bytes", [1, 3, 7])
def test_stream_cut_anywhere(api: ApiServer, client: openai.OpenAI, model: str, served: str, cut_bytes: int):
    api.weak.script.cut_bytes = api.strong.script.cut_bytes = cut_bytes
    chunks = client.chat.completions.create(model=model, messages=HELLO, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == served


def test_stream_helper(client: openai.OpenAI, model: str, served: str):
    with client.chat.completions.stream(model=model, messages=HELLO) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert final.choices[0].message.content == served
    assert {"chunk", "content.delta", "content.done"} <= kinds


def test_several_choices(client: openai.OpenAI, model: str):
    answer = client.chat.completions.create(model=model, messages=HELLO, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    chunks = client.chat.completions.create(model=model, messages=HELLO, n=3, stream=True)
    ended = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ended) == [0, 1, 2]


def test_logprobs_only_when_asked_for(client: openai.OpenAI, model: str):
    asked = client.chat.completions.create(model=model, messages=HELLO, logprobs=True).choices[0]
    assert asked.logprobs is not None
    assert asked.logprobs.content
    assert client.chat.completions.create(model=model, messages=HELLO).choices[0].logprobs is None
    for wanted in (True, False):
        chunks = client.chat.completions.create(model=model, messages=HELLO, logprobs=wanted, stream=True)
        found = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].logprobs]
        assert bool(found) is wanted


def test_parsed_answer(api: ApiServer, client: openai.OpenAI, model: str):
    api.weak.script.text = api.strong.script.text = '{"name": "Ada", "age": 36}'
    answer = client.chat.completions.parse(model=model, messages=HELLO, response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="Ada", age=36)
    with client.chat.completions.stream(model=model, messages=HELLO, response_format=Person) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.parsed == Person(name="Ada", age=36)


def test_tools(api: ApiServer, client: openai.OpenAI, model: str):
    calls = [("get_weather", '{"city": "Paris"}'), ("get_weather", '{"city": "Łódź"}')]
    api.weak.script.calls = api.strong.script.calls = calls
    choice = client.chat.completions.create(model=model, messages=HELLO, tools=[TOOL]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [
        (call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()
    ] == calls
    with client.chat.completions.stream(model=model, messages=HELLO, tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_completion().choices[0].message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in streamed] == calls
    assert kinds.count("tool_calls.function.arguments.done") == 2
    conversation = [
        *HELLO,
        choice.message,
        {"role": "tool", "tool_call_id": "call_0", "content": "sunny"},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    assert client.chat.completions.create(model=model, messages=conversation, tools=[TOOL]).choices


def test_extra_fields_and_headers(api: ApiServer, client: openai.OpenAI):
    extra = {"top_k": 4, "chat_template_kwargs": {"enable_thinking": False}, "upshift": {"threshold": 1.0}}
    raw = client.chat.completions.with_raw_response.create(
        model="upshift", messages=HELLO, extra_body=extra, logit_bias={"5": 1}, seed=3, user="me"
    )
    assert raw.headers["x-upshift-decision"] == "weak"
    body = api.weak.last.body
    assert (body["top_k"], body["logit_bias"], body["seed"], body["user"]) == (4, {"5": 1}, 3, "me")
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    completion = raw.parse()
    assert completion.model_extra is not None
    assert completion.model_extra["upshift"]["tier"] == "weak"


def test_pinned_bytes_are_the_backends(api: ApiServer, client: openai.OpenAI):
    raw = client.chat.completions.with_raw_response.create(model="strong", messages=HELLO)
    assert raw.headers["x-upshift-decision"] == "pinned"
    assert "upshift" not in json.loads(raw.content)


def test_completions(client: openai.OpenAI, model: str, served: str):
    assert client.completions.create(model=model, prompt="Once").choices[0].text == served
    chunks = client.completions.create(model=model, prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == served


def test_models(client: openai.OpenAI, model: str):
    assert model in [card.id for card in client.models.list()]
    assert client.models.retrieve(model).id == model


def test_embeddings(client: openai.OpenAI, model: str):
    found = client.embeddings.create(model=model, input=["a", "bb"], encoding_format="float")
    assert found.data[1].embedding == [0.25, -1.5, 2.0]


def test_responses(api: ApiServer, client: openai.OpenAI, served: str, model: str):
    if model != "upshift":
        served = "native"  # the pinned backend has the API
    assert client.responses.create(model=model, input="hello").output_text == served
    with client.responses.stream(model=model, input="hello") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == served


def test_responses_with_tools_and_parsing(api: ApiServer, client: openai.OpenAI):
    api.weak.script.text = '{"name": "Ada", "age": 36}'
    parsed = client.responses.parse(model="upshift", input="hello", text_format=Person)
    assert parsed.output_parsed == Person(name="Ada", age=36)
    api.weak.script.calls = [("get_weather", '{"city": "Paris"}')]
    tool = {"type": "function", **TOOL["function"]}
    first = client.responses.create(model="upshift", input="weather?", tools=[tool])
    [call] = first.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Paris"}
    api.weak.script.calls = []
    follow = [
        {"role": "user", "content": "weather?"},
        *first.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    assert client.responses.create(model="upshift", input=follow, tools=[tool]).output_text
    assert [message["role"] for message in api.weak.last.body["messages"]] == ["user", "assistant", "tool"]
    stream = client.responses.create(model="upshift", input="x", stream=True)
    assert [event.type for event in stream][-1] == "response.completed"


def test_a_prompt_of_a_megabyte(api: ApiServer, client: openai.OpenAI, model: str):
    prompt = "lorem ipsum " * 90_000
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
    assert answer.choices[0].message.content
    served = api.weak if model == "upshift" and api.scorers.score > 0.5 else api.strong
    assert served.last.body["messages"][0]["content"] == prompt

"""The Responses API: translated for routed names and tiers without it, passed on to a tier that has it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.api_server import ApiServer
from tests.upstream import USAGE

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


def ask(api: ApiServer, **body: Any) -> httpx.Response:
    body = {"model": "upshift", "input": "Say hello.", **body}
    return api.http.post("/v1/responses", json=body)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream; checks what holds for every one of them."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    out = []
    for number, block in enumerate(answer.text.strip().split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        out.append(event)
    return out


def kinds(stream: list[dict[str, Any]]) -> list[str]:
    """The event types in order, repeats left out."""
    names = [event["type"] for event in stream]
    return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]


def chat_body(api: ApiServer, **body: Any) -> dict[str, Any]:
    """What the backend was asked for a translated request."""
    answer = ask(api, **body)
    assert answer.status_code == 200, answer.text
    assert api.weak.last.path == "/chat/completions"
    seen: dict[str, Any] = api.weak.last.body
    return seen


def test_plain_answer(api: ApiServer):
    answer = ask(api, instructions="Be brief.", metadata={"a": "b"}, temperature=0.5)
    data = answer.json()
    assert data["object"] == "response"
    assert data["status"] == "completed"
    assert data["id"].startswith("resp_")
    assert data["model"] == "weak-model"
    assert data["instructions"] == "Be brief."
    assert data["metadata"] == {"a": "b"}
    assert data["temperature"] == 0.5
    assert data["store"] is False
    [message] = data["output"]
    assert message["status"] == "completed"
    assert message["content"][0]["text"] == api.weak.script.text
    assert data["upshift"]["decision"] == "weak"
    assert answer.headers["x-upshift-tier"] == "weak"
    assert data["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 18,
    }


def test_rejected_answer_is_never_seen(api: ApiServer):
    api.scorers.score = 0.1
    api.weak.script.text = "weak words"
    api.strong.script.text = "strong words"
    for stream in (False, True):
        answer = ask(api, stream=stream)
        assert "weak words" not in answer.text
        assert answer.headers["x-upshift-decision"] == "escalated"
    final = events(answer)[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == "strong words"
    assert final["upshift"]["decision"] == "escalated"


def test_request_is_translated(api: ApiServer):
    seen = chat_body(
        api,
        instructions="Be brief.",
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "get_weather"},
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}},
        max_output_tokens=50,
        reasoning={"effort": "low"},
        parallel_tool_calls=False,
        temperature=0,
        user="u",
        top_k=5,
        include=["reasoning.encrypted_content"],
    )
    assert seen["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say hello."},
    ]
    function = {name: WEATHER[name] for name in ("name", "description", "parameters", "strict")}
    assert seen["tools"] == [{"type": "function", "function": function}]
    assert seen["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert seen["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
    }
    assert seen["max_completion_tokens"] == 50
    assert (seen["temperature"], seen["user"], seen["top_k"]) == (0, "u", 5)
    assert seen["parallel_tool_calls"] is False
    assert not {"reasoning", "include", "text", "input", "instructions", "max_output_tokens"} & set(seen)


def test_input_items_become_messages(api: ApiServer):
    items = [
        {"role": "developer", "content": "Rules."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "get_time", "arguments": '{"z":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noon"}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "And this?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
            ],
        },
    ]
    seen = chat_body(api, input=items)
    assert seen["messages"] == [
        {"role": "developer", "content": "Rules."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
                {"id": "c2", "type": "function", "function": {"name": "get_time", "arguments": '{"z":1}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
            ],
        },
    ]


def test_allowed_tools_narrow_the_list(api: ApiServer):
    other = {**WEATHER, "name": "other"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]}
    seen = chat_body(api, tools=[WEATHER, other], tool_choice=choice)
    assert [tool["function"]["name"] for tool in seen["tools"]] == ["other"]
    assert seen["tool_choice"] == "required"


def test_text_stream_has_every_event_in_order(api: ApiServer):
    stream = events(ask(api, stream=True))
    assert kinds(stream) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    deltas = [event["delta"] for event in stream if event["type"] == "response.output_text.delta"]
    final = stream[-1]["response"]
    text = final["output"][0]["content"][0]["text"]
    assert "".join(deltas) == text == api.weak.script.text
    assert stream[0]["response"]["status"] == "in_progress"
    assert stream[0]["response"]["id"] == final["id"]
    assert final["usage"]["total_tokens"] == USAGE["total_tokens"]
    assert final["model"] == "weak-model"


def test_tool_call_stream(api: ApiServer):
    api.weak.script.calls = [("get_weather", '{"city":"Paris"}'), ("get_time", '{"zone":"CET"}')]
    stream = events(ask(api, stream=True, tools=[WEATHER]))
    done = [event for event in stream if event["type"] == "response.function_call_arguments.done"]
    assert [(event["name"], event["arguments"]) for event in done] == api.weak.script.calls
    for event in done:
        pieces = [
            other["delta"]
            for other in stream
            if other["type"] == "response.function_call_arguments.delta"
            and other["item_id"] == event["item_id"]
        ]
        assert len(pieces) > 1
        assert "".join(pieces) == event["arguments"]
    final = stream[-1]["response"]
    assert [item["call_id"] for item in final["output"]] == ["call_0", "call_1"]
    assert {item["type"] for item in final["output"]} == {"function_call"}


def test_plain_and_streamed_are_the_same_response(api: ApiServer):
    def bare(response: dict[str, Any]) -> Any:
        kept = [
            {name: value for name, value in item.items() if name not in ("id", "call_id")}
            for item in response["output"]
        ]
        own = ("id", "created_at", "completed_at", "output", "upshift")
        return [kept, {name: value for name, value in response.items() if name not in own}]

    for calls in ([], [("get_weather", "{}")]):
        api.weak.script.calls = calls
        plain = ask(api, tools=[WEATHER]).json()
        assert bare(plain) == bare(events(ask(api, tools=[WEATHER], stream=True))[-1]["response"])


def test_cut_off_answer_is_incomplete(api: ApiServer):
    plain = ask(api, max_output_tokens=3).json()
    assert plain["status"] == "incomplete"
    assert plain["incomplete_details"] == {"reason": "max_output_tokens"}
    assert plain["output"][0]["status"] == "incomplete"
    last = events(ask(api, max_output_tokens=3, stream=True))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_refusal(api: ApiServer):
    api.scorers.score = 0.1
    api.strong.script.refusal = "I will not do that."
    part = ask(api).json()["output"][0]["content"][0]
    assert part == {"type": "refusal", "refusal": "I will not do that."}
    stream = events(ask(api, stream=True))
    pieces = [event["delta"] for event in stream if event["type"] == "response.refusal.delta"]
    assert "".join(pieces) == "I will not do that."


def test_logprobs_on_request(api: ApiServer):
    assert ask(api).json()["output"][0]["content"][0]["logprobs"] == []
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    part = ask(api, **wanted).json()["output"][0]["content"][0]
    assert "".join(entry["token"] for entry in part["logprobs"]) == part["text"]
    streamed = events(ask(api, stream=True, **wanted))[-1]["response"]["output"][0]["content"][0]
    assert streamed == part


def test_broken_stream_fails_the_response(own_api: ApiServer):
    api = own_api
    api.strong.script.lacks = frozenset({"/responses"})
    api.strong.script.break_after_chunks = 4
    stream = events(ask(api, model="strong", stream=True))
    assert [event["type"] for event in stream[-2:]] == ["error", "response.failed"]
    assert stream[-1]["response"]["error"]["code"] == "server_error"
    assert "response.completed" not in kinds(stream)


def test_pinned_tier_with_the_api_answers_itself(api: ApiServer):
    body = b'{"model":"strong", "input":"hi", "store":true, "previous_response_id":"resp_1", "odd":1.00}'
    answer = api.http.post("/v1/responses", content=body)
    assert answer.json()["output"][0]["content"][0]["text"] == "native"
    assert "upshift" not in answer.json()
    assert answer.headers["x-upshift-decision"] == "pinned"
    assert answer.headers["x-upshift-model"] == "strong-model"
    assert float(answer.headers["x-upshift-cost-usd"]) == pytest.approx((5 * 10 + 6 * 20) / 1e6)
    assert api.strong.last.path == "/responses"
    assert b'"odd":1.00' in api.strong.last.raw  # untouched
    assert api.strong.last.body["previous_response_id"] == "resp_1"
    stream = events(ask(api, model="strong-model", stream=True))
    assert stream[-1]["response"]["id"] == "resp_native"


def test_pinned_stream_without_its_end_is_an_error(api: ApiServer):
    api.strong.script.break_after_chunks = 1
    answer = ask(api, model="strong", stream=True)
    assert answer.text.split("\n\n")[-2].startswith("event: error\n")


def test_pinned_tier_without_the_api_is_translated(own_api: ApiServer):
    api = own_api
    api.weak.script.lacks = frozenset({"/responses"})
    first, second = ask(api, model="weak").json(), ask(api, model="weak").json()
    assert first["output"][0]["content"][0]["text"] == api.weak.script.text
    assert first["status"] == second["status"] == "completed"
    paths = [seen.path for seen in api.weak.seen]
    assert paths == ["/responses", "/chat/completions", "/chat/completions"]  # it is not asked every time
    assert 'upshift_backend_in_flight_requests{tier="weak"} 0.0' in api.http.get("/metrics").text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", {"id": "conv_1"}),
        ("store", True),
        ("background", True),
        ("prompt", {"id": "pmpt_1"}),
    ],
)
def test_routed_requests_keep_no_state(api: ApiServer, field: str, value: object):
    answer = ask(api, **{field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
    assert not api.weak.seen
    assert not api.strong.seen


def test_harmless_values_are_accepted(api: ApiServer):
    assert ask(api, store=False, background=False, previous_response_id=None).status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"role": "user", "content": None}]}, "input[0].content"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": ["user"], "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": ["x"]}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": 4}]}, "input[0].output"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": {"a": 1}}, "tools"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tool_choice": 4}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": "json"}, "text"),
        ({"instructions": ["a"]}, "instructions"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"include": "all"}, "include"),
        ({"temperature": "hot"}, "temperature"),
        ({"model": None}, "model"),
        ({"model": "no-such"}, "model"),
    ],
)
def test_bad_request_names_the_field(api: ApiServer, body: dict[str, Any], param: str):
    answer = ask(api, **body)
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert answer.headers["x-should-retry"] == "false"


def test_missing_input(api: ApiServer):
    answer = api.http.post("/v1/responses", json={"model": "upshift"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "missing_required_parameter")


def test_backend_errors_come_through(api: ApiServer):
    api.weak.script.status = api.strong.script.status = 429
    api.strong.script.retry_after = "7"
    for name in ("upshift", "strong"):
        answer = ask(api, model=name)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "7"
        assert answer.headers["x-should-retry"] == "true"


def test_stored_responses_are_looked_for_in_every_tier(api: ApiServer):
    api.strong.script.lacks = frozenset({"/responses/resp_1", "/responses/resp_2"})
    api.weak.script.lacks = frozenset({"/responses/resp_2"})
    found = api.http.get("/v1/responses/resp_1")
    assert found.json()["id"] == "resp_1"
    assert found.headers["x-upshift-tier"] == "weak"
    assert api.http.delete("/v1/responses/resp_3").json()["id"] == "resp_3"
    assert api.strong.last.method == "DELETE"
    missing = api.http.get("/v1/responses/resp_2")
    assert missing.status_code == 404
    assert missing.json()["error"]["param"] == "response_id"
    assert api.anonymous.get("/v1/responses/resp_1").status_code == 401
    assert api.http.put("/v1/responses/resp_1").status_code == 405
    api.weak.seen.clear()
    api.strong.seen.clear()
    assert api.http.get("/v1/responses/..%2Fmodels").status_code == 404
    assert not api.weak.seen + api.strong.seen  # an id is never a path

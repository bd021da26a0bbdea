"""A tier's own answers of the Responses API: mended where vLLM's differ from the specification, else the
bytes that came."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.responses.form import ResponseForm

PART = {"type": "output_text", "text": "4", "annotations": [], "logprobs": None}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [PART],
           "phase": None}  # fmt: skip
CALL = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}",
        "status": "completed", "namespace": None}  # fmt: skip
TOOL = {"type": "function", "name": "f", "parameters": {}, "strict": None, "defer_loading": None}
RESPONSE = {  # as vLLM 0.32 writes it
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "incomplete_details": None,
    "instructions": None, "metadata": None, "model": "m", "output": [MESSAGE, CALL], "tools": [TOOL],
    "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "top_p": 1.0, "text": None,
    "reasoning": None, "kv_transfer_params": None,
}  # fmt: skip


def event(kind: str, **fields: Any) -> bytes:
    data = orjson.dumps({"type": kind, "sequence_number": 3, **fields})
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def read(one: bytes) -> dict[str, Any]:
    name, data, *rest = one.split(b"\n")
    assert (name[:7], rest) == (b"event: ", [b"", b""])
    said: dict[str, Any] = orjson.loads(data.removeprefix(b"data: "))
    assert said["type"].encode() == name[7:]
    return said


def test_a_response_is_mended() -> None:
    form = ResponseForm()
    mended = form.plain(orjson.dumps(RESPONSE))
    data = orjson.loads(mended)
    assert data["error"] is None
    assert "text" not in data
    assert data["output"][0] == {
        **{name: value for name, value in MESSAGE.items() if name != "phase"},
        "content": [{**PART, "logprobs": []}],
    }
    assert data["output"][1] == {name: value for name, value in CALL.items() if name != "namespace"}
    assert data["tools"] == [{"type": "function", "name": "f", "parameters": {}, "strict": None}]
    assert data["kv_transfer_params"] is None  # unknown fields stay
    assert form.plain(mended) == mended


def test_events_are_mended() -> None:
    form = ResponseForm()
    parts = [
        event("response.created", response={**RESPONSE, "output": []}),
        event("response.output_item.done", item=MESSAGE),
        event("response.content_part.done", part=PART),
        event("response.output_text.delta", delta='say ".delta"', item_id="msg_1"),
        event("response.completed", response=RESPONSE),
    ]
    created, item, part, _, completed = map(read, [form.events(one) for one in parts])
    assert created["response"]["error"] is None
    assert item["item"]["content"] == [part["part"]] == [{**PART, "logprobs": []}]
    assert completed["response"] == orjson.loads(form.plain(orjson.dumps(RESPONSE)))
    assert form.events(parts[3]) == parts[3]
    together = form.events(b"".join(parts))
    assert together == b"".join(form.events(one) for one in parts)
    assert form.events(together) == together
    assert form.events(b"".join(parts).replace(b"\n", b"\r\n")) == together


@pytest.mark.parametrize(
    "body",
    [b'{"id": "resp_1", "object": "response", "deleted": true}', b'{"object": "list", "data": []}',
     b'{"object": "response", "output": "\\ud800"}'],
)  # fmt: skip
def test_what_is_no_response_stays(body: bytes) -> None:
    assert ResponseForm().plain(body) == body


@pytest.mark.parametrize("output", [None, 3, [3], [{"type": "message", "content": 3}], [{"type": "message"}]])
def test_responses_of_any_shape_pass(output: object) -> None:
    data = orjson.loads(
        ResponseForm().plain(orjson.dumps({"object": "response", "output": output, "tools": 3}))
    )
    assert data["error"] is None

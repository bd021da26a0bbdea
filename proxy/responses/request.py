"""A request to the Responses API -> the body of a chat completion.

Fields with the same name and meaning in both APIs, and fields nobody here knows, go over as the bytes that
came. What only a store or a hosted tool could do is a 400, never silently dropped; hints that change no
result (`reasoning`, `include` of encrypted reasoning, `truncation`, `metadata`) are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.call import check_type, kind_of, load_field, string_field
from proxy.responses.items import to_messages
from proxy.wire_error import ApiError

_NULL = b"null"
# Read below, or without a meaning for chat.
_CONSUMED = frozenset(
    {
        "input", "instructions", "tools", "tool_choice", "text", "max_output_tokens", "stream_options",
        "include", "reasoning", "store", "metadata", "truncation", "background", "previous_response_id",
        "conversation", "prompt", "max_tool_calls", "top_logprobs", "context_management", "moderation",
        "prompt_cache_options",
    }
)  # fmt: skip
_LOGPROBS = "message.output_text.logprobs"


def stateful_field(fields: Mapping[str, bytes]) -> str | None:
    """The first field that needs a backend which keeps responses; None: any tier can answer."""
    for name in ("previous_response_id", "conversation", "prompt"):
        if fields.get(name, _NULL) != _NULL:
            return name
    return next((name for name in ("background", "store") if fields.get(name) == b"true"), None)


def to_chat(fields: Mapping[str, bytes]) -> bytes:
    """The chat completion's body. Raises `ApiError` 400."""
    if (name := stateful_field(fields)) is not None:
        raise ApiError(
            400,
            f"'{name}' needs a backend that keeps responses: name a tier that has the Responses API as the "
            "model. Routed requests carry their whole conversation in 'input'.",
            param=name,
            code="unsupported_parameter",
        )
    if "input" not in fields:
        raise ApiError(
            400, "Missing required parameter: 'input'.", param="input", code="missing_required_parameter"
        )
    messages = to_messages(load_field(fields, "input"))
    instructions = string_field(fields, "instructions")
    if instructions:
        messages.insert(0, {"role": "system", "content": instructions})
    chat: dict[str, bytes] = {
        name: raw for name, raw in fields.items() if name not in _CONSUMED and raw != _NULL
    }
    chat["messages"] = orjson.dumps(messages)
    _set_tools(chat, fields)
    _set_text(chat, fields)
    _set_logprobs(chat, fields)
    check_type(fields, "max_output_tokens", (int,), "an integer")
    if fields.get("max_output_tokens", _NULL) != _NULL:
        chat["max_completion_tokens"] = fields["max_output_tokens"]
    if fields.get("stream") == b"true":
        chat["stream_options"] = b'{"include_usage":true}'
    return b"{" + b",".join(orjson.dumps(name) + b":" + raw for name, raw in chat.items()) + b"}"


def _set_tools(chat: dict[str, bytes], fields: Mapping[str, bytes]) -> None:
    check_type(fields, "tools", (list,), "an array")
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(_value(fields, "tools") or ())]
    choice = _value(fields, "tool_choice")
    if isinstance(choice, dict):
        choice, tools = _choice(choice, tools)
    elif not isinstance(choice, str | None):
        raise ApiError(
            400, f"'tool_choice' must be a string or an object, got {kind_of(choice)}.", param="tool_choice"
        )
    if tools:
        chat["tools"] = orjson.dumps(tools)
        if choice is not None:
            chat["tool_choice"] = orjson.dumps(choice)
    else:
        chat.pop("parallel_tool_calls", None)  # refused without tools


def _tool(tool: object, where: str) -> dict[str, Any]:
    """A function or custom tool in chat's form; the hosted ones run only where they are hosted."""
    if not isinstance(tool, dict):
        raise ApiError(400, f"'{where}' must be an object, got {kind_of(tool)}.", param=where)
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        raise ApiError(
            400,
            f"'{where}.type' must be 'function' or 'custom', got {str(kind)[:100]!r}: hosted tools run only "
            "on a tier that has the Responses API, named as the model.",
            param=f"{where}.type",
            code="unsupported_value",
        )
    if not isinstance(tool.get("name"), str):
        raise ApiError(
            400, f"'{where}.name' must be a string, got {kind_of(tool.get('name'))}.", param=f"{where}.name"
        )
    own = {name: value for name, value in tool.items() if name != "type" and value is not None}
    form = own.get("format")
    if kind == "custom" and isinstance(form, dict) and form.get("type") == "grammar":
        grammar = {name: value for name, value in form.items() if name != "type"}
        own["format"] = {"type": "grammar", "grammar": grammar}
    return {"type": kind, kind: own}


def _choice(choice: dict[str, Any], tools: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
    """`tool_choice` in chat's form; a list of allowed tools becomes the list of tools."""
    kind = choice.get("type")
    if kind in ("function", "custom") and isinstance(choice.get("name"), str):
        return {"type": kind, kind: {"name": choice["name"]}}, tools
    if kind == "allowed_tools" and isinstance(choice.get("tools"), list):
        allowed = {tool.get("name") for tool in choice["tools"] if isinstance(tool, dict)}
        kept = [tool for tool in tools if tool[tool["type"]]["name"] in allowed]
        return choice.get("mode", "auto"), kept
    raise ApiError(
        400, f"'tool_choice' of type {str(kind)[:100]!r} cannot be translated to a chat completion.",
        param="tool_choice", code="unsupported_value",
    )  # fmt: skip


def _set_text(chat: dict[str, bytes], fields: Mapping[str, bytes]) -> None:
    check_type(fields, "text", (dict,), "an object")
    text = _value(fields, "text") or {}
    if isinstance(text.get("verbosity"), str):
        chat["verbosity"] = orjson.dumps(text["verbosity"])
    form = text.get("format")
    if form is None or form == {"type": "text"}:
        return
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_object":
        chat["response_format"] = b'{"type":"json_object"}'
    elif kind == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type" and value is not None}
        chat["response_format"] = orjson.dumps({"type": "json_schema", "json_schema": schema})
    else:
        raise ApiError(
            400, "'text.format.type' must be 'text', 'json_object' or 'json_schema'.", param="text.format"
        )


def _set_logprobs(chat: dict[str, bytes], fields: Mapping[str, bytes]) -> None:
    check_type(fields, "include", (list,), "an array")
    top = fields.get("top_logprobs", _NULL)
    if top != _NULL:
        chat["top_logprobs"] = top
    if top != _NULL or _LOGPROBS in (_value(fields, "include") or ()):
        chat["logprobs"] = b"true"


def _value(fields: Mapping[str, bytes], name: str) -> Any:
    return load_field(fields, name) if name in fields else None

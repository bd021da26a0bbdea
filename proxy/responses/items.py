"""Input items of the Responses API -> messages of a chat completion.

Function calls stand alone as items there and inside an assistant message here, so neighbouring calls, and an
assistant text before them, become one message. Reasoning items are left out: no chat API takes them back.
Items that only the backend which made them can read (references, hosted tools) are a 400 that says so.
"""

from __future__ import annotations

from typing import Any

from proxy.call import kind_of
from proxy.wire_error import ApiError

Message = dict[str, Any]

_ROLES = frozenset({"user", "assistant", "system", "developer"})
_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "summary_text"})
_IGNORED = frozenset({"reasoning", "compaction"})


def to_messages(items: object) -> list[Message]:
    """Messages for `input`, a string or an array of items. Raises `ApiError` 400."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    if not isinstance(items, list):
        raise ApiError(400, f"'input' must be a string or an array, got {kind_of(items)}.", param="input")
    messages: list[Message] = []
    for index, item in enumerate(items):
        where = f"input[{index}]"
        if not isinstance(item, dict):
            raise ApiError(400, f"'{where}' must be an object, got {kind_of(item)}.", param=where)
        _add_item(messages, item, where)
    if not messages:
        raise ApiError(
            400, "'input' is empty: at least one item is needed.", param="input", code="empty_array"
        )
    return messages


def _add_item(messages: list[Message], item: dict[str, Any], where: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        messages.append(_message(item, where))
    elif kind == "function_call":
        call = {
            "name": _text(item, "name", where),
            "arguments": _text(item, "arguments", where),
        }
        _add_call(messages, {"id": _text(item, "call_id", where), "type": "function", "function": call})
    elif kind == "custom_tool_call":
        call = {"name": _text(item, "name", where), "input": _text(item, "input", where)}
        _add_call(messages, {"id": _text(item, "call_id", where), "type": "custom", "custom": call})
    elif kind in ("function_call_output", "custom_tool_call_output"):
        content = _output(item.get("output"), where)
        messages.append({"role": "tool", "tool_call_id": _text(item, "call_id", where), "content": content})
    elif not isinstance(kind, str) or kind not in _IGNORED:
        raise _untranslatable(f"{where}.type", kind)


def _add_call(messages: list[Message], call: dict[str, Any]) -> None:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _message(item: dict[str, Any], where: str) -> Message:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ApiError(
            400, f"'{where}.role' must be one of {sorted(_ROLES)}, got {role!r}.", param=f"{where}.role"
        )
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list):
        raise ApiError(
            400, f"'{where}.content' must be a string or an array, got {kind_of(content)}.",
            param=f"{where}.content",
        )  # fmt: skip
    parts = [_part(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
    if role == "assistant":
        return {"role": role, "content": "".join(str(part.get("text", "")) for part in parts)}
    if len(parts) == 1 and parts[0]["type"] == "text":  # many chat templates know only strings
        return {"role": role, "content": parts[0]["text"]}
    return {"role": role, "content": parts}


def _part(part: object, where: str) -> dict[str, Any]:
    """One content part in chat's form. Raises `ApiError` 400."""
    if not isinstance(part, dict):
        raise ApiError(400, f"'{where}' must be an object, got {kind_of(part)}.", param=where)
    kind = part.get("type")
    if not isinstance(kind, str):
        raise ApiError(400, f"'{where}.type' must be a string, got {kind_of(kind)}.", param=f"{where}.type")
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": _text(part, "text", where)}
    if kind == "refusal":
        return {"type": "text", "text": _text(part, "refusal", where)}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        image = {"url": part["image_url"]}
        if isinstance(part.get("detail"), str):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    if kind == "input_file" and isinstance(part.get("file_data"), str):
        file = {name: part[name] for name in ("file_data", "filename") if isinstance(part.get(name), str)}
        return {"type": "file", "file": file}
    raise _untranslatable(where, kind)


def _output(output: object, where: str) -> str:
    """A tool's output as chat takes it: text."""
    if isinstance(output, str):
        return output
    if not isinstance(output, list):
        raise ApiError(
            400, f"'{where}.output' must be a string or an array, got {kind_of(output)}.",
            param=f"{where}.output",
        )  # fmt: skip
    texts = []
    for index, part in enumerate(output):
        chat_part = _part(part, f"{where}.output[{index}]")
        if chat_part["type"] != "text":
            raise _untranslatable(f"{where}.output[{index}]", chat_part["type"])
        texts.append(chat_part["text"])
    return "\n".join(texts)


def _text(item: dict[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise ApiError(
            400, f"'{where}.{name}' must be a string, got {kind_of(value)}.", param=f"{where}.{name}"
        )
    return value


def _untranslatable(where: str, kind: object) -> ApiError:
    return ApiError(
        400,
        f"'{where}': {str(kind)[:100]!r} cannot be translated to a chat completion; name a tier that has "
        "the Responses API as the model.",
        param=where,
        code="unsupported_value",
    )

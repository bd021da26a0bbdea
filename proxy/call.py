"""A client's request: one parse of the body, and the bytes of every field kept as they came.

The top level is decoded to raw slices (`msgspec.Raw`), so an unknown field, a 20-digit integer or an odd
escape reaches the backend exactly as the client wrote it; only the few fields Upshift decides on are
decoded further. With nothing to change, the body goes on as the very bytes that came in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import orjson

from proxy.wire_error import ApiError

Api = Literal["chat", "completions"]
PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}

_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_INTEGERS = ("n", "max_tokens", "max_completion_tokens", "seed", "top_logprobs")
_BOOLEANS = ("stream",)
_NULL = b"null"


@dataclass(slots=True)
class Call:
    """One request to `/v1/chat/completions` or `/v1/completions`."""

    api: Api
    body: bytes
    fields: dict[str, bytes]
    model: str
    stream: bool
    messages: list[dict[str, Any]] = field(default_factory=list)
    prompt: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)  # the body field `upshift`

    @property
    def path(self) -> str:
        return PATHS[self.api]

    def value(self, name: str) -> Any:
        """A field decoded, None where it is absent."""
        raw = self.fields.get(name)
        return None if raw is None else orjson.loads(raw)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with a usage chunk."""
        options = self.value("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    @property
    def wants_logprobs(self) -> bool:
        return self.fields.get("logprobs", _NULL) not in (_NULL, b"false")

    @property
    def choices(self) -> int:
        """How many answers are asked for (`n`)."""
        return self.value("n") or 1

    @property
    def max_tokens(self) -> int | None:
        """The most tokens the answer may have; None where the client set no limit."""
        limit = self.value("max_completion_tokens") or self.value("max_tokens")
        return limit if isinstance(limit, int) else None

    def encode(self, changes: Mapping[str, bytes | None]) -> bytes:
        """The body with some top-level fields replaced (JSON bytes), added, or taken out (None)."""
        merged: dict[str, bytes | None] = {**self.fields, **changes}
        if "upshift" in self.fields and "upshift" not in changes:
            merged["upshift"] = None
        elif all(self.fields.get(name) == value for name, value in changes.items()):
            return self.body
        parts = [orjson.dumps(name) + b":" + value for name, value in merged.items() if value is not None]
        return b"{" + b",".join(parts) + b"}"


def parse_call(api: Api, body: bytes, max_messages: int) -> Call:
    """Decode and check. Raises `ApiError` 400 that names the field."""
    fields = _decode(body)
    model = _string(fields, "model")
    if not model:
        raise ApiError(400, "You must provide a model parameter.", param="model")
    for name in _NUMBERS:
        _check_type(fields, name, (int, float), "a number")
    for name in _INTEGERS:
        _check_type(fields, name, (int,), "an integer")
    for name in _BOOLEANS:
        _check_type(fields, name, (bool,), "a boolean")
    _check_type(fields, "stream_options", (dict,), "an object")
    call = Call(api, body, fields, model, stream=fields.get("stream") == b"true")
    if call.choices < 1:
        raise ApiError(400, f"'n' must be at least 1, got {call.choices}.", param="n")
    options = call.value("upshift")
    if options is not None:
        if not isinstance(options, dict):
            raise ApiError(400, f"'upshift' must be an object, got {_kind(options)}.", param="upshift")
        call.options = options
    if api == "chat":
        call.messages = _messages(fields, max_messages)
    else:
        call.prompt = _prompt(fields)
    return call


def _decode(body: bytes) -> dict[str, bytes]:
    try:
        if not body.isascii():
            body.decode("utf-8")
        fields = _decoder.decode(body)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The body is not UTF-8: byte {error.start} is not valid.") from error
    except msgspec.DecodeError as error:
        if body.lstrip()[:1] == b"{" or not body.strip():
            reason = f"We could not parse the JSON body of your request: {error}."
        else:
            reason = "The body of the request must be a JSON object."
        raise ApiError(400, reason, code="invalid_json") from error
    except RecursionError as error:
        raise ApiError(400, "The JSON body is nested too deeply.", code="invalid_json") from error
    return {name: bytes(memoryview(raw)) for name, raw in fields.items()}


def _load(fields: Mapping[str, bytes], name: str) -> Any:
    try:
        return orjson.loads(fields[name])
    except orjson.JSONDecodeError as error:
        raise ApiError(
            400, f"'{name}' is not valid JSON: {error}.", param=name, code="invalid_json"
        ) from error


def _string(fields: Mapping[str, bytes], name: str) -> str | None:
    if name not in fields:
        return None
    value = _load(fields, name)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, f"'{name}' must be a string, got {_kind(value)}.", param=name)
    return value


def _check_type(fields: Mapping[str, bytes], name: str, types: tuple[type, ...], wanted: str) -> None:
    raw = fields.get(name)
    if raw is None or raw == _NULL:
        return
    value = _load(fields, name)
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ApiError(400, f"'{name}' must be {wanted}, got {_kind(value)}.", param=name)


def _messages(fields: Mapping[str, bytes], max_messages: int) -> list[dict[str, Any]]:
    if "messages" not in fields:
        raise ApiError(
            400,
            "Missing required parameter: 'messages'.",
            param="messages",
            code="missing_required_parameter",
        )
    messages = _load(fields, "messages")
    if not isinstance(messages, list):
        raise ApiError(400, f"'messages' must be an array, got {_kind(messages)}.", param="messages")
    if not messages:
        raise ApiError(
            400, "'messages' is empty: at least one message is needed.", param="messages", code="empty_array"
        )
    if len(messages) > max_messages:
        raise ApiError(
            400, f"'messages' has {len(messages)} entries, the limit is {max_messages}.", param="messages",
            code="array_above_max_length",
        )  # fmt: skip
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise ApiError(400, f"'{where}' must be an object, got {_kind(message)}.", param=where)
        if not isinstance(message.get("role"), str):
            raise ApiError(
                400,
                f"'{where}.role' must be a string, got {_kind(message.get('role'))}.",
                param=f"{where}.role",
            )
        if not isinstance(message.get("content"), str | list | None):
            got = _kind(message["content"])
            wanted = "a string, an array of parts or null"
            raise ApiError(400, f"'{where}.content' must be {wanted}, got {got}.", param=f"{where}.content")
    return messages


def _prompt(fields: Mapping[str, bytes]) -> Any:
    if "prompt" not in fields:
        raise ApiError(
            400, "Missing required parameter: 'prompt'.", param="prompt", code="missing_required_parameter"
        )
    prompt = _load(fields, "prompt")
    if not isinstance(prompt, str | list) or prompt == []:
        raise ApiError(400, f"'prompt' must be a string or an array, got {_kind(prompt)}.", param="prompt")
    return prompt


def _kind(value: object) -> str:
    names = {
        bool: "a boolean",
        str: "a string",
        int: "a number",
        float: "a number",
        list: "an array",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)

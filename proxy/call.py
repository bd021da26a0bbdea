"""A client's request: one parse of the body, and the bytes of every field kept as they came.

The top level is decoded to raw slices (`msgspec.Raw`), so an unknown field, a 20-digit integer or an odd
escape reaches the backend exactly as the client wrote it; only the few fields Upshift decides on are
decoded further. With nothing to change, the body goes on as the very bytes that came in.
"""

from __future__ import annotations

import re
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
_OBJECTS = ("stream_options", "response_format")
_NULL = b"null"
_MAX_FIELDS = 1_000  # of the top level; a million of them would hold the event loop for seconds
_DIGITS = frozenset(b"-0123456789")
_INTEGER = re.compile(rb"-?[0-9]+")


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
    prompt_bytes: int = 0  # of the rendered prompt, where it was rendered
    mended: bool = False  # `fields` say something in another way than `body`

    @property
    def path(self) -> str:
        return PATHS[self.api]

    def value(self, name: str) -> Any:
        """A field decoded, None where it is absent. Raises `ApiError` 400 where it cannot be."""
        return load_field(self.fields, name) if name in self.fields else None

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
        return int(self.value("n") or 1)

    @property
    def max_tokens(self) -> int | None:
        """The most tokens the answer may have; None where the client set no limit."""
        limit = self.value("max_completion_tokens") or self.value("max_tokens")
        return int(limit) if isinstance(limit, int | float) else None

    def encode(self, changes: Mapping[str, bytes | None]) -> bytes:
        """The body with some top-level fields replaced (JSON bytes), added, or taken out (None)."""
        return encode_fields(None if self.mended else self.body, self.fields, changes)


def encode_fields(
    body: bytes | None, fields: Mapping[str, bytes], changes: Mapping[str, bytes | None]
) -> bytes:
    """`fields` with `changes`, as JSON and without `upshift`; `body` itself, where there is one, if nothing
    changes."""
    merged: dict[str, bytes | None] = {**fields, **changes}
    if "upshift" in fields and "upshift" not in changes:
        merged["upshift"] = None
    elif body is not None and all(fields.get(name) == value for name, value in changes.items()):
        return body
    parts = [orjson.dumps(name) + b":" + value for name, value in merged.items() if value is not None]
    return b"{" + b",".join(parts) + b"}"


def parse_call(api: Api, body: bytes, max_messages: int) -> Call:
    """Decode and check. Raises `ApiError` 400 that names the field."""
    fields = decode_fields(body)
    model = string_field(fields, "model")
    if not model:
        raise ApiError(400, "You must provide a model parameter.", param="model")
    mended = _check_fields(fields)
    call = Call(api, body, fields, model, stream=fields.get("stream") == b"true", mended=mended)
    if (count := call.value("n")) is not None and count < 1:
        raise ApiError(400, f"'n' must be at least 1, got {count}.", param="n")
    options = call.value("upshift")
    if options is not None:
        if not isinstance(options, dict):
            raise ApiError(400, f"'upshift' must be an object, got {kind_of(options)}.", param="upshift")
        call.options = options
    if api == "chat":
        call.messages = _messages(fields, max_messages)
    else:
        call.prompt = _prompt(fields)
    return call


def _check_fields(fields: dict[str, bytes]) -> bool:
    """Whether a field had to be written in another way. Raises `ApiError` 400 for one of another type."""
    mended = False
    for name in _NUMBERS:
        check_type(fields, name, (int, float), "a number")
    for name in _INTEGERS:
        if name in fields:
            check_type(fields, name, (int,), "an integer")
            if not _DIGITS.issuperset(fields[name]):  # `2.0` is an integer to a JSON schema, not to Python
                whole = load_field(fields, name)
                if whole is not None:
                    fields[name], mended = b"%d" % whole, True
    for name in _BOOLEANS:
        check_type(fields, name, (bool,), "a boolean")
    for name in _OBJECTS:
        check_type(fields, name, (dict,), "an object")
    return mended


def decode_fields(body: bytes) -> dict[str, bytes]:
    """A JSON object's fields, each as the bytes that came. Raises `ApiError` 400."""
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
    if len(fields) > _MAX_FIELDS:
        raise ApiError(400, f"The body has {len(fields)} fields, the limit is {_MAX_FIELDS}.")
    return {name: bytes(memoryview(raw)) for name, raw in fields.items()}


def load_field(fields: Mapping[str, bytes], name: str) -> Any:
    """A present field, decoded. Raises `ApiError` 400: nested too deeply, or a lone surrogate."""
    try:
        return orjson.loads(fields[name])
    except orjson.JSONDecodeError as error:
        raise ApiError(
            400, f"'{name}' is not valid JSON: {error}.", param=name, code="invalid_json"
        ) from error


def string_field(fields: Mapping[str, bytes], name: str) -> str | None:
    """A string, or None where it is absent or null. Raises `ApiError` 400."""
    if name not in fields:
        return None
    value = load_field(fields, name)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, f"'{name}' must be a string, got {kind_of(value)}.", param=name)
    return value


def check_type(fields: Mapping[str, bytes], name: str, types: tuple[type, ...], wanted: str) -> None:
    """Raises `ApiError` 400 for a field of another type; absent and null pass."""
    raw = fields.get(name)
    if raw is None or raw == _NULL:
        return
    if int in types and _INTEGER.fullmatch(raw):
        return  # of any size: the decoder would make a float of one beyond 64 bits
    value = load_field(fields, name)
    if int in types and isinstance(value, float) and value.is_integer():
        return  # JSON knows one kind of number, and 2.0 is an integer in a JSON schema
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ApiError(400, f"'{name}' must be {wanted}, got {kind_of(value)}.", param=name)


def _messages(fields: Mapping[str, bytes], max_messages: int) -> list[dict[str, Any]]:
    if "messages" not in fields:
        raise ApiError(
            400,
            "Missing required parameter: 'messages'.",
            param="messages",
            code="missing_required_parameter",
        )
    messages = load_field(fields, "messages")
    if not isinstance(messages, list):
        raise ApiError(400, f"'messages' must be an array, got {kind_of(messages)}.", param="messages")
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
            raise ApiError(400, f"'{where}' must be an object, got {kind_of(message)}.", param=where)
        if not isinstance(message.get("role"), str):
            raise ApiError(
                400,
                f"'{where}.role' must be a string, got {kind_of(message.get('role'))}.",
                param=f"{where}.role",
            )
        if not isinstance(message.get("content"), str | list | None):
            got = kind_of(message["content"])
            wanted = "a string, an array of parts or null"
            raise ApiError(400, f"'{where}.content' must be {wanted}, got {got}.", param=f"{where}.content")
    return messages


def _prompt(fields: Mapping[str, bytes]) -> Any:
    if "prompt" not in fields:
        raise ApiError(
            400, "Missing required parameter: 'prompt'.", param="prompt", code="missing_required_parameter"
        )
    prompt = load_field(fields, "prompt")
    if not isinstance(prompt, str | list) or prompt == []:
        got = "an empty one" if prompt == [] else kind_of(prompt)
        raise ApiError(400, f"'prompt' must be a string or a non-empty array, got {got}.", param="prompt")
    return prompt


def kind_of(value: object) -> str:
    """What JSON calls the value, for messages."""
    names = {
        bool: "a boolean",
        str: "a string",
        int: "a number",
        float: "a number",
        list: "an array",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)

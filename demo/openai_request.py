"""Reading an OpenAI request body: what is asked for, or the error that OpenAI's API would answer.

Only what a text model can do is accepted: tools, audio and images are refused by name instead of ignored.
Temperature is 0 unless asked for, unlike OpenAI's 1: the demo's tasks have one right answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from demo.generation import Sampling

Number = TypeVar("Number", int, float)
_ROLES = ("system", "developer", "user", "assistant")
_REFUSED = ("tools", "functions", "audio", "best_of", "suffix", "prompt_logprobs")
_MAX_CHOICES, _MAX_STOPS, _MAX_TOP_LOGPROBS = 16, 16, 20


class RequestError(Exception):
    """An error answer: `status`, and OpenAI's four fields."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status

    def to_json(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True)
class Call:
    """What a body asks for, apart from its prompt; `sampling.max_tokens` is 0 where it names no limit."""

    sampling: Sampling
    choices: int
    stops: tuple[str, ...]
    logprobs: bool
    stream: bool
    include_usage: bool


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises `RequestError`."""
    try:
        fields = json.loads(body)
    except ValueError as exc:
        raise RequestError(f"The body is not valid JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise RequestError("The body must be a JSON object.")
    return fields


def read_call(fields: Mapping[str, Any], chat: bool) -> Call:
    """The sampling and output options of a chat or plain completion. Raises `RequestError`."""
    for name in _REFUSED:
        if fields.get(name):
            raise RequestError(f"'{name}' is not supported by this model.", name, "unsupported_parameter")
    shape = fields.get("response_format")
    if isinstance(shape, Mapping) and shape.get("type", "text") != "text":
        raise RequestError("Only text answers are supported.", "response_format", "unsupported_parameter")
    logprobs, top = _read_logprobs(fields, chat)
    limit = "max_completion_tokens" if fields.get("max_completion_tokens") is not None else "max_tokens"
    sampling = Sampling(
        max_tokens=_read_int(fields, limit, 0, 1, 1 << 20),
        temperature=_read_float(fields, "temperature", 0.0, 0.0, 2.0),
        top_p=_read_top_p(fields),
        seed=None if fields.get("seed") is None else _read_int(fields, "seed", 0, -(1 << 63), (1 << 63) - 1),
        top_logprobs=top,
        ignore_eos=bool(fields.get("ignore_eos", False)),
    )
    options = fields.get("stream_options") or {}
    stream = bool(fields.get("stream", False))
    if not isinstance(options, Mapping):
        raise RequestError("'stream_options' must be an object.", "stream_options", "invalid_type")
    if options and not stream:
        raise RequestError("'stream_options' is only allowed with 'stream'.", "stream_options")
    return Call(
        sampling=sampling,
        choices=_read_int(fields, "n", 1, 1, _MAX_CHOICES),
        stops=_read_stops(fields.get("stop")),
        logprobs=logprobs,
        stream=stream,
        include_usage=bool(options.get("include_usage", False)),
    )


def read_messages(fields: Mapping[str, Any]) -> list[dict[str, str]]:
    """Messages with plain text contents, text parts joined by newlines. Raises `RequestError`."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("'messages' must be a list with at least one message.", "messages")
    read = []
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            raise RequestError(f"{where}.role must be one of {', '.join(_ROLES)}.", where)
        # OpenAI's newer name for the system role; the models know one.
        role = "system" if message["role"] == "developer" else message["role"]
        read.append({"role": role, "content": _read_content(message.get("content"), where)})
    return read


def read_prompts(fields: Mapping[str, Any]) -> list[str | list[int]]:
    """The prompts of a plain completion, as texts or token ids. Raises `RequestError`."""
    prompt = fields.get("prompt")
    many: list[Any] = (
        prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    )
    for one in many:
        if isinstance(one, str):
            continue
        if not (isinstance(one, list) and one and all(type(token) is int and token >= 0 for token in one)):
            raise RequestError(
                "'prompt' must be a string, a list of token ids, or a list of these.", "prompt"
            )
    return many


def _read_content(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content if isinstance(content, list) else [content]:
        if (
            not isinstance(part, Mapping)
            or part.get("type") != "text"
            or not isinstance(part.get("text"), str)
        ):
            raise RequestError("This model reads text only.", f"{where}.content", "invalid_content")
        texts.append(part["text"])
    return "\n".join(texts)


def _read_logprobs(fields: Mapping[str, Any], chat: bool) -> tuple[bool, int]:
    """Whether log-probabilities are asked for, and how many alternatives."""
    if not chat:
        asked = fields.get("logprobs") is not None
        return asked, _read_int(fields, "logprobs", 0, 0, _MAX_TOP_LOGPROBS)
    asked = bool(fields.get("logprobs", False))
    top = _read_int(fields, "top_logprobs", 0, 0, _MAX_TOP_LOGPROBS)
    if top and not asked:
        raise RequestError("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")
    return asked, top


def _read_top_p(fields: Mapping[str, Any]) -> float:
    top_p = _read_float(fields, "top_p", 1.0, 0.0, 1.0)
    if top_p == 0.0:
        raise RequestError("'top_p' is 0, must be above 0 and at most 1.", "top_p", "invalid_value")
    return top_p


def _read_stops(stop: Any) -> tuple[str, ...]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(stops, list)
        or len(stops) > _MAX_STOPS
        or not all(isinstance(s, str) and s for s in stops)
    ):
        raise RequestError(f"'stop' must be a string or a list of at most {_MAX_STOPS} strings.", "stop")
    return tuple(stops)


def _read_int(fields: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not int:
        raise RequestError(f"'{name}' is {value!r}, must be an integer.", name, "invalid_type")
    return _check_range(value, name, low, high)


def _read_float(fields: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"'{name}' is {value!r}, must be a number.", name, "invalid_type")
    return _check_range(float(value), name, low, high)


def _check_range(value: Number, name: str, low: Number, high: Number) -> Number:
    if not low <= value <= high:
        raise RequestError(f"'{name}' is {value}, must be from {low} to {high}.", name, "invalid_value")
    return value

"""Reading OpenAI's answers: plain bodies and stream chunks -> text, log-probabilities, usage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.call import Api
from routing.errors import BackendBroken
from routing.protocols import Answer
from scorers.pieces import count_pieces
from scorers.text import render_answer

_REASONING = ("reasoning_content", "reasoning")  # vLLM's two names for it, and other backends'
_MAX_TOKENS = 1 << 40  # beyond it a number is no count, and no database takes the sum
_ABOUT = frozenset({"role", "index", "finish_reason", "stop_reason", "logprobs"})  # and not of an answer


@dataclass(slots=True)
class Usage:
    """Tokens of one call, as the backend counted them; `known` is False where it did not say."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    known: bool = False


def read_json(body: bytes) -> dict[str, Any]:
    """A successful plain reply. Raises `BackendBroken` when it is no completion."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BackendBroken("the answer is not valid JSON") from error
    if not isinstance(data, dict):
        raise BackendBroken("the answer is not a JSON object")
    if data.get("error"):
        raise BackendBroken("an error came with status 200")
    choices = data.get("choices")
    if (
        not isinstance(choices, list)
        or not choices
        or not all(isinstance(choice, dict) for choice in choices)
    ):
        raise BackendBroken("the answer holds no choices")
    return data


def read_usage(data: Mapping[str, Any]) -> Usage:
    """The `usage` object of a body or chunk."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return Usage()
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    return Usage(prompt or 0, completion or 0, known=prompt is not None)


def read_answers(data: Mapping[str, Any], api: Api) -> list[Answer]:
    """The choices of a plain body as the evaluator sees them."""
    out = []
    for choice in data["choices"]:
        text = render_answer(choice.get("message")) if api == "chat" else str(choice.get("text") or "")
        logprobs = _logprobs(choice.get("logprobs"))
        out.append(Answer(text, choice.get("finish_reason"), logprobs, len(logprobs) if logprobs else None))
    return out


def check_choices(data: Mapping[str, Any], api: Api) -> None:
    """Every choice carries an answer of the right shape. Raises `BackendBroken`."""
    for choice in data["choices"]:
        answer = choice.get("message") if api == "chat" else choice.get("text")
        if not isinstance(answer, dict if api == "chat" else str):
            raise BackendBroken("a choice holds no message")
        if isinstance(answer, dict) and not isinstance(answer.get("tool_calls"), list | None):
            raise BackendBroken("the tool calls of a choice are no list")
        if not _finish_reason(choice):
            raise BackendBroken("a choice has no finish reason")


def _finish_reason(choice: Mapping[str, Any]) -> str | None:
    """None for what is no reason, whatever its type."""
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) and reason else None


def is_hollow(data: Mapping[str, Any]) -> bool:
    """Whether a plain body says that it ended of itself and holds nothing: no text, call or thought."""
    return all(
        choice.get("finish_reason") == "stop" and not _holds(choice.get("message") or choice)
        for choice in data["choices"]
    )


def _holds(message: object) -> bool:
    """Whether a message, a delta or a choice with `text` carries anything."""
    if not isinstance(message, dict):
        return bool(message)
    return any(value for name, value in message.items() if name not in _ABOUT)


def _count(value: object) -> int | None:
    """A token count; None for anything that is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= _MAX_TOKENS else None


@dataclass(slots=True)
class _Choice:
    content: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    tools: dict[int, dict[str, str]] = field(default_factory=dict)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    text_pieces: int = 0
    holds: bool = False  # anything at all, a thought or a sound too

    @property
    def tokens(self) -> int:
        """As the backend's log-probabilities count them, else by the text."""
        return len(self.logprobs) or self.text_pieces


class StreamReader:
    """Adds up stream chunks to the answers they carry."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._choices: dict[int, _Choice] = {}
        self.usage = Usage()
        self.model = ""
        self.pieces = 0  # chunks with content: about one a token

    @property
    def begun(self) -> bool:
        """Whether any content, refusal, reasoning, tool call or finish reason has come."""
        return self.pieces > 0 or any(choice.finish_reason for choice in self._choices.values())

    @property
    def finished(self) -> bool:
        """Whether every choice seen has its finish reason."""
        return bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())

    @property
    def hollow(self) -> bool:
        """Whether it ended of itself and held nothing at all."""
        return self.finished and not any(
            choice.holds or choice.finish_reason != "stop" for choice in self._choices.values()
        )

    def add(self, chunk: Mapping[str, Any]) -> None:
        """One decoded chunk. Raises `BackendBroken` for an error event or something else altogether."""
        if chunk.get("error"):
            raise BackendBroken("an error came inside the stream")
        choices = chunk.get("choices")
        if choices is None and isinstance(chunk.get("usage"), dict):
            choices = []  # some backends' last chunk
        if not isinstance(choices, list):
            raise BackendBroken("a stream event holds no choices")
        if not self.model and isinstance(name := chunk.get("model"), str):
            self.model = name
        if isinstance(chunk.get("usage"), dict):
            self.usage = read_usage(chunk)
        try:
            for item in choices:
                self._add_choice(item)
        except (AttributeError, TypeError, ValueError) as error:
            raise BackendBroken("a stream event is not of the shape of a chunk") from error

    @property
    def tokens(self) -> int:
        """Tokens of the shortest choice so far, about."""
        return min((choice.tokens for choice in self._choices.values()), default=0)

    def prefixes(self, choices: int) -> list[Answer]:
        """What has come so far of `choices` choices, by index; empty when one has not begun or is no text."""
        held = [choice for _, choice in sorted(self._choices.items())]
        if len(held) != choices or any(choice.tools or not choice.content for choice in held):
            return []
        return [  # a copy: the choices grow on while this one is scored in another thread
            Answer("".join(c.content), c.finish_reason, tuple(c.logprobs) or None, c.tokens) for c in held
        ]

    def answers(self) -> list[Answer]:
        """What has come so far, by choice index."""
        out = []
        for _, choice in sorted(self._choices.items()):
            message = {
                "content": "".join(choice.content),
                "refusal": "".join(choice.refusal) or None,
                "tool_calls": [{"function": call} for _, call in sorted(choice.tools.items())],
            }
            logprobs = choice.logprobs or None
            tokens = len(logprobs) if logprobs else None
            out.append(Answer(render_answer(message), choice.finish_reason, logprobs, tokens))
        return out

    def _add_choice(self, item: Mapping[str, Any]) -> None:
        choice = self._choices.setdefault(int(item.get("index") or 0), _Choice())
        delta = item.get("delta") if self._api == "chat" else {"content": item.get("text")}
        if isinstance(delta, dict):
            self.pieces += _add_delta(choice, delta)
            choice.holds = choice.holds or _holds(delta)
        choice.logprobs.extend(_logprobs(item.get("logprobs")) or ())
        choice.finish_reason = _finish_reason(item) or choice.finish_reason


def _add_delta(choice: _Choice, delta: Mapping[str, Any]) -> int:
    """Add a delta to its choice; how many pieces it held.

    Reasoning is no part of the answer that the evaluator reads, but clients show it and it was paid for.
    """
    before = len(choice.content) + len(choice.refusal)
    thought = sum(1 for name in _REASONING if isinstance(delta.get(name), str) and delta[name])
    if isinstance(delta.get("content"), str) and delta["content"]:
        choice.content.append(delta["content"])
        choice.text_pieces += count_pieces(delta["content"])
    if isinstance(delta.get("refusal"), str) and delta["refusal"]:
        choice.refusal.append(delta["refusal"])
    calls = delta.get("tool_calls") or []
    if isinstance(delta.get("function_call"), dict):
        calls = [{"index": 0, "function": delta["function_call"]}]
    for call in calls:
        function = call.get("function") or {}
        held = choice.tools.setdefault(int(call.get("index") or 0), {"name": "", "arguments": ""})
        held["name"] += function.get("name") or ""
        held["arguments"] += function.get("arguments") or ""
    return len(choice.content) + len(choice.refusal) - before + len(calls) + thought


def _logprobs(data: object) -> list[float] | None:
    """Token log-probabilities of chat's `{"content": [...]}` or completions' `{"token_logprobs": [...]}`."""
    if not isinstance(data, dict):
        return None
    content = data.get("content")
    values: Iterable[object]
    if isinstance(content, list):
        values = (item.get("logprob") for item in content if isinstance(item, dict))
    elif isinstance(data.get("token_logprobs"), list):
        values = data["token_logprobs"]
    else:
        return None
    return [float(value) for value in values if isinstance(value, int | float)]

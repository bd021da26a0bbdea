"""What an endpoint refuses to hear, left out: not every OpenAI-compatible server takes every field.

A 400 or 422 that names a field is answered with the same request without it, or with its other name. What
then succeeds is kept for this endpoint and told in the manifest; what does not was not the field's fault.
Without log-probabilities an evaluator has less to go by, so a concession is worth reading.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Concession:
    """One field less. `words`: what an error says when this field is what it is about; none: any error."""

    name: str
    applies: Callable[[Body], bool]
    change: Callable[[Body], Body]
    words: tuple[str, ...] = ()


def _has(name: str) -> Callable[[Body], bool]:
    return lambda body: name in body


def _without(name: str) -> Callable[[Body], Body]:
    return lambda body: {key: value for key, value in body.items() if key != name}


def _rename_limit(body: Body) -> Body:
    return {("max_completion_tokens" if key == "max_tokens" else key): value for key, value in body.items()}


def _asks_schema(body: Body) -> bool:
    return bool((body.get("response_format") or {}).get("type") == "json_schema")


CONCESSIONS = (
    Concession("max_completion_tokens", _has("max_tokens"), _rename_limit, ("max_tokens",)),
    Concession("no_logprobs", _has("logprobs"), _without("logprobs"), ("logprob", "log_prob")),
    Concession("no_temperature", _has("temperature"), _without("temperature"), ("temperature",)),
    Concession("no_seed", _has("seed"), _without("seed"), ("seed",)),
    # Servers refuse structured output in many words, so any refusal is tried without it.
    Concession(
        "json_object", _asks_schema, lambda body: {**body, "response_format": {"type": "json_object"}}
    ),
    Concession("no_response_format", _has("response_format"), _without("response_format")),
)


def apply_concessions(body: Body, made: Set[str]) -> Body:
    """`body` as an endpoint that was granted `made` hears it."""
    for concession in CONCESSIONS:
        if concession.name in made and concession.applies(body):
            body = concession.change(body)
    return body


def next_concession(body: Body, made: Set[str], refusal: str) -> str | None:
    """The name of what to leave out next, None when nothing is left that this refusal could mean."""
    heard = apply_concessions(body, made)
    text = refusal.lower()
    for concession in CONCESSIONS:
        if concession.name in made or not concession.applies(heard):
            continue
        if not concession.words or any(word in text for word in concession.words):
            return concession.name
    return None

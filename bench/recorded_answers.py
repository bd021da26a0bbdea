"""Recorded answers: what a named model really said to each prompt of an example table.

Looked up by the hash of the whitespace-normalised text, which is the table's own key, so a client may send
the prompt as one user message, as parts, or as the conversation it was rendered from. A table of 30,000 rows
costs its own text in memory and a look-up a few microseconds.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routing.errors import ExamplesError
from scorers.text import prompt_id, render_prompt
from trainer.examples import Example, read_examples

CHARS_PER_TOKEN = 4.0  # rule of thumb for English text and byte-pair vocabularies of 32,000 to 100,000
_WORD_PIECE = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer, cut into the pieces it is served in; `"".join(pieces)` is the answer, byte for byte.

    With `logprobs` there are as many pieces as log-probabilities (natural logarithms), else one piece a word.
    Token counts are the table's where it has them, else estimated from the length of the text.
    """

    pieces: tuple[str, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def cut(self, max_tokens: int | None) -> Recorded:
        """The answer as a limit of `max_tokens` would have left it: shorter and `length`, or itself."""
        if max_tokens is None or max_tokens >= self.completion_tokens:
            return self
        kept = math.ceil(len(self.pieces) * max_tokens / self.completion_tokens)
        logprobs = None if self.logprobs is None else self.logprobs[:kept]
        return Recorded(self.pieces[:kept], logprobs, "length", self.prompt_tokens, max_tokens)


class RecordedAnswers:
    """The answers of some models. Raises `ExamplesError` for a model without a single answer."""

    def __init__(self, examples: Iterable[Example], models: Sequence[str]) -> None:
        self.models = tuple(dict.fromkeys(models))
        self._answers: dict[str, dict[str, Recorded]] = {model: {} for model in self.models}
        self._known: set[str] = set()
        for row in examples:
            self._known.add(row.prompt_id)
            kept = self._answers.get(row.model)
            if kept is not None and row.response is not None:
                kept.setdefault(row.prompt_id, record(row))  # several samples: the first one stands
        for model, answers in self._answers.items():
            if not answers:
                raise ExamplesError(f"the examples hold no answer of model {model!r}")

    def __len__(self) -> int:
        return sum(len(answers) for answers in self._answers.values())

    def get(self, model: str, key: str) -> Recorded | None:
        """What `model` (one of `models`) said to the prompt with this id, None where nothing was recorded."""
        return self._answers[model].get(key)

    def knows(self, key: str) -> bool:
        """Whether the table holds the prompt at all, answered by whomever."""
        return key in self._known


def key_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt id of a conversation."""
    return prompt_id(render_prompt(messages))


def record(row: Example) -> Recorded:
    """One row of the table as it is served. `row.response` must not be None."""
    text = row.response or ""
    values = () if row.logprobs is None else tuple(float(value) for value in row.logprobs)
    logprobs = values or None
    pieces = cut_words(text) if logprobs is None else cut_evenly(text, len(logprobs))
    tokens = row.completion_tokens
    if tokens is None:
        tokens = len(logprobs) if logprobs is not None else estimate_tokens(text)
    asked = estimate_tokens(row.prompt) if row.prompt_tokens is None else row.prompt_tokens
    return Recorded(pieces, logprobs, row.finish_reason or "stop", asked, tokens)


def read_recorded(paths: Sequence[str | Path], models: Sequence[str]) -> RecordedAnswers:
    """Answers out of several files, whose judges may differ: nobody compares qualities here."""
    return RecordedAnswers((row for path in paths for row in read_examples([path]).rows), models)


def estimate_tokens(text: str) -> int:
    """Tokens of a text without its model's tokenizer; 0 for an empty one."""
    return round(len(text) / CHARS_PER_TOKEN) or int(bool(text))


def cut_words(text: str) -> tuple[str, ...]:
    """Words with the white space before them; what white space ends the text comes last."""
    return tuple(_WORD_PIECE.findall(text))


def cut_evenly(text: str, count: int) -> tuple[str, ...]:
    """`count` pieces of about equal length (some empty where the text is shorter), `count` >= 1."""
    edges = [len(text) * i // count for i in range(count + 1)]
    return tuple(text[a:b] for a, b in itertools.pairwise(edges))

"""What the evaluator needs to know of an answer. `routing.protocols.Answer` fits it structurally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class AnswerLike(Protocol):
    """A model's answer: text, why it ended, and its token log-probabilities where the backend has them."""

    @property
    def text(self) -> str: ...

    @property
    def finish_reason(self) -> str | None: ...

    @property
    def logprobs(self) -> Sequence[float] | None:
        """Natural logarithms, shape (T,); None where the backend gives none."""
        ...

    @property
    def completion_tokens(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """An answer read back from an example table."""

    text: str
    finish_reason: str | None = None
    logprobs: Sequence[float] | None = None
    completion_tokens: int | None = None

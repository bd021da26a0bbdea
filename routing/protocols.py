"""The seams of Upshift: what a backend, a scorer, a decision log and a clock must offer.

Everything above `routing` implements these or calls them; `routing` itself knows no web framework and
no tensor library. A backend is HTTP-shaped (JSON bytes in, status + headers + bytes out) so that an
answer nobody changes is passed on as the very bytes that came in, whatever API it belongs to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(slots=True)
class BackendRequest:
    """One call to one backend.

    `path` is relative to the backend's base URL (`/chat/completions`); `body` is the JSON to send;
    `stream` says whether the answer is expected as server-sent events; `timeout_s` is what is left of
    the request's deadline (None: no limit), and `timeout_stage` the stage a `BackendTimeout` names when it
    passes: `total` where the whole request is over with it, `share` where another tier still has time.
    `fresh` asks for a connection of its own: the kept one of the attempt before was found closed.
    """

    path: str
    body: bytes
    stream: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    method: str = "POST"
    timeout_stage: str = "total"
    fresh: bool = False


@runtime_checkable
class BackendReply(Protocol):
    """An answer whose status and headers are known; the body is read once, by `read` or by `chunks`."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""
        ...

    async def read(self) -> bytes:
        """The whole body. Raises `BackendError` when the connection breaks before its end."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive (for a stream: raw SSE bytes, cut anywhere)."""
        ...

    async def close(self) -> None:
        """Give the connection up. Safe to call twice; aborts the backend's work if it is not finished."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A place that answers OpenAI-shaped calls: an HTTP server or a model in this process."""

    async def send(self, request: BackendRequest) -> BackendReply:
        """Send and wait for status and headers.

        An HTTP error status is an ordinary reply. Raises `BackendError` when there was no reply at all.
        Cancelling the task that awaits this must free whatever the backend had begun.
        """
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's complete answer as the evaluator sees it.

    `logprobs` are the token log-probabilities of the answer (natural log, shape (T,)); None where the
    backend has none. `finish_reason` is OpenAI's (`stop`, `length`, `tool_calls`, ...), or None for a prefix.
    """

    text: str
    finish_reason: str | None = "stop"
    logprobs: Sequence[float] | None = None
    completion_tokens: int | None = None


@runtime_checkable
class PromptScorer(Protocol):
    """Scores a prompt before any model has run."""

    name: str

    async def score_prompt(self, prompt: str) -> float:
        """P(strong should answer), in [0, 1]. Raises `ScorerError`."""
        ...


@runtime_checkable
class AnswerScorer(Protocol):
    """Scores an answer against its prompt."""

    name: str

    async def score_answer(self, prompt: str, answer: Answer) -> float:
        """P(answer is adequate), in [0, 1]. Raises `ScorerError`."""
        ...


class DecisionLog(Protocol):
    """Where one row a request goes. `record` never blocks and never raises; `table` is one of
    `routing.log_tables.TABLES`."""

    def record(self, row: Mapping[str, object], table: str = "decisions") -> None: ...

    async def close(self) -> None:
        """Write what is still held back."""
        ...


class Clock(Protocol):
    """Monotonic seconds; a test passes its own."""

    def __call__(self) -> float: ...


Vector = np.ndarray  # float32, shape (d,)

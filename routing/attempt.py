"""What the cascade drives: an attempt on a tier, and a judge of prompts and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from routing.decision import Route
from routing.errors import BackendError
from routing.protocols import Answer
from routing.rules import Rule
from routing.signals import Choice, Signals

Standing = Literal["ok", "client_error", "context_window", "failed"]


class Attempt(Protocol):
    """A tier's reply, not yet shown to anyone."""

    tier: int
    standing: Standing

    async def ready(self) -> None:
        """Wait until the reply is known to be usable: the whole of it, or a stream's first content.

        Raises `BackendError` when it is not.
        """
        ...

    async def complete(self) -> None:
        """Read the reply to its end and hold it. Raises `BackendError`."""
        ...

    def answers(self) -> Sequence[Answer]:
        """The held choices (one for each of `n`). Only after `complete`."""
        ...

    async def close(self) -> None: ...


class StreamAttempt(Attempt, Protocol):
    """A streamed reply that can be judged before its end."""

    @property
    def tokens(self) -> int:
        """Tokens held of the shortest choice, about."""
        ...

    @property
    def whole(self) -> bool:
        """Whether every choice has its finish reason."""
        ...

    def prefix(self) -> Sequence[Answer]:
        """What is held of each choice, in order; empty when it is no plain text or a choice has not begun."""
        ...

    def reading(self) -> asyncio.Future[Any]:
        """The wait for the next piece, begun if need be. It is not lost when nobody waits any more."""
        ...

    async def advance(self) -> bool:
        """Take the next piece. False at the end of the stream. Raises `BackendError`."""
        ...


class Judge(Protocol):
    """Reads the prompt before and the answer after a weak attempt."""

    async def read_prompt(self, rule: Rule, signals: Signals) -> None:
        """Fill the scores `rule` needs into `signals`. Raises `ScorerError`."""
        ...

    def hard_check(self, answers: Sequence[Answer]) -> str | None:
        """Name of the hard check that an answer fails, None when all pass."""
        ...

    async def score_answers(self, answers: Sequence[Answer]) -> float:
        """P(adequate) of the least adequate answer. Raises `ScorerError`."""
        ...


Begin = Callable[[int, bool], Awaitable[Attempt]]  # (tier, will it be judged)
Choose = Callable[[Rule, Signals], Choice]  # an entry with its propensity, exploration included


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """When a scorer fails, go to 'strong' or 'weak'; when strong fails, serve 'weak' or an 'error'."""

    scorer: Literal["strong", "weak"] = "strong"
    strong: Literal["weak", "error"] = "weak"


@dataclass(slots=True)
class Outcome:
    """The attempt to show (or the failure to report), and all that was paid for besides."""

    route: Route
    attempt: Attempt | None
    error: BackendError | None = None
    rejected: list[Attempt] = field(default_factory=list)
    hard_check: str | None = None
    scorer_error: str | None = None
    race: Literal["won", "lost", "denied"] | None = None  # from the view of the tier that was started early

"""Watches a held stream grow and judges its prefixes, until it is committed to, abandoned, or whole.

One score at a time: while it is computed the stream is read on, and the next one is of the longest prefix
there is by then. Nothing waits for a score but the decision itself, and a prefix whose score fails ends the
attempt to be early, not the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from routing.attempt import Judge, StreamAttempt
from routing.early import EarlyRule
from routing.errors import ScorerError
from routing.protocols import Answer, Clock
from routing.rules import Rule
from routing.signals import Signals

Sighting = Literal["commit", "abandon", "hard_check", "whole"]


@dataclass(frozen=True, slots=True)
class Early:
    """How a request's first tier may be judged early. `interval_s`: a prefix that grew is scored again after
    this long even between checkpoints; 0: at checkpoints only."""

    rule: EarlyRule
    interval_s: float = 0.0


class PrefixWatch:
    """One stream under watch. `signals.answer_score` holds the last score; `failed` a hard check's name."""

    def __init__(
        self,
        attempt: StreamAttempt,
        judge: Judge,
        rule: Rule,
        early: Early,
        signals: Signals,
        clock: Clock = time.monotonic,
    ) -> None:
        self._attempt = attempt
        self._judge = judge
        self._rule = rule
        self._early = early
        self._signals = signals
        self._clock = clock
        self._checkpoint = -1  # of the last prefix that was scored
        self._tokens = 0
        self._scored_at = 0.0
        self._scoring: asyncio.Task[float] | None = None
        self.failed: str | None = None

    async def run(self) -> Sighting:
        """Read until it is decided; `whole`: the prefixes left it open.

        Raises `BackendError` when the stream breaks before.
        """
        attempt = self._attempt
        sighting: Sighting | None = None
        try:
            while sighting is None:
                if self._scoring is None and self._is_due() and (prefix := attempt.prefix()):
                    if self._fails(prefix):
                        return "hard_check"
                    self._begin_score(prefix)
                if self._scoring is not None:
                    sighting = await self._score_or_piece(self._scoring)
                elif not await attempt.advance():
                    sighting = "whole"
        except ScorerError:
            return "whole"
        finally:
            if self._scoring is not None:
                self._scoring.cancel()
                await asyncio.gather(self._scoring, return_exceptions=True)
        return sighting

    async def _score_or_piece(self, scoring: asyncio.Task[float]) -> Sighting | None:
        """Wait for whichever comes first, the score or the stream's next piece. None: go on."""
        reading = self._attempt.reading()
        await asyncio.wait({reading, scoring}, return_when=asyncio.FIRST_COMPLETED)
        if scoring.done():
            self._scoring = None
            if (sighting := self._decide(scoring)) is not None:
                return sighting
        if reading.done() and not await self._attempt.advance():
            return "whole"
        return None

    def _is_due(self) -> bool:
        """Whether the prefix has reached a new checkpoint, or has grown for long enough."""
        tokens = self._attempt.tokens
        reached = self._early.rule.reached(tokens)
        if reached > self._checkpoint:
            return True
        interval_s = self._early.interval_s
        grown = reached >= 0 and tokens > self._tokens
        return grown and interval_s > 0.0 and self._clock() - self._scored_at >= interval_s

    def _begin_score(self, prefix: Sequence[Answer]) -> None:
        self._tokens = self._attempt.tokens
        self._checkpoint = self._early.rule.reached(self._tokens)
        self._scored_at = self._clock()
        self._scoring = asyncio.create_task(self._ask(prefix))

    async def _ask(self, prefix: Sequence[Answer]) -> float:
        return await self._judge.score_answers(prefix)

    def _fails(self, prefix: Sequence[Answer]) -> bool:
        """Whether the prefix fails a check that no continuation can mend: all but being empty."""
        failed = self._judge.hard_check(prefix)
        self.failed = None if failed == "empty" else failed
        return self.failed is not None

    def _decide(self, scoring: asyncio.Task[float]) -> Sighting | None:
        """What a finished score says of the stream as it is by now; None: read on. Raises `ScorerError`."""
        self._signals.answer_score = scoring.result()
        verdict = self._early.rule.decide(self._checkpoint, self._rule.margin(0, self._signals))
        if verdict == "wait":
            return None
        if verdict == "abandon":
            return "abandon"
        now = self._attempt.prefix()
        if self._attempt.whole or not now:  # its end, or a tool call, came meanwhile: that decides
            return None
        return "hard_check" if self._fails(now) else "commit"

"""A progress line for the terminal: stage, share done, rate and time left, on standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol

from tqdm import tqdm


class Progress(Protocol):
    """Hears of each step; a terminal bar, a log line, or nothing."""

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None: ...


def no_progress(stage: str, done: int, total: int, detail: str = "") -> None:
    """Says nothing."""


class TerminalProgress:
    """A tqdm bar per stage; quiet where standard error is not a terminal, except for a line a stage."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if self._bar is None or stage != self._stage:
            self.close()
            self._stage = stage
            interval_s = 0.2 if sys.stderr.isatty() else 15.0
            # What an earlier run did is where the bar starts, so that rate and time left are this run's.
            self._bar = tqdm(
                total=total, initial=done, desc=stage, file=sys.stderr, mininterval=interval_s, leave=True
            )
        if total != self._bar.total:
            self._bar.total = total
        if detail:
            self._bar.set_postfix_str(detail, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> TerminalProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

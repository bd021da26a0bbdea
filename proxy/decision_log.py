"""The decision log: one row a request, written by a thread of its own, never in a request's way.

`record` appends to a bounded queue and returns. A writer thread takes what has gathered every
`flush_interval_s` and commits it in one transaction, so a crash loses at most that interval. A database
that is locked, full or gone makes the queue grow to its bound; beyond it rows are dropped and counted, and
no request notices. Several workers write to one database at once; each has its own queue and thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from proxy.settings import LogSettings
from routing.errors import SettingsError
from routing.protocols import DecisionLog

_log = logging.getLogger("upshift.log")
COLUMNS: Mapping[str, str] = {
    "request_id": "TEXT NOT NULL",
    "at": "DOUBLE PRECISION NOT NULL",  # seconds since the epoch
    "api": "TEXT NOT NULL",
    "stream": "BOOLEAN NOT NULL",
    "strategy": "TEXT NOT NULL",
    "threshold": "DOUBLE PRECISION",
    "policy": "TEXT NOT NULL",
    "prompt_id": "TEXT NOT NULL",
    "decision": "TEXT NOT NULL",
    "reason": "TEXT NOT NULL",
    "tier": "TEXT NOT NULL",
    "propensity": "DOUBLE PRECISION",
    "route_score": "DOUBLE PRECISION",
    "difficulty": "DOUBLE PRECISION",
    "answer_score": "DOUBLE PRECISION",
    "outcome": "TEXT NOT NULL",
    "status": "INTEGER NOT NULL",
    "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
    "cost_usd": "DOUBLE PRECISION",
    "baseline_usd": "DOUBLE PRECISION",
    "total_s": "DOUBLE PRECISION",
    "first_byte_s": "DOUBLE PRECISION",
    "prompt": "TEXT",
    "answer": "TEXT",
    "entry": "TEXT",  # the first action: strong, checked, unchecked; null: pinned
    "explore_share": "DOUBLE PRECISION",  # of the policy, where it was free to explore
    "scorers": "TEXT",  # fingerprint of what the scores come from
    "judged": "TEXT",  # the answer that the evaluator read, served or not; with text only
    "judged_finish": "TEXT",
    "judged_logprobs": "TEXT",  # a JSON list
}
CREATE = (
    f"CREATE TABLE IF NOT EXISTS decisions ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})"
)
CREATE_INDEX = "CREATE INDEX IF NOT EXISTS decisions_at ON decisions (at)"
_BATCH_ROWS = 2_000
_RETRY_S = 1.0
_TRIM_INTERVAL_S = 60.0
_CLOSE_S = 10.0
Row = tuple[object, ...]


def missing_columns(there: Collection[str]) -> list[str]:
    """Statements that bring a table with the columns `there` up to date."""
    return [
        f"ALTER TABLE decisions ADD COLUMN {name} {kind}"
        for name, kind in COLUMNS.items()
        if name not in there
    ]


class DatabaseDown(Exception):
    """The database could not take the rows; they are offered again."""


class RowRefused(DatabaseDown):
    """The database is there but will never take these very rows (a byte it cannot store)."""


class Store(Protocol):
    """A database, used by the writer thread alone. Every method but `close` raises `DatabaseDown`."""

    def write(self, rows: Sequence[Row]) -> None:
        """All of `rows` in one transaction, or none."""
        ...

    def trim(self, oldest_at: float | None, max_rows: int) -> None:
        """Delete rows before `oldest_at`, and the oldest beyond `max_rows` (0: no bound)."""
        ...

    def close(self) -> None: ...


class QueuedLog:
    """`routing.protocols.DecisionLog` over a `Store`."""

    def __init__(self, store: Store, settings: LogSettings, on_drop: Callable[[int], None]) -> None:
        self._store = store
        self._settings = settings
        self._on_drop = on_drop
        self._rows: deque[Row] = deque()
        self._stop = threading.Event()
        self._trim_at = time.monotonic()
        self._down = False
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows not yet written."""
        return len(self._rows)

    def record(self, row: Mapping[str, object]) -> None:
        if len(self._rows) >= self._settings.max_queued_rows:
            self._on_drop(1)
            return
        self._rows.append(tuple(row.get(name) for name in COLUMNS))

    async def close(self) -> None:
        """Write what waits, for at most 10 s; what the database does not take is dropped and counted."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, _CLOSE_S)
        if self._rows:
            self._on_drop(len(self._rows))
            _log.error("%d rows of the decision log were lost: the database takes none", len(self._rows))

    def _run(self) -> None:
        while True:
            last = self._stop.wait(_RETRY_S if self._down else self._settings.flush_interval_s)
            try:
                self._flush()
                self._trim()
            except DatabaseDown as error:
                if not self._down:
                    _log.warning("the decision log cannot be written: %s; rows wait in memory", error)
                self._down = True
            else:
                self._down = False
            if last:
                self._store.close()
                return

    def _flush(self) -> None:
        """Rows leave the queue only once they are committed."""
        while self._rows:
            rows = [self._rows[index] for index in range(min(len(self._rows), _BATCH_ROWS))]
            try:
                self._store.write(rows)
            except RowRefused as error:
                self._write_singly(rows, error)
            for _ in rows:
                self._rows.popleft()

    def _write_singly(self, rows: Sequence[Row], error: RowRefused) -> None:
        """One row that the database refuses must not hold up all others."""
        _log.warning("the decision log refuses a row: %s; it is dropped", error)
        for row in rows:
            try:
                self._store.write([row])
            except RowRefused:
                self._on_drop(1)

    def _trim(self) -> None:
        days, max_rows = self._settings.retention_days, self._settings.max_rows
        if not (days or max_rows) or time.monotonic() < self._trim_at:
            return
        self._trim_at = time.monotonic() + _TRIM_INTERVAL_S
        self._store.trim(time.time() - days * 86_400 if days else None, max_rows)


class NoDecisionLog:
    """The log that is off."""

    def record(self, row: Mapping[str, object]) -> None:
        return

    async def close(self) -> None:
        return


def open_decision_log(settings: LogSettings, on_drop: Callable[[int], None]) -> DecisionLog:
    """The log of `log.url`. Raises `SettingsError` for a URL that cannot be used."""
    url = settings.url
    if not url:
        return NoDecisionLog()
    if url.startswith(("postgresql://", "postgres://")):
        from proxy.postgres_log import PostgresStore

        return QueuedLog(PostgresStore(url), settings, on_drop)
    from proxy.sqlite_log import SqliteStore, sqlite_path

    if not url.startswith("sqlite:"):
        scheme = url.partition(":")[0]
        raise SettingsError(
            f"log.url: scheme {scheme!r} is not known; give sqlite:///PATH or postgresql://USER@HOST/DATABASE"
        )
    return QueuedLog(SqliteStore(sqlite_path(url)), settings, on_drop)

"""The decision log: one row a request, written by a thread of its own, never in a request's way.

`record` appends to a bounded queue and returns. A writer thread takes what has gathered every
`flush_interval_s`, or sooner where many rows came, and commits it in one transaction, so a crash loses at
most that interval. A database that is locked, full or gone makes the queue grow to its bound; beyond it
rows are dropped and counted, and no request notices. A full one is offered fewer rows at a time, after the
old ones that retention gives up.
Several workers write to one database at once; each has its own queue and thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from proxy.settings import LogSettings
from routing.errors import SettingsError
from routing.log_tables import TABLES
from routing.protocols import DecisionLog

_log = logging.getLogger("upshift.log")
COLUMNS = TABLES["decisions"]
_FEW_ROWS = 50  # at a time, for a database that has no room for more
_RETRY_S = 1.0
_TRIM_INTERVAL_S = 60.0
_CLOSE_S = 10.0
Row = tuple[object, ...]


class DatabaseDown(Exception):
    """The database could not take the rows; they are offered again."""


class RowRefused(DatabaseDown):
    """The database is there but will never take these very rows (a byte it cannot store)."""


class Store(Protocol):
    """A database, used by the writer thread alone. Every method but `close` raises `DatabaseDown`."""

    most_rows: int  # of one write; so many are not left waiting for the interval to end

    def write(self, rows: Sequence[Row], table: str = "decisions") -> None:
        """All of `rows`, of one table, in one transaction, or none."""
        ...

    def trim(self, oldest_at: float | None, max_rows: int) -> None:
        """Delete rows of every table before `oldest_at`, and each table's oldest beyond `max_rows` (0: no
        bound)."""
        ...

    def close(self) -> None: ...


class QueuedLog:
    """`routing.protocols.DecisionLog` over a `Store`."""

    def __init__(self, store: Store, settings: LogSettings, on_drop: Callable[[int], None]) -> None:
        self._store = store
        self._settings = settings
        self._on_drop = on_drop
        self._rows: deque[tuple[str, Row]] = deque()
        self._text_in = self._text_out = 0  # characters that came and went: each counted by one thread alone
        self._stopped = False
        self._wake = threading.Event()
        self._trim_at = time.monotonic()
        self._down = False
        self._wrote = True
        self._batch_rows = store.most_rows
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows not yet written."""
        return len(self._rows)

    def record(self, row: Mapping[str, object], table: str = "decisions") -> None:
        settings = self._settings
        if len(self._rows) >= settings.max_queued_rows:
            self._on_drop(1)
            return
        values = tuple(map(row.get, TABLES[table]))
        if settings.store_text:
            count = _count_text(values)
            if self._text_in - self._text_out + count > settings.max_queued_mib << 20:
                self._on_drop(1)
                return
            self._text_in += count
        self._rows.append((table, values))
        if len(self._rows) == self._store.most_rows:
            self._wake.set()

    def stop(self) -> None:
        """Ask the writer to take what waits and end."""
        self._stopped = True
        self._wake.set()

    async def close(self) -> None:
        """Write what waits, for at most 10 s; what the database does not take is dropped and counted."""
        self.stop()
        await asyncio.to_thread(self._thread.join, _CLOSE_S)
        if self._rows:
            self._on_drop(len(self._rows))
            _log.error("%d rows of the decision log were lost: the database takes none", len(self._rows))

    def _run(self) -> None:
        while True:
            many = self._wake.wait(_RETRY_S if self._down else self._settings.flush_interval_s)
            self._wake.clear()
            last = self._stopped
            try:
                self._work(self._batch_rows if many and not last else 1)
            except DatabaseDown as error:
                self._note_down(str(error))
            except Exception as error:  # noqa: BLE001 - the thread must outlive what no driver should raise
                self._note_down(f"{type(error).__name__}, which was not expected")
            else:
                self._down = False
            if last:
                self._store.close()
                return

    def _work(self, least: int) -> None:
        """Write while at least so many rows wait. Raises `DatabaseDown`."""
        if self._down:  # it may be full: make room first
            with contextlib.suppress(DatabaseDown):
                self._trim()
        self._flush(least)
        self._trim()

    def _note_down(self, why: str) -> None:
        if not self._down:
            _log.warning("the decision log cannot be written: %s; rows wait in memory", why)
        self._down = True
        self._batch_rows = min(self._store.most_rows, max(_FEW_ROWS, self._batch_rows // 4))

    def _flush(self, least: int) -> None:
        """Rows leave the queue only once they are committed."""
        while len(self._rows) >= least:
            table, rows = self._batch()
            try:
                self._store.write(rows, table)
            except RowRefused as error:
                self._write_singly(rows, table, error)
            except DatabaseDown:
                if self._wrote:  # since the last time: retention has something to give up again
                    self._wrote, self._trim_at = False, 0.0
                raise
            self._wrote = True
            for row in rows:
                self._rows.popleft()
                if self._settings.store_text:
                    self._text_out += _count_text(row)
            self._batch_rows = min(self._store.most_rows, self._batch_rows * 2)

    def _batch(self) -> tuple[str, list[Row]]:
        """The rows at the head of the queue that go into one table; by index, since others append."""
        table, rows = self._rows[0][0], list[Row]()
        for index in range(min(len(self._rows), self._batch_rows)):
            other, row = self._rows[index]
            if other != table:
                break
            rows.append(row)
        return table, rows

    def _write_singly(self, rows: Sequence[Row], table: str, error: RowRefused) -> None:
        """One row that the database refuses must not hold up all others."""
        _log.warning("the decision log refuses a row: %s; it is dropped", error)
        for row in rows:
            try:
                self._store.write([row], table)
            except RowRefused:
                self._on_drop(1)

    def _trim(self) -> None:
        days, max_rows = self._settings.retention_days, self._settings.max_rows
        if not (days or max_rows) or time.monotonic() < self._trim_at:
            return
        self._trim_at = time.monotonic() + _TRIM_INTERVAL_S
        self._store.trim(time.time() - days * 86_400 if days else None, max_rows)


def _count_text(row: Row) -> int:
    return sum(len(value) for value in row if isinstance(value, str))


class NoDecisionLog:
    """The log that is off."""

    def record(self, row: Mapping[str, object], table: str = "decisions") -> None:
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

"""The decision log: one row a request, written by a thread of its own, never in a request's way.

`record` appends to a bounded queue and returns. A writer thread takes what has gathered every
`flush_interval_s` and commits it in one transaction, so a crash loses at most that interval. A database
that is locked, full or gone makes the queue grow to its bound; beyond it rows are dropped and counted, and
no request notices.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from routing.errors import SettingsError

_log = logging.getLogger("upshift.log")
COLUMNS: Mapping[str, str] = {
    "request_id": "TEXT NOT NULL",
    "at": "REAL NOT NULL",  # seconds since the epoch
    "api": "TEXT NOT NULL",
    "stream": "INTEGER NOT NULL",
    "strategy": "TEXT NOT NULL",
    "threshold": "REAL",
    "policy": "TEXT NOT NULL",
    "prompt_id": "TEXT NOT NULL",
    "decision": "TEXT NOT NULL",
    "reason": "TEXT NOT NULL",
    "tier": "TEXT NOT NULL",
    "propensity": "REAL",
    "route_score": "REAL",
    "difficulty": "REAL",
    "answer_score": "REAL",
    "outcome": "TEXT NOT NULL",
    "status": "INTEGER NOT NULL",
    "prompt_tokens": "INTEGER",
    "completion_tokens": "INTEGER",
    "cost_usd": "REAL",
    "baseline_usd": "REAL",
    "total_s": "REAL",
    "first_byte_s": "REAL",
    "prompt": "TEXT",
    "answer": "TEXT",
}
_CREATE = (
    f"CREATE TABLE IF NOT EXISTS decisions ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})"
)
_INSERT = f"INSERT INTO decisions VALUES ({', '.join('?' * len(COLUMNS))})"
_RETRY_S = 1.0


class SqliteDecisionLog:
    """Rows into `decisions` of a SQLite file (WAL). Raises `SettingsError` when the file cannot be used."""

    def __init__(
        self, path: Path, flush_interval_s: float, max_queued_rows: int, on_drop: Callable[[int], None]
    ) -> None:
        self._path = path
        self._interval_s = flush_interval_s
        self._bound = max_queued_rows
        self._on_drop = on_drop
        self._rows: deque[tuple[object, ...]] = deque()
        self._stop = threading.Event()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._connect() as database:
                database.execute(_CREATE)
            database.close()
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(f"log.url: {path} cannot be used as a SQLite file: {error}") from error
        self._thread = threading.Thread(target=self._write, name="decision-log", daemon=True)
        self._thread.start()

    def record(self, row: Mapping[str, object]) -> None:
        if len(self._rows) >= self._bound:
            self._on_drop(1)
            return
        self._rows.append(tuple(row.get(name) for name in COLUMNS))

    async def close(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 10.0)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=5.0)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        return database

    def _write(self) -> None:
        database: sqlite3.Connection | None = None
        while True:
            last = self._stop.wait(self._interval_s)
            try:
                database = database or self._connect()
                self._flush(database)
            except sqlite3.Error as error:
                _log.warning("the decision log cannot be written: %s; rows wait in memory", error)
                if database is not None:
                    database.close()
                database = None
                if not last:
                    time.sleep(_RETRY_S)
            if last:
                if database is not None:
                    database.close()
                return

    def _flush(self, database: sqlite3.Connection) -> None:
        """One transaction; rows leave the queue only once it is committed."""
        rows = [self._rows[index] for index in range(len(self._rows))]
        if not rows:
            return
        with database:
            database.executemany(_INSERT, rows)
        for _ in rows:
            self._rows.popleft()


class NoDecisionLog:
    """The log that is off."""

    def record(self, row: Mapping[str, object]) -> None:
        return

    async def close(self) -> None:
        return


def sqlite_path(url: str) -> Path:
    """The file of `sqlite:///PATH`. Raises `SettingsError` for another scheme."""
    scheme, mark, path = url.partition("sqlite:///")
    if scheme or not mark or not path:
        raise SettingsError(f"log.url: {url!r} is not sqlite:///PATH")
    return Path(path)

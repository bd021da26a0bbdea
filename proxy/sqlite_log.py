"""The decision log in a SQLite file: WAL, so that readers and several writers do not block each other."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from proxy.decision_log import DatabaseDown, Row, RowRefused
from routing.errors import SettingsError
from routing.log_tables import TABLES, create_statements, missing_columns

_TRIM = "DELETE FROM {table} WHERE rowid <= (SELECT rowid FROM {table} ORDER BY rowid DESC LIMIT 1 OFFSET ?)"
_LOCKED_S = 5.0  # how long the writer thread waits for another writer's lock
_STATEMENTS = 4  # kept ready, each for a number of rows: the largest takes 300 kB and keeps its last values
_MOST_ROWS = 100  # a millisecond of a core: much more at a stretch is a stall on a busy machine


class SqliteStore:
    """`proxy.decision_log.Store`. Raises `SettingsError` when the file cannot be used at all.

    A write is one statement, which is a transaction of its own: SQLite takes the rows, writes and commits
    them without Python's lock, where each further call would wait for the event loop to let go of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self.most_rows = min(_MOST_ROWS, _most_values() // max(map(len, TABLES.values())))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            database = self._connect()
            _prepare(database)
            database.close()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):  # another process is busy with it; the writer tries again
                raise SettingsError(f"log.url: {path} cannot be used as a SQLite file: {error}") from error
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(f"log.url: {path} cannot be used as a SQLite file: {error}") from error

    def write(self, rows: Sequence[Row], table: str = "decisions") -> None:
        try:
            database = self._open()
            database.execute(_insert(table, len(rows)), [value for row in rows for value in row])
        except (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
                OverflowError, UnicodeEncodeError) as error:  # fmt: skip
            raise RowRefused(str(error)) from error
        except sqlite3.Error as error:
            self.close()
            raise DatabaseDown(str(error)) from error

    def trim(self, oldest_at: float | None, max_rows: int) -> None:
        try:
            database = self._open()
            for table in TABLES:
                if oldest_at is not None:
                    database.execute(f"DELETE FROM {table} WHERE at < ?", (oldest_at,))
                if max_rows:
                    database.execute(_TRIM.format(table=table), (max_rows,))
            database.execute("PRAGMA incremental_vacuum")
        except sqlite3.Error as error:
            self.close()
            raise DatabaseDown(str(error)) from error

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = self._connect()
            _prepare(self._database)
        return self._database

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self._path, timeout=_LOCKED_S, check_same_thread=False, isolation_level=None,
            cached_statements=_STATEMENTS,
        )  # fmt: skip
        try:
            database.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table, else without effect
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.Error:
            database.close()
            raise
        return database


@functools.lru_cache(_STATEMENTS)
def _insert(table: str, rows: int) -> str:
    columns = TABLES[table]
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * rows)}"


def _most_values() -> int:
    """How many values SQLite takes in one statement: 999 before 3.32."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        return database.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)


def _prepare(database: sqlite3.Connection) -> None:
    """The tables as they are now; a log of an older version gets what it lacks."""
    for statement in create_statements():
        database.execute(statement)
    for table in TABLES:
        there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        for statement in missing_columns(table, there):
            database.execute(statement)


def sqlite_path(url: str) -> Path:
    """The file of `sqlite:///PATH` (relative) or `sqlite:////PATH` (absolute). Raises `SettingsError`."""
    scheme, mark, path = url.partition("sqlite:///")
    if scheme or not mark or not path:
        raise SettingsError(f"log.url: {url!r} is not sqlite:///PATH")
    return Path(path)

"""Reads the decision log back, SQLite or PostgreSQL: routed rows, or whatever a query gives."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proxy.sqlite_log import sqlite_path
from routing.errors import SettingsError

_ROUTED = "decision <> 'pinned' AND at >= {mark} ORDER BY at"


def read_log(url: str, columns: Sequence[str], since: float = 0.0) -> Iterator[Mapping[str, Any]]:
    """Rows of routed requests, oldest first, as mappings; `since` in seconds since the epoch.

    Raises `SettingsError` when the log cannot be read or was written by a version without these columns.
    """
    query = f"SELECT {', '.join(columns)} FROM decisions WHERE {_ROUTED}"
    for row in read_rows(url, query, (since,)):
        yield dict(zip(columns, row, strict=True))


def read_rows(url: str, query: str, values: Sequence[object]) -> Iterator[Sequence[Any]]:
    """What `query` gives; `{mark}` in it stands for each of `values`. Raises `SettingsError`."""
    read = _read_postgres if url.startswith(("postgresql://", "postgres://")) else _read_sqlite
    return read(url, query, values)


def _read_sqlite(url: str, query: str, values: Sequence[object]) -> Iterator[Sequence[Any]]:
    path = sqlite_path(url)
    if not path.is_file():
        raise SettingsError(f"--log: there is no file {path}")
    try:
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            yield from database.execute(query.format(mark="?"), values)
        finally:
            database.close()
    except sqlite3.Error as error:
        raise SettingsError(f"--log: {path} cannot be read as a decision log: {error}") from error


def _read_postgres(url: str, query: str, values: Sequence[object]) -> Iterator[Sequence[Any]]:
    try:
        import psycopg
    except ModuleNotFoundError as error:
        raise SettingsError("--log: PostgreSQL needs psycopg: pip install 'upshift[postgres]'") from error
    try:
        with psycopg.connect(url, connect_timeout=5) as connection, connection.cursor("replay") as cursor:
            cursor.execute(query.format(mark="%s"), values)
            yield from cursor
    except psycopg.Error as error:
        first = str(error).partition("\n")[0]
        raise SettingsError(f"--log: cannot be read as a decision log: {first}") from error

"""The proxy's decision log as the trainer reads it, and writes judgements to it: SQLite or PostgreSQL.

Reading never changes it; the proxy may go on writing. In a query `?` stands for a value.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from routing.errors import ExamplesError, SettingsError
from routing.log_tables import JUDGEMENTS, create_statements

SCHEMES = ("sqlite:", "postgresql:", "postgres:")


def public_name(url: str) -> str:
    """A log's URL without the name and password in it."""
    return url.rpartition("@")[2]


def read_all(url: str, queries: Sequence[tuple[str, Sequence[object]]]) -> list[list[Any]]:
    """The rows of each query. Raises `SettingsError` for a URL that cannot be used, `ExamplesError` for a log
    that cannot be read."""
    if not url.startswith("sqlite:"):
        return _read_postgres(url, queries)
    path = sqlite_file(url)
    try:
        source = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(source, uri=True, timeout=10.0)) as database:
            return [database.execute(query, values).fetchall() for query, values in queries]
    except sqlite3.Error as exc:
        raise ExamplesError(f"{path} cannot be read as a decision log: {exc}") from exc


def write_judgements(url: str, rows: Sequence[Sequence[object]]) -> None:
    """Rows of the table `judgements`, all or none. Raises `ExamplesError`."""
    names = ", ".join(JUDGEMENTS)
    if not url.startswith("sqlite:"):
        _write_postgres(
            url, f"INSERT INTO judgements ({names}) VALUES ({', '.join(['%s'] * len(JUDGEMENTS))})", rows
        )
        return
    path = sqlite_file(url)
    try:
        with closing(sqlite3.connect(path, timeout=30.0)) as database, database:
            for statement in create_statements():
                database.execute(statement)
            marks = ", ".join("?" * len(JUDGEMENTS))
            database.executemany(f"INSERT INTO judgements ({names}) VALUES ({marks})", rows)
    except sqlite3.Error as exc:
        raise ExamplesError(f"judgements cannot be written to {path}: {exc}") from exc


def sqlite_file(url: str) -> Path:
    """The file of `sqlite:///PATH`. Raises `SettingsError`, `ExamplesError`."""
    path = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not path.name:
        raise SettingsError(f"{url!r} is not sqlite:///PATH")
    if not path.is_file():
        raise ExamplesError(f"{path} does not exist")
    return path


def _psycopg() -> Any:
    try:
        import psycopg
    except ModuleNotFoundError as exc:
        raise SettingsError("a PostgreSQL log needs psycopg: pip install 'upshift[postgres]'") from exc
    return psycopg


def _read_postgres(url: str, queries: Sequence[tuple[str, Sequence[object]]]) -> list[list[Any]]:
    psycopg = _psycopg()
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            connection.read_only = True
            return [
                connection.execute(query.replace("?", "%s"), values).fetchall() for query, values in queries
            ]
    except psycopg.Error as exc:
        raise ExamplesError(f"{public_name(url)} cannot be read as a log: {_first_line(exc)}") from exc


def _write_postgres(url: str, statement: str, rows: Sequence[Sequence[object]]) -> None:
    psycopg = _psycopg()
    try:
        with psycopg.connect(url, connect_timeout=10) as connection, connection.cursor() as cursor:
            cursor.executemany(statement, rows)
    except psycopg.Error as exc:
        raise ExamplesError(f"{public_name(url)} takes no judgements: {_first_line(exc)}") from exc


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

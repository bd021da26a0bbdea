"""The decision log in PostgreSQL, by psycopg 3 (the extra `postgres`); rows go in by COPY.

The server starts without its database: the table is made with the first connection that succeeds, and rows
wait in the queue until then. A connection is given 3 s and a statement 10 s, so that the writer thread never
hangs on a network that swallows packets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxy.decision_log import DatabaseDown, Row, RowRefused
from routing.errors import SettingsError
from routing.log_tables import TABLES, create_statements, missing_columns

_COPY = {table: f"COPY {table} ({', '.join(columns)}) FROM STDIN" for table, columns in TABLES.items()}
_OPTIONS: dict[str, Any] = {
    "connect_timeout": 3,
    "options": "-c statement_timeout=10000 -c lock_timeout=5000",
    "application_name": "upshift",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_THERE = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
_TRIM = "DELETE FROM {table} WHERE at < (SELECT at FROM {table} ORDER BY at DESC LIMIT 1 OFFSET %s)"


class PostgresStore:
    """`proxy.decision_log.Store`. Raises `SettingsError` for a URL that is none, or without psycopg."""

    most_rows = 2_000

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ModuleNotFoundError as error:
            raise SettingsError(
                "log.url: PostgreSQL needs psycopg: pip install 'upshift[postgres]'"
            ) from error
        self._psycopg = psycopg
        self._url = url
        self._connection: Any = None
        try:
            psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise SettingsError("log.url: not a valid postgresql:// URL") from error

    def write(self, rows: Sequence[Row], table: str = "decisions") -> None:
        storable = [[_storable(value) for value in row] for row in rows]
        try:
            connection = self._open()
            with connection.transaction(), connection.cursor() as cursor, cursor.copy(_COPY[table]) as copy:
                for row in storable:
                    copy.write_row(row)
        except (self._psycopg.DataError, self._psycopg.IntegrityError) as error:
            raise RowRefused(type(error).__name__) from error  # its words would quote the value
        except self._psycopg.Error as error:
            self.close()
            raise DatabaseDown(_describe(error)) from error

    def trim(self, oldest_at: float | None, max_rows: int) -> None:
        try:
            connection = self._open()
            with connection.transaction():
                if oldest_at is not None:
                    for table in TABLES:
                        connection.execute(f"DELETE FROM {table} WHERE at < %s", (oldest_at,))
                for table in TABLES if max_rows else ():
                    connection.execute(_TRIM.format(table=table), (max_rows - 1,))
        except self._psycopg.Error as error:
            self.close()
            raise DatabaseDown(_describe(error)) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> Any:
        if self._connection is None:
            connection = self._psycopg.connect(self._url, autocommit=True, **_OPTIONS)
            try:
                with connection.transaction():
                    # several workers start at once, and CREATE TABLE IF NOT EXISTS alone would race
                    connection.execute("SELECT pg_advisory_xact_lock(7421)")
                    for statement in create_statements():
                        connection.execute(statement)
                    for table in TABLES:
                        there = {name for (name,) in connection.execute(_THERE, (table,))}
                        for statement in missing_columns(table, there):
                            connection.execute(statement)
            except self._psycopg.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def _storable(value: object) -> object:
    """PostgreSQL's text holds no NUL and no lone surrogate. Raises `RowRefused` for what no column holds."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if not isinstance(value, int | float | None):
        raise RowRefused(f"a value of type {type(value).__name__}")
    return value


def _describe(error: Exception) -> str:
    """The kind of failure and its first line, which names no password."""
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first}"

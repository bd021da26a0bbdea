"""Prompts from the proxy's decision log: what your own users ask.

The log keeps text only by opt-in (`log.store_text`), so a log without text is refused with that setting's
name rather than read as empty. A conversation is stored as the one text the scorers saw and is asked as that;
the manifest counts them. Read-only: the proxy may go on writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from routing.errors import ExamplesError, SettingsError
from trainer.table_file import Row

SCHEMES = ("sqlite:", "postgresql:", "postgres:")
_COUNT = "SELECT COUNT(*), COUNT(prompt) FROM decisions"
# The first time each text was seen, oldest first: the same rows in the same order however the log has grown.
_SELECT = (
    "SELECT prompt, MIN(at) AS first_at FROM decisions "
    "WHERE prompt IS NOT NULL AND outcome IN ('ok', 'degraded') GROUP BY prompt ORDER BY first_at, prompt"
)


def read_log(url: str) -> Iterator[tuple[str, Row]]:
    """Each text of the log once, with the place it comes from. Raises `SettingsError` for a URL that cannot
    be used, `ExamplesError` for a log that cannot be read or keeps no text."""
    if url.startswith("sqlite:"):
        counts, rows = _read_sqlite(url)
    else:
        counts, rows = _read_postgres(url)
    total, with_text = counts
    name = url.rpartition("@")[2]
    if not with_text:
        raise ExamplesError(
            f"{name}: {total} requests and no text of any; the proxy keeps text only with "
            "`store_text: true` in section `log` of its configuration"
        )
    for number, (prompt, _) in enumerate(rows, start=1):
        yield f"{name}, prompt {number}", {"prompt": prompt}


def _read_sqlite(url: str) -> tuple[Any, Sequence[Any]]:
    path = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not path.name:
        raise SettingsError(f"{url!r} is not sqlite:///PATH")
    if not path.is_file():
        raise ExamplesError(f"{path} does not exist")
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
        try:
            return database.execute(_COUNT).fetchone(), database.execute(_SELECT).fetchall()
        finally:
            database.close()
    except sqlite3.Error as exc:
        raise ExamplesError(f"{path} cannot be read as a decision log: {exc}") from exc


def _read_postgres(url: str) -> tuple[Any, Sequence[Any]]:
    try:
        import psycopg
    except ModuleNotFoundError as exc:
        raise SettingsError("a PostgreSQL log needs psycopg: pip install 'upshift[postgres]'") from exc
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            connection.read_only = True
            counts = connection.execute(_COUNT).fetchone()
            return counts, connection.execute(_SELECT).fetchall()
    except psycopg.Error as exc:
        first = str(exc).strip().partition("\n")[0]
        raise ExamplesError(f"{url.rpartition('@')[2]} cannot be read as a decision log: {first}") from exc

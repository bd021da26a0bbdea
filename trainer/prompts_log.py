"""Prompts from the proxy's decision log: what your own users ask.

The log keeps text only by opt-in (`log.store_text`), so a log without text is refused with that setting's
name rather than read as empty. A conversation is stored as the one text the scorers saw and is asked as that;
the manifest counts them. Read-only: the proxy may go on writing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from routing.errors import ExamplesError
from trainer.log_database import SCHEMES, public_name, read_all
from trainer.table_file import Row

_COUNT = "SELECT COUNT(*), COUNT(prompt) FROM decisions WHERE at >= ?"
# The first time each text was seen, oldest first: the same rows in the same order however the log has grown.
_SELECT = (
    "SELECT prompt, MIN(at) AS first_at FROM decisions "
    "WHERE at >= ? AND prompt IS NOT NULL AND outcome IN ('ok', 'degraded') "
    "GROUP BY prompt ORDER BY first_at, prompt"
)


def read_log(url: str, days: float = 0.0) -> Iterator[tuple[str, Row]]:
    """Each text of the log's last `days` (0: of all) once, with the place it comes from. Raises
    `SettingsError` for a URL that cannot be used, `ExamplesError` for a log that cannot be read or
    keeps no text."""
    since = time.time() - days * 86_400 if days else 0.0
    ((total, with_text),), rows = read_all(url, [(_COUNT, (since,)), (_SELECT, (since,))])
    name = public_name(url)
    if not with_text:
        raise ExamplesError(
            f"{name}: {total} requests and no text of any; the proxy keeps text only with "
            "`store_text: true` in section `log` of its configuration"
        )
    for number, (prompt, _) in enumerate(rows, start=1):
        yield f"{name}, prompt {number}", {"prompt": prompt}


__all__ = ["SCHEMES", "read_log"]

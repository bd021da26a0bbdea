"""The threshold that an operator has put in force at runtime, the same for all workers at once.

It stands in shared memory as three numbers: which policy and strategy it is for, the threshold, and since
when. A request reads them (a tenth of a microsecond); a point of another bundle or strategy is as good as
none. It lasts until a reload or the end of the server: what is to stay belongs into the configuration.
"""

from __future__ import annotations

import hashlib
import struct
import time
from typing import NamedTuple

from proxy.shared_memory import map_shared

_CELLS = struct.Struct("<Qdd")  # mark (0: none), threshold, since


class Moved(NamedTuple):
    """A point in force: `since` in seconds since the epoch."""

    threshold: float
    since: float


class OperatingPoint:
    """One a server."""

    def __init__(self) -> None:
        """Raises `OSError`."""
        self._cells = map_shared("operating-point", _CELLS.size)
        self._marks: dict[tuple[str, str], int] = {}

    def read(self, version: str, strategy: str) -> Moved | None:
        """What is in force for this policy and strategy; None: what the configuration and the bundle say."""
        mark, threshold, since = _CELLS.unpack_from(self._cells, 0)
        if not mark or mark != self._mark(version, strategy):
            return None
        return Moved(threshold, since)

    def set(self, version: str, strategy: str, threshold: float) -> None:
        """Put it in force; every worker's next request is decided by it."""
        self.clear()
        _CELLS.pack_into(self._cells, 0, 0, threshold, time.time())
        struct.pack_into("<Q", self._cells, 0, self._mark(version, strategy))  # last: it makes the rest count

    def clear(self) -> None:
        """Back to what the configuration and the bundle say."""
        struct.pack_into("<Q", self._cells, 0, 0)

    def close(self) -> None:
        self._cells.close()

    def _mark(self, version: str, strategy: str) -> int:
        mark = self._marks.get((version, strategy))
        if mark is None:
            text = f"{version}\n{strategy}".encode()
            mark = int.from_bytes(hashlib.sha256(text).digest()[:8], "little") | 1
            self._marks = {(version, strategy): mark, **dict(list(self._marks.items())[:7])}
        return mark

"""What keys have used on this host, counted by all of its processes without a lock and without Redis.

One memory-mapped file a key, with a row of numbers for each process. A process writes only its own row and
adds up all of them to know the whole, so nothing has to be locked: a worker that is killed or stopped in the
middle can hold up no other, and costs nothing but the sum of a few numbers. The price: two processes that
admit at the same microsecond may both take a key's last request. SQLite would have been exact, at a
transaction a request in the event loop. The files survive the processes; a folder that stays
(`auth.usage_dir`) makes limits hold over a restart.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TypeAlias

from proxy.auth import ApiKey
from proxy.limits import Used, check_limits, clock, day_of, minute_of, month_of
from proxy.shared_memory import ROWS, claim_file, map_file
from routing.errors import SettingsError
from routing.protocols import Clock

_log = logging.getLogger("upshift.auth")
USAGE_DIR = "UPSHIFT_USAGE_DIR"  # where a supervisor or predecessor counts
_FIELDS = 9
_MINUTE, _REQUESTS, _REQUESTS_BEFORE, _TOKENS, _TOKENS_BEFORE, _DAY, _USD_DAY, _MONTH, _USD_MONTH = range(9)
_ROW_BYTES = 8 * _FIELDS
Cells: TypeAlias = "memoryview[float]"
_NO_CELLS: Cells = memoryview(bytearray(8)).cast("d")


class LocalMeter:
    """`proxy.limits.Meter` over the files of one folder; `folder` None: one of its own, for its own time."""

    def __init__(self, folder: Path | None, now: Clock = clock) -> None:
        """`now` gives seconds since the epoch. Raises `SettingsError` for a folder that cannot be used."""
        named = folder or os.environ.get(USAGE_DIR)
        self._folder = Path(named) if named else None
        self._own_folder: tempfile.TemporaryDirectory[str] | None = None
        self._now = now
        self._maps: dict[str, Cells] = {}
        self._row, self._lock, self._highest = -1, -1, _NO_CELLS
        if self._folder is not None:
            self._open(self._folder)

    async def admit(self, key: ApiKey) -> Used:
        return self.admit_now(key)

    def admit_now(self, key: ApiKey) -> Used:
        """Count one request and tell what had been used before. Raises `ApiError` 429."""
        now = self._now()
        used = self.used(key)
        check_limits(key, used, now)
        self._own(key, now)[_REQUESTS] += 1
        return used

    def charge(self, key: ApiKey, tokens: int, usd: float) -> None:
        row = self._own(key, self._now())
        row[_TOKENS] += tokens
        row[_USD_DAY] += usd
        row[_USD_MONTH] += usd

    def used(self, key: ApiKey) -> Used:
        """What all processes have counted."""
        cells, now = self._cells(key), self._now()
        minute, day, month = minute_of(now), day_of(now), month_of(now)
        out = Used()
        for base in range(0, (int(self._highest[0]) + 1) * _FIELDS, _FIELDS):
            age = minute - cells[base + _MINUTE]
            if age == 0:
                out.requests += cells[base + _REQUESTS]
                out.tokens += cells[base + _TOKENS]
                out.requests_before += cells[base + _REQUESTS_BEFORE]
                out.tokens_before += cells[base + _TOKENS_BEFORE]
            elif age == 1:
                out.requests_before += cells[base + _REQUESTS]
                out.tokens_before += cells[base + _TOKENS]
            if cells[base + _DAY] == day:
                out.usd_day += cells[base + _USD_DAY]
            if cells[base + _MONTH] == month:
                out.usd_month += cells[base + _USD_MONTH]
        return out

    async def close(self) -> None:
        for cells in self._maps.values():
            cells.release()
        self._maps.clear()
        if self._lock >= 0:
            self._highest.release()
            os.close(self._lock)
            self._lock = -1
        if self._own_folder is not None:
            self._own_folder.cleanup()

    def _open(self, folder: Path) -> None:
        """Take a row in it. Raises `SettingsError`."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._row, self._lock = _claim_row(folder)
            self._highest = _map(folder / "rows", 8)
        except OSError as error:
            raise SettingsError(f"auth.usage_dir: {folder} cannot be used: {error.strerror}") from error
        self._highest[0] = max(self._highest[0], float(self._row))

    def _own(self, key: ApiKey, now: float) -> Cells:
        """This process's row, turned to the present."""
        row = self._cells(key)[self._row * _FIELDS : (self._row + 1) * _FIELDS]
        minute, day, month = minute_of(now), day_of(now), month_of(now)
        if row[_MINUTE] != minute:
            follows = row[_MINUTE] == minute - 1
            row[_REQUESTS_BEFORE] = row[_REQUESTS] if follows else 0.0
            row[_TOKENS_BEFORE] = row[_TOKENS] if follows else 0.0
            row[_REQUESTS] = row[_TOKENS] = 0.0
            row[_MINUTE] = minute
        if row[_DAY] != day:
            row[_USD_DAY], row[_DAY] = 0.0, day
        if row[_MONTH] != month:
            row[_USD_MONTH], row[_MONTH] = 0.0, month
        return row

    def _cells(self, key: ApiKey) -> Cells:
        cells = self._maps.get(key.id)
        if cells is None:
            if self._folder is None:
                self._own_folder = tempfile.TemporaryDirectory(prefix="upshift-usage-")
                self._folder = Path(self._own_folder.name)
                self._open(self._folder)
            name = hashlib.sha256(key.id.encode()).hexdigest()[:32]
            cells = self._maps[key.id] = _map(self._folder / f"{name}.used", ROWS * _ROW_BYTES)
        return cells


def _map(file: Path, size: int) -> Cells:
    """A file's bytes as float64 numbers, shared with everyone who maps it."""
    return memoryview(map_file(file, size)).cast("d")


def _claim_row(folder: Path) -> tuple[int, int]:
    """The first row that no living process has, and the lock that holds it."""
    claimed = claim_file(folder, "row-{}.lock")
    if claimed is None:
        raise SettingsError(f"auth.usage_dir: more than {ROWS} processes count in {folder}")
    return claimed

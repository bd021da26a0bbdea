"""The journal: every finished row of a stage, on disk before the next is asked for.

A jsonl file beside the artifact. Its first line says with what settings the rows were made; every other line
is one entry with a `key` (what was asked), and the answer or the reason why there is none. A line is handed
to the kernel at once, so SIGKILL loses nothing that was finished, and synced to the disk in small batches, so
a power cut loses at most a second or 64 rows. A line that a cut left torn is cut off on opening.

It is kept after the artifact is published: it is what was paid for, and what a larger run goes on from.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from routing.errors import StageError

SUFFIX = ".journal.jsonl"
SYNC_ROWS, SYNC_INTERVAL_S = 64, 1.0
Key = tuple[str | int, ...]
Entry = dict[str, Any]


class Journal:
    """`entries` by key, the last one of a key counting. `settings` are what makes answers comparable: a
    journal that was begun with others is refused, naming the difference. Hold the artifact's lock."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.entries: dict[Key, Entry] = {}
        self._path = path
        self._unsynced = 0
        self._synced_at = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        except OSError as exc:
            raise StageError(f"{path} cannot be written: {exc}") from exc
        try:
            self._load(json.loads(json.dumps(settings)))
        except BaseException:
            self._file.close()
            raise

    def append(self, entry: Entry) -> None:
        """Keep an entry. Raises `StageError` when the disk refuses (what was kept so far stays)."""
        self._write(entry)
        self.entries[_key(entry)] = entry
        self._unsynced += 1
        now = time.monotonic()
        if self._unsynced >= SYNC_ROWS or now - self._synced_at >= SYNC_INTERVAL_S:
            os.fsync(self._file.fileno())
            self._unsynced, self._synced_at = 0, now

    def forget(self, keys: list[Key]) -> None:
        """Take entries back: the next run asks again."""
        if keys:
            self._write({"forget": keys})
        for key in keys:
            self.entries.pop(key, None)

    def close(self) -> None:
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        try:
            written = self._file.write(line)
            while written is not None and written < len(line):  # a raw file may take a part
                line = line[written:]
                written = self._file.write(line)
        except OSError as exc:
            raise StageError(f"{self._path} cannot be written: {exc}") from exc

    def _load(self, settings: Mapping[str, Any]) -> None:
        whole = 0
        for number, line in enumerate(self._file.readall().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break
            self._take(number, line, settings)
            whole += len(line)
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._write({"settings": settings})

    def _take(self, number: int, line: bytes, settings: Mapping[str, Any]) -> None:
        try:
            value = json.loads(line)
            if number == 1:
                self._compare(value["settings"], settings)
            elif "forget" in value:
                for key in value["forget"]:
                    self.entries.pop(tuple(key), None)
            else:
                self.entries[_key(value)] = value
        except (ValueError, KeyError, TypeError) as exc:
            raise StageError(
                f"{self._path}, line {number} is damaged ({type(exc).__name__}: {exc}); "
                "delete that line, or the file to begin again"
            ) from exc

    def _compare(self, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for name in sorted({*begun, *now}):
            if begun.get(name) != now.get(name):
                raise StageError(
                    f"{self._path} was begun with {name} {begun.get(name)!r}, "
                    f"this run has {now.get(name)!r}; use the same, write to another file, "
                    "or delete the journal to begin again"
                )


def _key(entry: Mapping[str, Any]) -> Key:
    return tuple(entry["key"])

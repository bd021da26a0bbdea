"""Memory that all workers of one server see, for figures that are no metric: no lock, no daemon.

Where a supervisor keeps a folder for its workers (the one of their metrics) it is a file of that folder,
mapped by each; a server of one process has it to itself. A process writes only what is its own, or what one
operator writes at a time; readers check what they read, since nothing is locked.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
ROWS = 320  # processes at a time: 256 workers, and those that take over from them


def shared_folder() -> Path | None:
    """The folder of a supervisor's workers; None: this process is alone."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else None


def map_shared(name: str, size: int) -> mmap.mmap:
    """`size` bytes under `name`, zeroes at first. Raises `OSError`."""
    folder = shared_folder()
    if folder is None:
        return mmap.mmap(-1, size)
    return map_file(folder / name, size)


def map_file(file: Path, size: int) -> mmap.mmap:
    """At least `size` bytes of a file, shared with everyone who maps it. Raises `OSError`."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        return _map(descriptor, size)
    finally:
        os.close(descriptor)


def claim_file(folder: Path, pattern: str) -> tuple[int, int] | None:
    """The first number whose file no living process holds, and the descriptor that holds it; None: no more.

    `pattern` is the file's name with `{}` for the number. The kernel frees a dead process's. Raises
    `OSError`.
    """
    for number in range(ROWS):
        descriptor = os.open(folder / pattern.format(number), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return number, descriptor
    return None


class OwnRow:
    """A mapped file that this process alone writes, out of a numbered family that everyone may read.

    The kernel frees the row of a process that dies, with what it wrote; the next process goes on in it.
    """

    def __init__(self, name: str, size: int) -> None:
        """Raises `OSError` when no row can be had."""
        self._name, self._size = name, size
        self._lock = -1
        self._others: dict[int, mmap.mmap] = {}
        self.number = 0
        folder = shared_folder()
        self.bytes = mmap.mmap(-1, size) if folder is None else self._claim(folder)

    def all(self) -> list[tuple[int, mmap.mmap]]:
        """Every row that was ever written, with its number."""
        folder = shared_folder()
        if folder is None:
            return [(self.number, self.bytes)]
        for number in range(ROWS):
            if number in self._others or number == self.number:
                continue
            try:
                descriptor = os.open(folder / f"{self._name}-{number}.row", os.O_RDWR)
            except FileNotFoundError:  # rows are taken from the first on: there are no more
                break
            try:
                if os.fstat(descriptor).st_size >= self._size:  # else it is just being made
                    self._others[number] = mmap.mmap(descriptor, self._size)
            finally:
                os.close(descriptor)
        return sorted([(self.number, self.bytes), *self._others.items()])

    def close(self) -> None:
        for mapped in (self.bytes, *self._others.values()):
            mapped.close()
        self._others.clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _claim(self, folder: Path) -> mmap.mmap:
        claimed = claim_file(folder, self._name + "-{}.row")
        if claimed is None:
            raise OSError(f"more than {ROWS} processes share {folder}")
        self.number, self._lock = claimed
        return _map(self._lock, self._size)


def _map(descriptor: int, size: int) -> mmap.mmap:
    if os.fstat(descriptor).st_size < size:
        os.ftruncate(descriptor, size)
    return mmap.mmap(descriptor, size)

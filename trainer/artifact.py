"""Artifacts of the trainer's stages: written whole or not at all, and by one run at a time.

A file appears under its name only when every byte of it is on disk (written beside it, fsync, renamed, the
folder fsynced), so a kill leaves the old artifact or none. `hold` takes a lock that the kernel gives back
when its process dies, however it dies: no stale lock file has ever to be deleted by hand.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from routing.errors import StageError


def beside(artifact: Path, suffix: str) -> Path:
    """A companion's path: `answers.parquet` and `.manifest.json` -> `answers.parquet.manifest.json`."""
    return artifact.with_name(artifact.name + suffix)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically and durably. Raises `StageError` when the disk refuses."""
    draft = path.with_name(f".{path.name}.partial")  # the same each time: a kill leaves one at most
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
    except OSError as exc:
        with suppress(OSError):  # what stands in the way of the draft stands in the way of its removal
            draft.unlink()
        raise StageError(f"{path} cannot be written: {exc}") from exc


def _sync_folder(folder: Path) -> None:
    """A rename is durable only once the folder that holds the name is."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def hold(artifact: Path) -> Iterator[None]:
    """Be the only process that works on `artifact`. Raises `StageError` naming the process that does."""
    path = beside(artifact, ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="ascii")
    except OSError as exc:
        raise StageError(f"{path} cannot be written: {exc}") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            file.seek(0)
            raise StageError(
                f"{artifact} is being written by process {file.read().strip() or 'unknown'}; "
                "wait for it, end it, or write to another file"
            ) from exc
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield

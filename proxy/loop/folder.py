"""The folder where the workers of a host compare notes: no lock to wait for, nothing half-written.

    worker-PID-RANDOM.json   what that worker counted; written by it alone
    verdict-VERSION.json     what became of a version (its certificate, its trial); the last word counts
    snapshot.json            what all of it amounts to; written by the worker that leads
    leader.lock              held by that worker; the system lets go of it when the process dies

Every file is written beside its place and renamed. With `loop.state_dir` the folder stays over restarts, so a
bundle that was rolled back is not tried again; without it, it goes with the last process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from proxy.usage import USAGE_DIR
from routing.errors import SettingsError

_log = logging.getLogger("upshift.loop")
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,100}")


class LoopFolder:
    """One a worker process; a folder of its own is made when the first thing is written."""

    def __init__(self, state_dir: Path | None) -> None:
        """Raises `SettingsError` for a folder that cannot be used."""
        shared = os.environ.get(USAGE_DIR)  # of the supervisor or predecessor
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self._path = state_dir or (Path(shared) / "loop" if shared else None)
        self._worker = f"worker-{os.getpid()}-{os.urandom(3).hex()}.json"
        self._lock = -1
        self._leads = False
        if self._path is not None:
            try:
                self._path.mkdir(parents=True, exist_ok=True)
                (self._path / "leader.lock").touch()
            except OSError as error:
                raise SettingsError(
                    f"loop.state_dir: {self._path} cannot be used: {error.strerror}"
                ) from error

    @property
    def path(self) -> Path:
        """Where it is. Raises `OSError` when there can be none."""
        if self._path is None:
            self._own = tempfile.TemporaryDirectory(prefix="upshift-loop-")
            self._path = Path(self._own.name)
        return self._path

    def lead(self) -> bool:
        """Whether this worker leads: the first to ask does, until it ends. Raises `OSError`."""
        if self._lock < 0:
            self._lock = os.open(self.path / "leader.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not self._leads:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._leads = True
        return self._leads

    def write_worker(self, data: dict[str, Any]) -> None:
        """What this worker counted. Raises `OSError`."""
        _write(self.path / self._worker, data)

    def read_workers(self, within_s: float) -> list[dict[str, Any]]:
        """What every worker counted, also those that have ended; files older than that are removed."""
        found = []
        for path in self.path.glob("worker-*.json"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - within_s:
                    path.unlink()
                elif (data := _read(path)) is not None:
                    found.append(data)
        return found

    def write_snapshot(self, data: dict[str, Any]) -> None:
        """Raises `OSError`."""
        _write(self.path / "snapshot.json", data)

    def read_snapshot(self) -> dict[str, Any] | None:
        return _read(self.path / "snapshot.json")

    def write_verdict(self, version: str, **changes: Any) -> dict[str, Any]:
        """Add to what became of a version. Raises `OSError`."""
        verdict = {**self.read_verdict(version), **changes}
        if _VERSION.fullmatch(version):
            _write(self.path / f"verdict-{version}.json", verdict)
        return verdict

    def read_verdict(self, version: str) -> dict[str, Any]:
        """Empty where nothing has been said."""
        if self._path is None or not _VERSION.fullmatch(version):
            return {}
        return _read(self._path / f"verdict-{version}.json") or {}

    def close(self) -> None:
        """Let go of the lead, and of a folder of one's own. What was counted stays for the others."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock, self._leads = -1, False
        if self._own is not None:
            self._own.cleanup()


def _write(path: Path, data: dict[str, Any]) -> None:
    draft = path.with_suffix(f".{os.getpid()}.new")
    draft.write_text(json.dumps(data), encoding="utf-8")
    draft.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    """None for a file that is not there or holds something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return None
    return data if isinstance(data, dict) else None

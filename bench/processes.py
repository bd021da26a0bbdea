"""Servers of a benchmark as child processes: started on a free port, awaited until ready, ended, log kept."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

POLL_S = 0.1
STOP_TIMEOUT_S = 10.0
REPOSITORY = Path(__file__).resolve().parent.parent
BUNDLE = REPOSITORY / "demo/bundle"  # what is served where no other is named


def pick_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """`python -m MODULE ARGUMENTS --port PORT` in a process group of its own; use as a context manager."""

    def __init__(
        self, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        port = pick_port()
        self.origin = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.origin}/v1"
        self._log = log
        self._file = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, "--port", str(port)],
            env={**os.environ, **(environment or {})},
            cwd=REPOSITORY,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, path: str, timeout_s: float = 120.0) -> None:
        """Until GET `path` answers 200. Raises `RuntimeError` with the end of the log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"ended with {self._process.returncode} before it was ready\n{self._tail()}"
                )
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
                urllib.request.urlopen(self.origin + path, timeout=2.0) as reply,
            ):
                if reply.status == 200:
                    return
            time.sleep(POLL_S)
        raise RuntimeError(f"not ready at {self.origin}{path} after {timeout_s:.0f} s\n{self._tail()}")

    def stop(self) -> None:
        """Ask, wait, then insist. Safe to call twice."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_TIMEOUT_S)
        self._file.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tail(self, characters: int = 3000) -> str:
        return f"--- {self._log} ---\n{self._log.read_text(errors='replace')[-characters:]}"

"""Servers as child processes: started on a free port, awaited until ready, ended by process group, log kept.

Each child leads a process group of its own, because servers have children too (vLLM's engine, proxy workers).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

STOP_TIMEOUT_S = 15.0
POLL_S = 0.2


def pick_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """One running server; `base_url` ends in `/v1`, `model` is the id it serves (empty for the proxy)."""

    def __init__(
        self, command: Sequence[str], port: int, log: Path, environment: Mapping[str, str], model: str = ""
    ) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.origin}/v1"
        self.model = model
        self.log = log
        self._log_file = log.open("w")
        self._process = subprocess.Popen(
            list(command),
            env={**os.environ, **environment},
            cwd=log.parent,
            stdout=self._log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pair(self) -> str:
        """`URL#MODEL` as the proxy's command line takes it."""
        return f"{self.base_url}#{self.model}"

    def wait_ready(self, path: str, timeout_s: float) -> None:
        """Until GET `path` answers 200. Raises `RuntimeError` with the end of the log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"ended with {self._process.returncode} before it was ready\n{self.log_tail()}"
                )
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.origin + path, timeout=2.0).status_code == 200:
                    return
            time.sleep(POLL_S)
        raise RuntimeError(f"not ready at {self.origin}{path} after {timeout_s:.0f} s\n{self.log_tail()}")

    def stop(self) -> None:
        """Ask, wait, then insist. Safe to call twice."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        self._log_file.close()

    def log_tail(self, characters: int = 3000) -> str:
        """The end of what the server has printed."""
        return f"--- {self.log} ---\n{self.log.read_text(errors='replace')[-characters:]}"

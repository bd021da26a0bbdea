"""`upshift serve` as a process of its own, for what only a process can show: signals, exit codes, workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """One server; `log` is all it has said."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self._file = config.with_suffix(".log")

    async def start(self, *by: str, **options: Any) -> None:
        """Until it serves. `by`: a command that runs the one given after it, in the same process."""
        with self._file.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *by, sys.executable, "-m", "proxy.cli", "serve", "--config", str(self.config),
                stdout=out, stderr=out, cwd=_ROOT, start_new_session=True, **options,
            )  # fmt: skip
        await self.until(lambda: self.ready_lines >= 1 and bool(self.url))

    @property
    def log(self) -> str:
        return self._file.read_text()

    @property
    def url(self) -> str:
        found = re.search(r"listening on (http://[^\s\"]+)", self.log)
        return found[1] if found else ""

    @property
    def ready_lines(self) -> int:
        return self.log.count("Application startup complete")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def until(self, condition: Any, within_s: float = 120.0) -> None:
        end = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < end, f"it did not happen; the log:\n{self.log}"
            assert self.process.returncode is None or condition(), self.log
            await asyncio.sleep(0.02)

    async def end(self, within_s: float = 30.0) -> int:
        """SIGTERM, and the exit status."""
        self.signal(signal.SIGTERM)
        async with asyncio.timeout(within_s):
            return await self.process.wait()


def write_config(path: Path, urls: dict[str, str], **sections: Any) -> None:
    """A configuration of two tiers."""
    tiers = [{"name": name, "url": url, "model": f"{name}-model"} for name, url in urls.items()]
    server = {"port": 0, "shutdown_idle_s": 0.5, "shutdown_grace_s": 10.0, **sections.pop("server", {})}
    path.write_text(yaml.safe_dump({"bundle": "none", "tiers": tiers, "server": server, **sections}))


@contextlib.asynccontextmanager
async def server_process(config: Path, *by: str, **options: Any) -> AsyncIterator[ServerProcess]:
    """A server that serves, and whose whole process group is gone afterwards."""
    server = ServerProcess(config)
    try:
        await server.start(*by, **options)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        await server.process.wait()

"""One scorer process for the workers of a supervisor: started, replaced when it dies, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio.subprocess import Process
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from proxy.scorer_wire import SOCKET
from proxy.worker import LIFE_FD

_log = logging.getLogger("upshift")
_QUICK_DEATH_S = 10.0
_MAX_WAIT_S = 5.0
_STOP_S = 5.0


class ScorerKeeper:
    """`socket` is where it listens. While it is down workers fail open as configured."""

    def __init__(self, folder: Path, name: str, life_fd: int) -> None:
        """`folder` holds the socket and the metrics; `life_fd` closes when the supervisor has gone."""
        self._folder = folder
        self._life_fd = life_fd
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.socket = folder / f"{name}.sock"

    def start(self) -> None:
        """Begin; workers wait for it themselves. Safe to call again."""
        if self._keeping is None:
            self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """End it, by force after a while."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _keep(self) -> None:
        quick = 0
        while True:
            began = time.monotonic()
            environment = {
                **os.environ,
                SOCKET: str(self.socket),
                LIFE_FD: str(self._life_fd),
                "PROMETHEUS_MULTIPROC_DIR": str(self._folder),
            }
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxy.scorer_process", pass_fds=(self._life_fd,), env=environment
            )
            status = await process.wait()
            mark_process_dead(process.pid, str(self._folder))  # type: ignore[no-untyped-call]
            _log.error("the scorer process %d ended with status %d; another is started", process.pid, status)
            quick = quick + 1 if time.monotonic() - began < _QUICK_DEATH_S else 0
            if quick > 1:
                await asyncio.sleep(min(_MAX_WAIT_S, 0.1 * 2**quick))

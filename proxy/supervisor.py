"""Several workers on one listening socket: started, watched, replaced one by one, and stopped together.

The supervisor serves nothing itself. It binds the socket and hands it to every worker, so that a worker can
be replaced while connections wait in one queue. A worker that dies is started again, at first at once and
then with growing waits. New settings are tried in a process of their own first (`proxy.settings_trial`): what
cannot be used reaches no worker, and every worker that starts later too finds those in force. Where a bundle
is served, one more process holds its scorers for all of them (`proxy.scorer_process`). Metrics of all workers
lie in memory-mapped files in one folder, which every worker adds up; the gauges of a dead one are taken out
here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from proxy.scorer_keeper import ScorerKeeper
from proxy.scorer_wire import SOCKET
from proxy.server import COLD_START, LISTEN_FD, READY_FD, SUPERVISOR_PID, hear_ready
from proxy.settings import Settings
from proxy.starter import wants_scorers
from proxy.usage import USAGE_DIR
from proxy.worker import LIFE_FD, SETTINGS_FILE
from routing.errors import SettingsError, UpshiftError

_log = logging.getLogger("upshift")
_START_S = 120.0
_MARGIN_S = 10.0  # beyond the grace, before a worker is killed
_QUICK_DEATH_S = 10.0
_MAX_WAIT_S = 5.0


class Worker:
    """One worker process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.started = time.monotonic()
        self.leaving = False  # it was asked to stop; it is not replaced when it ends
        self.serving = False  # until then SIGHUP would end it

    def ask_to_stop(self) -> None:
        """SIGTERM, once."""
        self.leaving = True
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)


class Supervisor:
    """See the module. `reread` gives the settings anew on SIGHUP."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        reread: Callable[[], Settings] | None = None,
    ) -> None:
        self._settings = settings
        self._sockets = list(sockets)
        self._reread = reread or (lambda: settings)
        self._folder = Path(tempfile.mkdtemp(prefix="upshift-"))
        self._file = self._folder / "settings.json"
        self._workers: set[Worker] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._stopping = asyncio.Event()
        self._rolling = asyncio.Lock()
        self._reloading = asyncio.Lock()
        self._reloads = 0
        self._life_read, self._life_write = os.pipe()
        self._keepers: list[ScorerKeeper] = []  # the last one is for new workers
        self._deaths = 0
        self._serving = False

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; the exit status. Raises `SettingsError` when no worker starts."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self._reload()))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._begin(self._roll()))
        self._write_settings()
        self._keep_scorers()
        try:
            started = await asyncio.gather(*(self._start() for _ in range(self._settings.server.workers)))
            if not all(started) and not self._stopping.is_set():
                raise SettingsError("a worker did not start; the lines above say why")
            host, port = self._sockets[0].getsockname()[:2]
            scheme = "http" if self._settings.server.tls_cert is None else "https"
            _log.info("listening on %s://%s:%d with %d workers", scheme, host, port, len(self._workers))
            self._serving = True
            await self._stopping.wait()
            return 0
        finally:
            await self._stop()

    def _write_settings(self) -> None:
        draft = self._draft(self._settings)
        draft.replace(self._file)  # a worker that starts now reads the old file or the new one, never half

    def _draft(self, settings: Settings) -> Path:
        draft = self._file.with_suffix(".new")
        draft.write_text(settings.model_dump_json(), encoding="utf-8")
        return draft

    def _keep_scorers(self, anew: bool = False) -> None:
        """One scorer process where there is a bundle; `anew`: another one, for the workers of a roll."""
        if not self._settings.server.share_scorers or not wants_scorers(self._settings):
            return
        if anew or not self._keepers:
            name = f"scorers-{time.monotonic_ns()}"
            self._keepers.append(ScorerKeeper(self._folder, name, self._life_read))
            self._keepers[-1].start()

    async def _start(self) -> Worker | None:
        """A worker that serves, or None."""
        heard, said = os.pipe()
        os.set_blocking(heard, False)
        listen = [each.fileno() for each in self._sockets]
        environment = {
            **os.environ,
            LISTEN_FD: ",".join(map(str, listen)),
            READY_FD: str(said),
            LIFE_FD: str(self._life_read),
            SETTINGS_FILE: str(self._file),
            SUPERVISOR_PID: str(os.getpid()),
            "PROMETHEUS_MULTIPROC_DIR": str(self._folder),
            USAGE_DIR: str(self._folder / "usage"),
        }
        if self._keepers:
            environment[SOCKET] = str(self._keepers[-1].socket)
        if not self._serving:
            environment[COLD_START] = "1"
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxy.worker",
                pass_fds=(*listen, said, self._life_read), env=environment,
            )  # fmt: skip
        finally:
            os.close(said)
        worker, reloads = Worker(process), self._reloads
        self._workers.add(worker)
        self._begin(self._watch(worker))
        try:
            if await hear_ready(heard, _START_S):
                worker.serving = True
                if reloads != self._reloads:  # it may have read the settings before
                    worker.signal(signal.SIGHUP)
                return worker
        finally:
            os.close(heard)
        worker.leaving = True
        worker.signal(signal.SIGKILL)
        return None

    async def _watch(self, worker: Worker) -> None:
        """Wait for its end, take its gauges out, and put another in its place."""
        status = await worker.process.wait()
        self._workers.discard(worker)
        mark_process_dead(worker.process.pid, str(self._folder))  # type: ignore[no-untyped-call]
        if worker.leaving or self._stopping.is_set():
            return
        _log.error("worker %d ended with status %d; another is started", worker.process.pid, status)
        await self._replace(worker)

    async def _replace(self, dead: Worker) -> None:
        lived_s = time.monotonic() - dead.started
        while not self._stopping.is_set():
            self._deaths = self._deaths + 1 if lived_s < _QUICK_DEATH_S else 0
            if self._deaths > 1:
                await asyncio.sleep(min(_MAX_WAIT_S, 0.1 * 2**self._deaths))
            lived_s = 0.0
            if await self._start() is not None:
                return

    async def _reload(self) -> None:
        """SIGHUP: new settings for every worker, or for none."""
        async with self._reloading:
            try:
                settings = await asyncio.to_thread(self._reread)
            except UpshiftError as error:
                _log.error("reload refused, the configuration in force stays: %s", error)
                return
            if not await self._try(settings):
                _log.error("reload refused, the configuration in force stays: the line above says why")
                return
            self._settings = settings
            self._write_settings()
            self._reloads += 1
            for worker in self._workers:
                if worker.serving:
                    worker.signal(signal.SIGHUP)

    async def _try(self, settings: Settings) -> bool:
        """Whether a process of its own can do with them what a worker would."""
        own = ("PROMETHEUS_MULTIPROC_DIR", USAGE_DIR, LISTEN_FD, READY_FD)
        environment = {
            **{name: value for name, value in os.environ.items() if name not in own},
            SETTINGS_FILE: str(self._draft(settings)),
            LIFE_FD: str(self._life_read),
        }
        if self._keepers:
            environment[SOCKET] = str(self._keepers[-1].socket)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy.settings_trial", pass_fds=(self._life_read,), env=environment
        )
        try:
            async with asyncio.timeout(_START_S):
                return await process.wait() == 0
        except TimeoutError:
            _log.error("the new settings were not tried to their end within %g s", _START_S)
            return False
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _roll(self) -> None:
        """SIGUSR2: every worker is replaced by a new process, which serves before the old one stops."""
        async with self._rolling:
            before = list(self._keepers)
            self._keep_scorers(anew=True)
            for old in list(self._workers):
                if self._stopping.is_set():
                    return
                if await self._start() is None:
                    _log.error("rolling restart stopped: a new worker did not start; the old ones go on")
                    return
                old.ask_to_stop()
                await old.process.wait()
            for keeper in before:
                self._keepers.remove(keeper)
                await keeper.stop()
            _log.info("rolling restart done: %d new workers", len(self._workers))

    def _begin(self, chore: object) -> None:
        assert asyncio.iscoroutine(chore)
        task = asyncio.get_running_loop().create_task(chore)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self) -> None:
        """Ask all workers, wait for the grace and a margin, then kill; leave nothing behind."""
        self._stopping.set()
        for listening in self._sockets:
            listening.close()
        for worker in list(self._workers):
            worker.ask_to_stop()
        grace_s = self._settings.server.shutdown_grace_s
        ends = [asyncio.ensure_future(worker.process.wait()) for worker in self._workers]
        if ends:
            await asyncio.wait(ends, timeout=grace_s + _MARGIN_S if grace_s else None)
        for worker in list(self._workers):
            worker.signal(signal.SIGKILL)
            await worker.process.wait()
        for keeper in self._keepers:
            await keeper.stop()
        for task in list(self._tasks):
            task.cancel()
        for fd in (self._life_read, self._life_write):
            os.close(fd)
        shutil.rmtree(self._folder, ignore_errors=True)

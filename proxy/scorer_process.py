"""One scorer process for all workers: `python -m proxy.scorer_process`, started by `proxy.supervisor`.

The weights are in memory once, texts of all workers meet in one batch, and the encoder's threads do not fight
those of another copy. It knows nothing of requests: bundles are opened by the workers that use them and given
up when the last of these has gone, so a reload needs no word to this process.

A death costs no request more than its fail-open answer: the supervisor starts another, workers come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import uvloop
from prometheus_client import CollectorRegistry

from proxy.bundle_scorers import BundleOnDuty, load_bundle
from proxy.heap import settle_heap
from proxy.log_lines import configure_logging
from proxy.scorer_metrics import ScorerMetrics
from proxy.scorer_wire import SOCKET, Ask, Leave, Open, Reply, frame_of, read_request
from proxy.settings import RoutingSettings
from proxy.worker import LIFE_FD, outlive_nobody
from routing.errors import BundleError, UpshiftError
from routing.signals import Signals

_log = logging.getLogger("upshift")
_CACHE = "shared_prompt_scores"


@dataclass(slots=True)
class _Loaded:
    """A bundle and how many connections use it."""

    scorers: asyncio.Task[BundleOnDuty]
    users: int = 0


class ScorerProcess:
    """Serves `proxy.scorer_wire` on a Unix socket."""

    def __init__(self, metrics: ScorerMetrics) -> None:
        self._metrics = metrics
        self._bundles: dict[tuple[str, str], _Loaded] = {}

    async def serve(self, socket: Path) -> None:
        """Until cancelled. A socket that a dead process left is replaced."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(socket)
        async with await asyncio.start_unix_server(self._converse, str(socket)) as server:
            await server.serve_forever()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One worker's connection, to its end."""
        try:
            opened = await read_request(reader)
            if not isinstance(opened, Open):
                return
            async with self._using(opened) as loaded:
                try:
                    scorers = await asyncio.shield(loaded.scorers)
                except UpshiftError as error:
                    writer.write(frame_of(Reply(0, error=str(error))))
                    await writer.drain()
                    return
                writer.write(frame_of(Reply(0)))
                await self._answer(scorers, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            return  # the worker has gone
        except msgspec.DecodeError as error:
            _log.error("a worker speaks another protocol: %s", error)
        finally:
            writer.close()

    async def _answer(
        self, scorers: BundleOnDuty, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Each question a task of its own, so that they meet in a batch. Raises as `read_request`."""
        running: dict[int, asyncio.Task[None]] = {}
        try:
            while True:
                request = await read_request(reader)
                if isinstance(request, Leave):
                    if (left := running.pop(request.number, None)) is not None:
                        left.cancel()
                elif isinstance(request, Ask):
                    task = asyncio.get_running_loop().create_task(_score(scorers, request, writer))
                    running[request.number] = task
                    task.add_done_callback(partial(_forget, running, request.number))
                await writer.drain()
        finally:
            for task in list(running.values()):
                task.cancel()

    @contextlib.asynccontextmanager
    async def _using(self, opened: Open) -> AsyncIterator[_Loaded]:
        """The bundle, loaded once for all who use it and closed after the last."""
        key = (opened.path, opened.version)
        loaded = self._bundles.get(key)
        if loaded is None:
            task = asyncio.get_running_loop().create_task(self._load(opened))
            loaded = self._bundles[key] = _Loaded(task)
        loaded.users += 1
        try:
            yield loaded
        finally:
            loaded.users -= 1
            if not loaded.users:
                del self._bundles[key]
                await _give_up(loaded.scorers)

    async def _load(self, opened: Open) -> BundleOnDuty:
        """Loaded and warm. Raises `UpshiftError`."""
        scorers = await asyncio.to_thread(load_bundle, Path(opened.path), RoutingSettings())
        try:
            if scorers.policy.version != opened.version:
                raise BundleError(
                    f"{opened.path} holds version {scorers.policy.version}, a worker wants {opened.version}"
                )
            scorers.count(self._metrics, _CACHE)
            await scorers.warm()
            settle_heap()
        except UpshiftError:
            await scorers.close()
            raise
        return scorers


async def _score(scorers: BundleOnDuty, ask: Ask, writer: asyncio.StreamWriter) -> None:
    try:
        if ask.answer is None:
            signals = Signals()
            await scorers.read_prompt(ask.prompt, signals, ask.difficulty)
            assert signals.route_score is not None
            pair = (signals.route_score, signals.difficulty, signals.unfamiliar, signals.unjudged)
            reply = Reply(ask.number, pair)
        else:
            (adequate,) = await scorers.score_answers(ask.prompt, [ask.answer])
            reply = Reply(ask.number, adequate=adequate)
    except UpshiftError as error:
        reply = Reply(ask.number, error=str(error))
    writer.write(frame_of(reply))


def _forget(running: dict[int, asyncio.Task[None]], number: int, _: asyncio.Task[None]) -> None:
    running.pop(number, None)


async def _give_up(loading: asyncio.Task[BundleOnDuty]) -> None:
    with contextlib.suppress(UpshiftError):
        await (await loading).close()


async def _until_told(work: Coroutine[None, None, None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> int:
    """Until SIGTERM, or until the supervisor has gone; exit status 0."""
    configure_logging()
    threading.Thread(target=outlive_nobody, args=(int(os.environ[LIFE_FD]),), daemon=True).start()
    process = ScorerProcess(ScorerMetrics(CollectorRegistry()))
    uvloop.run(_until_told(process.serve(Path(os.environ[SOCKET]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

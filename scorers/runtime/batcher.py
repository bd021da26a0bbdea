"""Dynamic batching for asyncio: many requests, one encoder run, an event loop that never waits for it.

`submit` queues one item and awaits its result. A collector task takes what is there, waits at most
`max_wait_ms` for company, sorts by length so that a batch pads little, and runs the batch function in a
worker thread. While all of them work the next batch gathers, so under load nobody waits on the
timer; what waits when several are free is shared out among them.

A caller that is cancelled or times out leaves the queue at once; its item is skipped if the batch has
not begun. Deadlines are the caller's (`asyncio.timeout`). The queue is bounded: beyond it `BatcherFull`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from scorers.errors import BatcherClosed, BatcherFull, ScoringError, ScoringFailed

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    length: int
    arrived_s: float  # the event loop's clock
    future: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """One scorer behind one queue. Made inside a running event loop, or used first inside one."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        length: Callable[[Item], int] = lambda _item: 0,
        max_batch_rows: int = 16,
        max_wait_ms: float = 2.0,
        max_queue_rows: int = 1024,
        on_batch: Callable[[int], None] | None = None,
        workers: int = 1,
    ) -> None:
        """`run` gets 1..`max_batch_rows` items and returns as many results, in order; it runs in one of
        `workers` threads.

        `length` orders items into batches of similar length; `max_wait_ms` 0 means never wait for company;
        `on_batch` hears the size of each batch (a metric).
        """
        if max_batch_rows < 1 or max_queue_rows < 1 or workers < 1 or max_wait_ms < 0:
            raise ValueError(
                f"max_batch_rows {max_batch_rows}, max_queue_rows {max_queue_rows} and workers {workers} "
                f"must be at least 1, max_wait_ms {max_wait_ms} at least 0"
            )
        self._run = run
        self._length = length
        self._max_batch_rows = max_batch_rows
        self._max_wait_s = max_wait_ms / 1000
        self._max_queue_rows = max_queue_rows
        self._on_batch = on_batch
        self._waiting: list[_Waiting[Item, Result]] = []
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="upshift-scorer")
        self._workers = workers
        self._worker_idle = asyncio.Event()
        self._worker_idle.set()
        self._running: set[asyncio.Task[None]] = set()
        self._collector: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def queued_rows(self) -> int:
        return len(self._waiting)

    async def submit(self, item: Item) -> Result:
        """The result for one item. Raises `BatcherFull`, `BatcherClosed`, or what `run` raised
        (`ScoringError`)."""
        if self._closed:
            raise BatcherClosed("the scorer's batcher is closed")
        if len(self._waiting) >= self._max_queue_rows:
            raise BatcherFull(
                f"{len(self._waiting)} items wait for the scorer, the bound is {self._max_queue_rows}"
            )
        if self._collector is None:
            self._collector = asyncio.create_task(self._collect(), name="upshift-batcher")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(item, self._length(item), loop.time(), loop.create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            raise

    async def close(self) -> None:
        """Refuse new work, fail what waits, let the running batches end. Safe to call twice."""
        self._closed = True
        ending = [self._collector] if self._collector is not None else []
        for task in (*ending, *self._running):
            task.cancel()
        await asyncio.gather(*ending, *self._running, return_exceptions=True)
        for waiting in self._waiting:
            _fail(waiting, BatcherClosed("the scorer's batcher was closed"))
        self._waiting.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _collect(self) -> None:
        while True:
            await self._arrived.wait()
            if self._waiting and len(self._waiting) < self._max_batch_rows:
                age_s = asyncio.get_running_loop().time() - self._waiting[0].arrived_s
                if age_s < self._max_wait_s:
                    await asyncio.sleep(self._max_wait_s - age_s)
            await self._worker_idle.wait()
            batch = self._take()
            if batch:
                self._start(batch)
            if not self._waiting:
                self._arrived.clear()

    def _start(self, batch: list[_Waiting[Item, Result]]) -> None:
        task = asyncio.create_task(self._run_batch(batch), name="upshift-batch")
        self._running.add(task)
        if len(self._running) == self._workers:
            self._worker_idle.clear()
        task.add_done_callback(partial(self._done, batch))

    def _done(self, batch: list[_Waiting[Item, Result]], task: asyncio.Task[None]) -> None:
        if task.cancelled():  # perhaps before it had begun
            for waiting in batch:
                _fail(waiting, BatcherClosed("the scorer's batcher was closed"))
        self._running.discard(task)
        self._worker_idle.set()

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The oldest item and those nearest to it in length, an idle worker's share: nobody starves, and
        padding stays small."""
        self._waiting = [w for w in self._waiting if not w.future.done()]
        if not self._waiting:
            return []
        idle = self._workers - len(self._running)
        rows = min(self._max_batch_rows, -(-len(self._waiting) // idle))
        oldest = self._waiting[0].length
        near = sorted(
            range(len(self._waiting)), key=lambda i: (i != 0, abs(self._waiting[i].length - oldest), i)
        )
        taken = set(near[:rows])
        batch = [w for i, w in enumerate(self._waiting) if i in taken]
        self._waiting = [w for i, w in enumerate(self._waiting) if i not in taken]
        return batch

    async def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        if self._on_batch is not None:
            self._on_batch(len(batch))
        try:
            results = await loop.run_in_executor(self._executor, self._run, [w.item for w in batch])
            if len(results) != len(batch):
                raise ScoringFailed(f"the scorer gave {len(results)} results for {len(batch)} items")
        except Exception as exc:  # noqa: BLE001 - the edge of the worker thread: every waiter must hear of it
            error = exc if isinstance(exc, ScoringError) else ScoringFailed(f"the scorer failed: {exc!r}")
            for waiting in batch:
                _fail(waiting, error)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)


def _fail(waiting: _Waiting[Item, Result], error: ScoringError) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)

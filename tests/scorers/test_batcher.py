"""The batcher: batches form, callers may leave, the loop is never blocked, errors reach every waiter."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from scorers.errors import BatcherClosed, BatcherFull, ScoringFailed
from scorers.runtime.batcher import Batcher


class Doubler:
    """A scorer that doubles, slowly, and remembers its batches."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.seconds = seconds

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        return [2 * item for item in items]


async def test_concurrent_items_share_a_batch_and_keep_their_own_results() -> None:
    run = Doubler()
    batcher = Batcher(run, max_batch_rows=8, max_wait_ms=20)
    results = await asyncio.gather(*(batcher.submit(i) for i in range(8)))
    assert results == [2 * i for i in range(8)]
    assert run.batches == [list(range(8))]
    assert all(name.startswith("upshift-scorer") for name in run.threads)
    await batcher.close()


async def test_never_more_than_the_bound_in_a_batch() -> None:
    run = Doubler()
    batcher = Batcher(run, max_batch_rows=3, max_wait_ms=5)
    await asyncio.gather(*(batcher.submit(i) for i in range(10)))
    assert max(map(len, run.batches)) == 3
    await batcher.close()


async def test_batches_are_of_similar_length_and_the_oldest_goes_first() -> None:
    run = Doubler(0.02)
    batcher = Batcher(run, length=abs, max_batch_rows=2, max_wait_ms=5)
    await asyncio.gather(*(batcher.submit(i) for i in (1, 500, 2, 490)))
    assert run.batches == [[1, 2], [500, 490]]
    await batcher.close()


async def test_the_event_loop_goes_on_while_a_batch_runs() -> None:
    batcher = Batcher(Doubler(0.3), max_wait_ms=0)
    pending = asyncio.create_task(batcher.submit(1))
    ticks = 0
    while not pending.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks >= 10
    await batcher.close()


async def test_a_cancelled_caller_leaves_the_queue_and_others_are_served() -> None:
    run = Doubler(0.1)
    batcher = Batcher(run, max_batch_rows=1, max_wait_ms=0)
    first = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0.03)  # the first batch runs
    leaving, staying = asyncio.create_task(batcher.submit(2)), asyncio.create_task(batcher.submit(3))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == 6
    assert await first == 2
    assert run.batches == [[1], [3]]
    await batcher.close()


async def test_a_caller_with_a_deadline_gets_it() -> None:
    batcher = Batcher(Doubler(0.3))
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await batcher.submit(1)
    assert time.monotonic() - started < 0.25
    await batcher.close()


async def test_full_queue_is_refused() -> None:
    batcher = Batcher(Doubler(0.2), max_batch_rows=1, max_wait_ms=0, max_queue_rows=1)
    first = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0)
    with pytest.raises(BatcherFull, match="the bound is 1"):
        await batcher.submit(3)
    assert [await first, await second] == [2, 4]
    await batcher.close()


async def test_a_failure_reaches_every_waiter_and_the_batcher_survives() -> None:
    def run(items: Sequence[int]) -> list[int]:
        if 0 in items:
            raise ZeroDivisionError("zero")
        return list(items)

    batcher = Batcher(run, max_wait_ms=10)
    results = await asyncio.gather(batcher.submit(0), batcher.submit(1), return_exceptions=True)
    assert all(isinstance(result, ScoringFailed) for result in results)
    assert await batcher.submit(5) == 5
    await batcher.close()


async def test_idle_workers_share_what_waits() -> None:
    """Two batches run beside each other."""
    at_once = threading.Barrier(2, timeout=10)

    def run(items: Sequence[int]) -> list[int]:
        if items[0] < 4:
            at_once.wait()
        batches.append(list(items))
        return [2 * item for item in items]

    batches: list[list[int]] = []
    batcher = Batcher(run, max_wait_ms=5, workers=2)
    first = asyncio.gather(*(batcher.submit(i) for i in range(4)))
    await asyncio.sleep(0.03)
    assert await first == [0, 2, 4, 6]
    assert sorted(batches) == [[0, 1], [2, 3]]
    assert await batcher.submit(7) == 14
    await batcher.close()


async def test_a_wrong_number_of_results_is_a_failure() -> None:
    batcher: Batcher[int, int] = Batcher(lambda _items: [])
    with pytest.raises(ScoringFailed, match="0 results for 1 items"):
        await batcher.submit(1)
    await batcher.close()


async def test_close_fails_what_waits_and_refuses_more() -> None:
    batcher = Batcher(Doubler(0.1), max_batch_rows=1, max_wait_ms=0)
    tasks = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
    await asyncio.sleep(0.02)
    await batcher.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, BatcherClosed) for result in results)
    with pytest.raises(BatcherClosed):
        await batcher.submit(9)
    await batcher.close()


async def test_close_fails_a_batch_that_has_not_begun() -> None:
    run = Doubler()
    batcher = Batcher(run, max_wait_ms=0)
    waiting = asyncio.create_task(batcher.submit(1))
    for _ in range(20):  # turn by turn, to the one in which the batch is taken and its task has had none yet
        if batcher._running:
            break
        await asyncio.sleep(0)
    await batcher.close()
    with pytest.raises(BatcherClosed):
        await asyncio.wait_for(waiting, 5)
    assert run.batches == []


def test_settings_out_of_range_name_their_values() -> None:
    with pytest.raises(ValueError, match="max_batch_rows 0"):
        Batcher(Doubler(), max_batch_rows=0)
    with pytest.raises(ValueError, match="workers 0"):
        Batcher(Doubler(), workers=0)

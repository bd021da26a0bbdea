"""Many requests, a bounded number at a time, each finished one in the journal before the next is sent.

So a kill at any moment costs at most `concurrency` requests. A row that fails for good is journaled with its
reason, and not asked again by a resumed run unless that is wanted (`retry_failed`). When `GIVE_UP_ROWS` rows
of one model have failed and none succeeded between them, the fault is hardly the rows': the run stops, and
those rows are taken back out of the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, TypeVar

from routing.errors import StageError
from trainer.chat_client import RowFailed
from trainer.journal import Entry, Journal, Key
from trainer.progress import Progress

GIVE_UP_ROWS = 20
T = TypeVar("T")


class Tally:
    """What has been done of `total`; hears of every entry, tells the progress, gives up when all fails."""

    def __init__(self, journal: Journal, stage: str, total: int, done: int, progress: Progress) -> None:
        self._journal = journal
        self._stage = stage
        self._total = total
        self._done = done
        self._progress = progress
        self._failing: dict[str | int, list[Key]] = {}  # by model, the second part of a key
        progress(stage, done, total)

    def take(self, entry: Entry) -> None:
        """Journal one. Raises `StageError` after too many failures in a row."""
        self._journal.append(entry)
        self._done += 1
        self._progress(self._stage, self._done, self._total)
        key: Key = tuple(entry["key"])
        if "error" not in entry:
            self._failing.pop(key[1], None)
            return
        failing = self._failing.setdefault(key[1], [])
        failing.append(key)
        if len(failing) >= GIVE_UP_ROWS:
            self._journal.forget(failing)
            raise StageError(
                f"{len(failing)} requests about {key[1]!r} in a row failed for good, the last one: "
                f"{entry['error']}; what was answered is kept, run again to go on"
            )


def open_tally(
    journal: Journal, stage: str, keys: Collection[Key], retry_failed: bool, progress: Progress
) -> Tally:
    """The tally over what is wanted; with `retry_failed`, failures of earlier runs are taken back."""
    if retry_failed:
        journal.forget([key for key in keys if "error" in journal.entries.get(key, ())])
    done = sum(key in journal.entries for key in keys)
    return Tally(journal, stage, len(keys), done, progress)


async def gather(
    tasks: Iterable[T],
    key_of: Callable[[T], Key],
    ask: Callable[[T], Awaitable[dict[str, Any]]],
    concurrency: int,
    take: Callable[[Entry], None],
) -> None:
    """Run `ask` over the tasks in order; its fields, or the reason of its `RowFailed`, go to `take`.

    Any other error ends the run: the rest is cancelled and the error is raised.
    """
    waiting = iter(tasks)

    async def work() -> None:
        for task in waiting:
            key = list(key_of(task))
            try:
                take({"key": key, **await ask(task)})
            except RowFailed as failure:
                take({"key": key, "error": str(failure)})

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

"""One thread that generates for all requests of a model at once, so that the event loop never waits for
torch.

Requests join the running batch between two steps and leave it the same way, so a short answer never waits for
a long one, and an abandoned one stops within a step. Sixteen rows cost about twice as much a step as one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from demo.answer_text import AnswerText, TokenBytes
from demo.generation import Batch, Row, Sampling, Token
from demo.pair import LoadedModel

log = logging.getLogger("demo.engine")


class EngineFailed(RuntimeError):
    """The engine is closed or its thread met an error; the answer will not be finished."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of an answer and the text that became certain with it. The last has a `finish_reason`."""

    token: Token
    text: str
    finish_reason: str | None


class Job:
    """One answer being generated. `pieces` ends after the piece with a finish reason."""

    def __init__(self, engine: Engine, row: Row, text: AnswerText) -> None:
        self._engine, self.row, self.text = engine, row, text
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue()

    async def next_piece(self) -> Piece:
        """Wait for the next token. Raises `EngineFailed`."""
        piece = await self._queue.get()
        if piece is None:
            raise EngineFailed("the model's engine stopped before the answer was complete")
        return piece

    def abandon(self) -> None:
        """Stop generating; safe at any time and more than once."""
        self._engine.abandon(self)

    def put(self, piece: Piece | None) -> None:
        """Called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)
        except RuntimeError:  # the event loop is closed: nobody reads this answer any more
            self._engine.abandon(self)


class Engine:
    """Generates with one model; `max_rows` answers at a time, further ones wait their turn."""

    def __init__(self, loaded: LoadedModel, max_rows: int = 32) -> None:
        self._loaded, self._max_rows = loaded, max_rows
        self.token_bytes = TokenBytes(loaded.tokenizer)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._abandoned: set[Job] = set()
        self._jobs: list[Job] = []  # those in the batch; touched by the thread only
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="demo-engine", daemon=True)
        self._thread.start()

    @property
    def steps_running(self) -> bool:
        """Whether any answer is being generated or waits for its turn."""
        with self._changed:
            return bool(self._waiting or self._jobs)

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, stops: Sequence[str] = ()) -> Job:
        """Begin an answer; call it on the event loop that will read the pieces. Raises `EngineFailed`."""
        job = Job(self, Row(prompt_ids, sampling), AnswerText(self.token_bytes, stops))
        with self._changed:
            if self._closed:
                raise EngineFailed("the model's engine is closed")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def abandon(self, job: Job) -> None:
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
            elif job in self._jobs:
                self._abandoned.add(job)

    def close(self) -> None:
        """Stop the thread after the step it is in; unfinished answers raise `EngineFailed`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        # One thread each: matrices this small lose more to waking a second one than it does for them, and the
        # other model's engine wants the other core. The setting is per calling thread.
        torch.set_num_threads(1)
        try:
            self._generate(Batch(self._loaded.model, self._loaded.tokenizer.eos_token_id))
        except Exception:
            log.exception("the engine's thread failed")
            raise
        finally:
            with self._changed:
                self._closed = True
                left = [*self._jobs, *self._waiting]
                self._jobs, self._waiting = [], deque()
            for job in left:
                job.put(None)

    def _generate(self, batch: Batch) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._waiting or self._jobs):
                    self._changed.wait()
                if self._closed:
                    return
                gone, self._abandoned = self._abandoned, set()
                self._jobs = [job for job in self._jobs if job not in gone]
                room = self._max_rows - len(self._jobs)
                joining = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
                self._jobs += joining
            batch.leave([job.row for job in gone])
            if joining:
                batch.join([job.row for job in joining])
                self._hand_out(batch, joining)
            if batch.rows:
                batch.step()
                self._hand_out(batch, self._jobs)

    def _hand_out(self, batch: Batch, jobs: Sequence[Job]) -> None:
        """Pass the newest token of each job on, and let finished ones leave the batch."""
        done = []
        for job in jobs:
            token = job.row.tokens[-1]
            text = job.text.feed(token.id)
            if job.text.stopped:
                job.row.finish_reason = "stop"
            if job.row.finish_reason:
                text += job.text.finish()
                done.append(job)
            job.put(Piece(token, text, job.row.finish_reason))
        if done:
            batch.leave([job.row for job in done])
            with self._changed:
                self._jobs = [job for job in self._jobs if job not in done]

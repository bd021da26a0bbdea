"""A worker's end of the scorer process: asks over a Unix socket, and fails at once when nobody is there.

A request never waits for a connection: while there is none every score is a `ScoringError`, which the policy
turns into its fail-open answer, and a task of its own tries again with growing waits. At start `warm` does
wait, so a worker is not ready before the bundle is loaded on the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from itertools import count
from pathlib import Path

import msgspec

from proxy.score_cache import PromptPair
from proxy.scorer_metrics import ScorerMetrics
from proxy.scorer_wire import Ask, Leave, Open, Reply, frame_of, read_reply
from routing.protocols import Answer
from scorers.errors import ScoringError, ScoringFailed

_log = logging.getLogger("upshift")
_FIRST_WAIT_S, _MOST_WAIT_S = 0.05, 2.0
_WARM_S = 120.0
_GONE = "the scorer process is not there"


class ScorerLink:
    """`proxy.bundle_scorers.ScoreSource` over a socket. Connects with its first use inside an event loop."""

    def __init__(self, socket: Path, bundle: Path, version: str) -> None:
        self._socket = socket
        self._open = Open(str(bundle.resolve()), version)
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._refusal = ""  # why the bundle cannot be used over there

    def attach(self, metrics: ScorerMetrics) -> None:
        """Batches are counted where they run."""

    async def prompt(self, text: str, difficulty: bool = True) -> PromptPair:
        reply = await self._ask(Ask(next(self._numbers), text, difficulty=difficulty))
        if reply.pair is None:
            raise ScoringFailed("the scorer process gave no score for a prompt")
        return reply.pair

    async def answer(self, prompt: str, answer: Answer) -> float:
        reply = await self._ask(Ask(next(self._numbers), prompt, answer))
        if reply.adequate is None:
            raise ScoringFailed("the scorer process gave no score for an answer")
        return reply.adequate

    async def warm(self) -> None:
        """Wait until the other side has loaded the bundle. Raises `ScoringError`."""
        self._begin()
        try:
            async with asyncio.timeout(_WARM_S):
                await self._ready.wait()
        except TimeoutError as error:
            raise ScoringFailed(f"{_GONE} after {_WARM_S:.0f} s") from error
        if self._refusal:
            raise ScoringFailed(self._refusal)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._drop(_GONE)

    async def _ask(self, ask: Ask) -> Reply:
        self._begin()
        writer = self._writer
        if writer is None or not self._ready.is_set():
            raise ScoringFailed(self._refusal or _GONE)
        try:
            frame = frame_of(ask)
        except UnicodeEncodeError:  # a lone surrogate; the tokenizer would put the same mark in its place
            frame = frame_of(_clean(ask))
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[ask.number] = reply
        writer.write(frame)
        try:
            told = await reply
        except asyncio.CancelledError:
            if self._writer is writer:
                writer.write(frame_of(Leave(ask.number)))
            raise
        finally:
            self._waiting.pop(ask.number, None)
        if told.error:
            raise ScoringFailed(told.error)
        return told

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._stay(), name="upshift-scorer-link")

    async def _stay(self) -> None:
        """Connected as long as there is somebody to connect to."""
        wait_s = _FIRST_WAIT_S
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, msgspec.DecodeError, ScoringError):
                await self._converse()
            if self._ready.is_set() and not self._refusal:
                _log.warning("the scorer process has gone; requests fail over until it is back")
                wait_s = _FIRST_WAIT_S
            self._drop(_GONE)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _MOST_WAIT_S)

    async def _converse(self) -> None:
        """One connection, to its end. Raises `OSError` and what `read_reply` raises."""
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            writer.write(frame_of(self._open))
            opened = await read_reply(reader)
            self._refusal = opened.error
            self._writer = None if opened.error else writer
            self._ready.set()
            if opened.error:
                raise ScoringFailed(opened.error)
            while True:
                reply = await read_reply(reader)
                waiter = self._waiting.get(reply.number)
                if waiter is not None and not waiter.done():
                    waiter.set_result(reply)
        finally:
            writer.close()

    def _drop(self, why: str) -> None:
        self._writer = None
        if not self._refusal:
            self._ready.clear()
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(ScoringFailed(why))


def _clean(ask: Ask) -> Ask:
    """The same with a question mark for every lone surrogate."""

    def plain(text: str) -> str:
        return text.encode("utf-8", "replace").decode()

    answer = ask.answer
    if answer is not None:
        answer = Answer(plain(answer.text), answer.finish_reason, answer.logprobs, answer.completion_tokens)
    return Ask(ask.number, plain(ask.prompt), answer, ask.difficulty)

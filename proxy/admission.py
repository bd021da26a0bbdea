"""How many requests run at a time: the rest wait in a bounded queue, and what does not fit is shed at once.

A request takes its place before its body is read, so what is shed costs a header's worth of memory. Places
are handed on in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.cycle import ON_DISCONNECT
from proxy.wire import ClientGone, ClientWatch, Message, Scope
from proxy.wire_error import Overloaded


class Admission:
    """`enter` before the work, `leave` after it. `max_running` 0 means no bound."""

    def __init__(self, max_running: int, max_waiting: int, timeout_s: float, retry_after_s: int) -> None:
        """`timeout_s`: longest wait (0: no limit); `retry_after_s`: what a shed client is told."""
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s or None
        self._retry_after_s = retry_after_s
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.running = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    async def enter_for(self, scope: Scope) -> None:
        """`enter`, given up as soon as the client leaves the queue: then it raises `ClientGone`.

        Only our own server tells of that while the request's body is unread; under another one a client that
        has left keeps its place in the queue.
        """
        full = bool(self._max_running) and self.running >= self._max_running
        if not full or ON_DISCONNECT not in scope.get("extensions", {}):
            await self.enter()
            return
        async with ClientWatch(scope, _read_nothing) as client:
            await self.enter()
        if client.gone:
            raise ClientGone

    async def enter(self) -> None:
        """Take a place. Raises `Overloaded` when there is none within the limits."""
        if self.running < self._max_running or not self._max_running:
            self.running += 1
            return
        if len(self._waiting) >= self._max_waiting:
            raise self._shed(f"{self.running} requests are running and {len(self._waiting)} are waiting")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave()  # the place had been handed over already
            elif turn in self._waiting:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise self._shed(f"no place became free within {self._timeout_s} s") from error
            raise

    def leave(self) -> None:
        """Give the place up: to the next in the queue, if there is one."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def _shed(self, why: str) -> Overloaded:
        return Overloaded(why, self._retry_after_s)


async def _read_nothing() -> Message:
    raise AssertionError("the body of a request that waits is not read")

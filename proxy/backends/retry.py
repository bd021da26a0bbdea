"""The tier's backend: one call to a replica and, where that is safe and there is time, one more.

Repeated is only what cannot have been answered: a connection that was never made, a kept-alive one that was
already closed, and a 429 or 503 that names a time. After the first byte of a reply nothing is repeated. The
wait has full jitter (Brooker, "Exponential Backoff And Jitter", 2015), and a budget keeps repeats to a share
of all requests, so that a backend in trouble does not get twice the load. A kept-alive connection that is
found closed at once brought its backend no load: the request goes out again on a new one, whatever the budget
and the number of attempts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from proxy.backends.http import HttpReply
from proxy.backends.replicas import Replica, ReplicaSet
from proxy.retry_after import retry_after_s
from routing.errors import BackendError, BackendStale, BackendTimeout, BackendUnavailable
from routing.protocols import BackendRequest, Clock

_NAMED_A_TIME = frozenset({429, 503})
_FOUND_CLOSED_S = 1.0  # a kept connection that takes longer to break may have been worked on


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """`attempts` on a tier (1: no repeat); waits in seconds; `share` of requests that may be repeats."""

    attempts: int = 2
    backoff_s: float = 0.1
    max_wait_s: float = 2.0
    share: float = 0.2


class RetryBudget:
    """Each request puts `share` in, each repeat takes 1 out; it starts full, so a quiet server may repeat."""

    __slots__ = ("_held", "_share", "_size")

    def __init__(self, share: float, size: float = 10.0) -> None:
        self._share = share
        self._size = size
        self._held = size if share > 0 else 0.0

    def deposit(self) -> None:
        self._held = min(self._size, self._held + self._share)

    def withdraw(self) -> bool:
        """Whether one more repeat is within the budget."""
        if self._held < 1.0:
            return False
        self._held -= 1.0
        return True


class TierBackend:
    """`routing.protocols.Backend` over the replicas of one tier."""

    def __init__(
        self, replicas: ReplicaSet, limits: RetryLimits | None = None, clock: Clock = time.monotonic
    ) -> None:
        self.replicas = replicas
        self._limits = limits or RetryLimits()
        self._budget = RetryBudget(self._limits.share)
        self._clock = clock
        self.on_retry: Callable[[], None] | None = None

    async def send(self, request: BackendRequest) -> HttpReply:
        """Raises `BackendError` of the last attempt."""
        self._budget.deposit()
        started, last = self._clock(), 1
        replica = self.replicas.choose()
        while True:
            begun = self._clock()
            reply: HttpReply | None = None
            try:
                reply = await replica.send(request if last == 1 else self._with_rest(request, started))
            except BackendError as error:
                wait_s = self._wait_after(error)
                found_closed = isinstance(error, BackendStale) and self._clock() - begun < _FOUND_CLOSED_S
                if found_closed and last == 1:
                    request = replace(request, fresh=True)
                elif not self._may_repeat(wait_s, last, request, started, begun):
                    raise
            else:
                wait_s = self._wait_for(reply, replica)
                if not self._may_repeat(wait_s, last, request, started, begun):
                    return reply
                await reply.close()
            assert wait_s is not None
            if self.on_retry is not None:
                self.on_retry()
            await asyncio.sleep(wait_s)
            replica, last = self.replicas.choose(avoid=replica), last + 1

    async def close(self) -> None:
        await self.replicas.close()

    def _with_rest(self, request: BackendRequest, started: float) -> BackendRequest:
        """The request with what is left of its time."""
        if request.timeout_s is None:
            return request
        return replace(request, timeout_s=max(0.0, request.timeout_s - (self._clock() - started)))

    def _wait_after(self, error: BackendError) -> float | None:
        """Seconds to wait after a failure that is safe to repeat; None for any other."""
        connecting = isinstance(error, BackendTimeout) and error.stage == "connect"
        if isinstance(error, BackendStale):
            return 0.0
        if connecting or isinstance(error, BackendUnavailable):
            return random.random() * self._limits.backoff_s
        return None

    def _wait_for(self, reply: HttpReply, replica: Replica) -> float | None:
        """Seconds to wait before repeating what was answered by `reply`; None: it is an answer."""
        if reply.status not in _NAMED_A_TIME:
            return None
        named_s = retry_after_s(reply.headers.get("retry-after"))
        if named_s is None:
            return None
        if any(other.available for other in self.replicas.replicas if other is not replica):
            return random.random() * self._limits.backoff_s  # the time named is that replica's own
        return (
            named_s + random.random() * self._limits.backoff_s if named_s <= self._limits.max_wait_s else None
        )

    def _may_repeat(
        self, wait_s: float | None, last: int, request: BackendRequest, started: float, begun: float
    ) -> bool:
        """Whether there is an attempt, time for another like the one before, and budget left."""
        if wait_s is None or last >= self._limits.attempts:
            return False
        now = self._clock()
        if request.timeout_s is not None and now - started + wait_s + (now - begun) >= request.timeout_s:
            return False
        return self._budget.withdraw()

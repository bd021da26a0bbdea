"""Several replicas behind one tier: the less busy of two drawn at random, failing ones left out.

Two random choices and then the one with fewer requests outstanding (Mitzenmacher 2001, "The power of two
choices") spread load nearly as well as asking all of them, and unlike "the least busy of all" do not send
every worker to the same replica. A request is outstanding until its answer is read or given up.

A replica whose calls fail much more often than those of the others is ejected (its circuit opens), although
it does not fail often enough to be called broken; never more than half of a tier at a time.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.backends.breaker import BreakerLimits, CircuitBreaker
from proxy.backends.http import End, HttpReply
from routing.errors import BackendError, BackendStale, BackendTimeout, BackendUnavailable
from routing.protocols import BackendRequest

_WINDOW = 100  # calls that outliers are found by
_ENOUGH = 20
_OUTLIER_TIMES = 3.0
_FAIR_S = 0.5  # a call that was given less than this before its deadline says nothing about its replica


class WatchableBackend(Protocol):
    """A backend whose replies tell when they end: `HttpBackend`."""

    async def send(self, request: BackendRequest) -> HttpReply: ...

    async def close(self) -> None: ...


class Replica:
    """One URL of a tier, with what is known of its health."""

    def __init__(
        self, backend: WatchableBackend, limits: BreakerLimits, on_change: Callable[[], None]
    ) -> None:
        self.backend = backend
        self.breaker = CircuitBreaker(limits, on_change)
        self.outstanding = 0
        self.recent: deque[bool] = deque(maxlen=_WINDOW)  # True: failed
        self.on_failure: Callable[[Replica], None] | None = None
        self.healthy = True  # by the active check, where there is one

    @property
    def available(self) -> bool:
        """Whether a request may go there now."""
        return self.healthy and self.breaker.admits()

    async def send(self, request: BackendRequest) -> HttpReply:
        """Raises `BackendError`; whatever happens is reported to the breaker once."""
        self.outstanding += 1
        began = self.breaker.enter()
        try:
            reply = await self.backend.send(request)
        except BackendError as error:
            self.outstanding -= 1
            if _tells(error, request):
                self._fail(began)
            else:
                self.breaker.release(began)
            raise
        except BaseException:
            self.outstanding -= 1
            self.breaker.release(began)
            raise
        failed = reply.status >= 500 and "retry-after" not in reply.headers
        if not failed and reply.status < 500 and self.breaker.state == "half_open":
            self.breaker.succeed(
                began
            )  # a probe that streams for minutes must not keep the circuit half open
        status = reply.status  # a reply that referred to itself would wait for the garbage collector
        reply.on_end = lambda end: self._leave(end, failed, status, began)
        return reply

    def carry_on(self, before: Replica, checked: bool) -> None:
        """Begin with what is known of the same replica in the application before this one. `checked`: active
        checks go on, so what the last one found will be corrected."""
        self.breaker.carry_on(before.breaker)
        self.recent.extend(before.recent)
        self.healthy = before.healthy or not checked

    @property
    def failure_share(self) -> float | None:
        """Of its last calls; None where they are too few to say."""
        return sum(self.recent) / len(self.recent) if len(self.recent) >= _ENOUGH else None

    def _leave(self, end: End, failed: bool, status: int, began: int) -> None:
        if end == "disowned":
            self.breaker.retract(began)
            self._note_failure()
            return
        self.outstanding -= 1
        if failed or end == "broken":
            self._fail(began)
        elif end == "done" and status < 429:
            self.recent.append(False)
            self.breaker.succeed(began)
        else:
            self.breaker.release(began)

    def _fail(self, began: int) -> None:
        self.breaker.fail(began)
        self._note_failure()

    def _note_failure(self) -> None:
        self.recent.append(True)
        if self.on_failure is not None:
            self.on_failure(self)


class ReplicaSet:
    """The replicas of one tier. `on_change` hears of every change of health."""

    def __init__(
        self,
        backends: Sequence[WatchableBackend],
        limits: BreakerLimits | None = None,
        outlier_share: float = 0.1,
    ) -> None:
        """`outlier_share`: least share of failures that ejects an outlier; 0: nobody is ejected."""
        if not backends:
            raise ValueError("a tier needs at least one replica, got none")
        self.on_change: Callable[[], None] | None = None
        limits = limits or BreakerLimits()
        self.replicas = [Replica(backend, limits, self.changed) for backend in backends]
        self._outlier_share = outlier_share
        if outlier_share and len(self.replicas) > 1:
            for replica in self.replicas:
                replica.on_failure = self._eject_outlier

    def changed(self) -> None:
        """A replica's health has changed."""
        if self.on_change is not None:
            self.on_change()

    @property
    def open_circuits(self) -> int:
        """Replicas whose circuit is not closed."""
        return sum(replica.breaker.state != "closed" for replica in self.replicas)

    @property
    def up(self) -> bool:
        """Whether any replica takes requests."""
        return any(replica.healthy and replica.breaker.state != "open" for replica in self.replicas)

    @property
    def outstanding(self) -> int:
        """Requests that its backends are working on."""
        return sum(replica.outstanding for replica in self.replicas)

    def _eject_outlier(self, replica: Replica) -> None:
        """After a failure: leave the replica alone for a while if it stands out from the others."""
        mine = replica.failure_share
        shares = (each.failure_share for each in self.replicas if each is not replica)
        others = [share for share in shares if share is not None]
        if mine is None or not others or replica.breaker.state != "closed":
            return
        stands_out = mine >= max(self._outlier_share, _OUTLIER_TIMES * sum(others) / len(others))
        if stands_out and 2 * (self.open_circuits + 1) <= len(self.replicas):
            replica.recent.clear()
            replica.breaker.trip()

    def choose(self, avoid: Replica | None = None) -> Replica:
        """The replica for the next request; `avoid` only where there is no other.

        Raises `BackendUnavailable` when every circuit is open.
        """
        if len(self.replicas) == 1 and self.replicas[0].available:
            return self.replicas[0]
        able = [replica for replica in self.replicas if replica.available]
        others = [replica for replica in able if replica is not avoid]
        able = others or able
        if not able:
            raise BackendUnavailable("every replica has failed repeatedly and is not tried for a while")
        drawn = random.sample(able, 2) if len(able) > 2 else random.sample(able, len(able))
        return min(drawn, key=lambda replica: replica.outstanding)

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.backend.close()


def _tells(error: BackendError, request: BackendRequest) -> bool:
    """Whether a failure says something about the replica."""
    if isinstance(error, BackendStale):
        return False
    if isinstance(error, BackendTimeout) and error.stage in ("total", "share"):
        return request.timeout_s is None or request.timeout_s >= _FAIR_S
    return True

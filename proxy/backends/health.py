"""Active health checks: one small GET a replica and interval, so that a dead one is known before a request.

Off by default (interval 0): the circuit breaker learns the same from traffic, a few requests later.
"""

from __future__ import annotations

import asyncio

from proxy.backends.replicas import Replica, ReplicaSet
from routing.errors import BackendError
from routing.protocols import BackendRequest


class HealthChecks:
    """Asks every replica of one tier until `stop`. A reply below 500 is healthy."""

    def __init__(self, replicas: ReplicaSet, path: str, interval_s: float, timeout_s: float) -> None:
        """`path` is relative to the base URL, for example `/models`."""
        self._replicas = replicas
        self._path = path
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, in the running event loop."""
        if self._interval_s > 0 and not self._tasks:
            self._tasks = [asyncio.ensure_future(self._watch(one)) for one in self._replicas.replicas]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, replica: Replica) -> None:
        while True:
            healthy = await self._ask(replica)
            if healthy != replica.healthy:
                replica.healthy = healthy
                self._replicas.changed()
            await asyncio.sleep(self._interval_s)

    async def _ask(self, replica: Replica) -> bool:
        request = BackendRequest(self._path, b"", timeout_s=self._timeout_s, method="GET")
        try:
            reply = await replica.backend.send(request)
            await reply.read()
        except BackendError:
            return False
        return reply.status < 500

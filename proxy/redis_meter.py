"""What keys have used over all replicas, counted in Redis; never slower than its limit, and down without
harm.

A request is counted and the totals are read in one round trip. A Redis that does not answer within
`auth.redis_timeout_ms` opens a circuit: until a probe succeeds nobody waits for it, and keys with limits are
counted on this host alone or refused, as configured. Answers' tokens and dollars go out every 50 ms from a
task of their own; what Redis does not take waits, added up by key, until it does. What was spent on this host
is known without Redis: one that comes back empty gives a key no more than what it had spent elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from proxy.auth import ApiKey
from proxy.backends.breaker import BreakerLimits, CircuitBreaker
from proxy.limits import Used, check_limits, clock, day_of, minute_of, month_of
from proxy.usage import LocalMeter
from proxy.wire_error import ApiError
from routing.errors import SettingsError
from routing.protocols import Clock

_log = logging.getLogger("upshift.auth")
_PUSH_S = 0.05
_CONNECTIONS = 32
_MINUTE_KEPT_S = 150
_DAY_KEPT_S = 2 * 86_400
_MONTH_KEPT_S = 35 * 86_400
_CIRCUIT = BreakerLimits(failures=1, open_s=0.5, max_open_s=5.0)


class RedisMeter:
    """`proxy.limits.Meter`. Every replica counts at home too, for the time when Redis is down."""

    def __init__(
        self, url: str, home: LocalMeter, timeout_ms: float = 100.0, refuse: bool = False, now: Clock = clock
    ) -> None:
        """Raises `SettingsError` for a URL that is none, or without the redis package."""
        try:
            import redis.asyncio
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ModuleNotFoundError as error:
            raise SettingsError(
                "auth.redis_url_env: Redis needs its package: pip install 'upshift[redis]'"
            ) from error
        timeout_s = timeout_ms / 1e3
        try:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                url, max_connections=_CONNECTIONS, timeout=timeout_s, socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0),
            )  # fmt: skip
            self._redis: Any = redis.asyncio.Redis(connection_pool=pool)
        except ValueError as error:  # the message may quote the URL, which may hold a password
            raise SettingsError("auth.redis_url_env: not a redis:// URL") from error
        self._failures = (redis.RedisError, OSError, TimeoutError)
        self._home = home
        self._timeout_s = timeout_s
        self._refuse = refuse
        self._now = now
        self._circuit = CircuitBreaker(_CIRCUIT, self._tell)
        self._owed: dict[str, list[float]] = {}  # key id -> tokens, dollars
        self._pusher: asyncio.Task[None] | None = None

    async def admit(self, key: ApiKey) -> Used:
        at_home: ApiError | None = None
        try:
            here = self._home.admit_now(key)
        except ApiError as error:
            at_home = error
        used = await self._count(key)
        if used is not None:
            home = self._home.used(key)
            used.usd_day, used.usd_month = (
                max(used.usd_day, home.usd_day), max(used.usd_month, home.usd_month),
            )  # fmt: skip
            check_limits(key, used, self._now())
            return used
        if self._refuse:
            raise ApiError(
                503, "Limits cannot be checked at the moment.", code="limits_unavailable", retry=True,
                retry_after="1",
            )  # fmt: skip
        if at_home is not None:
            raise at_home
        return here

    def charge(self, key: ApiKey, tokens: int, usd: float) -> None:
        self._home.charge(key, tokens, usd)
        owed = self._owed.setdefault(key.id, [0.0, 0.0])
        owed[0] += tokens
        owed[1] += usd
        if self._pusher is None:
            self._pusher = asyncio.get_running_loop().create_task(self._push())

    async def close(self) -> None:
        if self._pusher is not None:
            self._pusher.cancel()
            await asyncio.gather(self._pusher, return_exceptions=True)
            await self._pay()
        await self._redis.aclose(close_connection_pool=True)
        await self._home.close()

    async def _count(self, key: ApiKey) -> Used | None:
        """What was used before this request, which is counted unless it is too many; None: Redis is down."""
        if not self._circuit.admits():
            return None
        self._circuit.enter()
        now = self._now()
        minute = minute_of(now)
        try:
            async with asyncio.timeout(self._timeout_s):
                line = self._redis.pipeline(transaction=True)
                line.hincrby(_name(key.id, "m", minute), "requests", 1)
                line.expire(_name(key.id, "m", minute), _MINUTE_KEPT_S)
                line.hgetall(_name(key.id, "m", minute))
                line.hgetall(_name(key.id, "m", minute - 1))
                line.get(_name(key.id, "d", day_of(now)))
                line.get(_name(key.id, "mo", month_of(now)))
                counted, _, current, before, day, month = await line.execute()
                used = Used(
                    counted - 1.0, _number(before, b"requests"), _number(current, b"tokens"),
                    _number(before, b"tokens"), float(day or 0), float(month or 0),
                )  # fmt: skip
                try:
                    check_limits(key, used, now)
                except ApiError:  # a refused request takes none of the limit
                    await self._redis.hincrby(_name(key.id, "m", minute), "requests", -1)
        except self._failures:
            self._circuit.fail()
            return None
        except BaseException:
            self._circuit.release()
            raise
        self._circuit.succeed()
        return used

    async def _push(self) -> None:
        while True:
            await asyncio.sleep(_PUSH_S)
            if self._owed and self._circuit.admits():
                await self._pay()

    async def _pay(self) -> None:
        """Send what is owed; what Redis does not take is owed again."""
        owed, self._owed = self._owed, {}
        now = self._now()
        line = self._redis.pipeline(transaction=True)
        for name, (tokens, usd) in owed.items():
            line.hincrbyfloat(_name(name, "m", minute_of(now)), "tokens", tokens)
            line.expire(_name(name, "m", minute_of(now)), _MINUTE_KEPT_S)
            for kind, period, kept_s in (
                ("d", day_of(now), _DAY_KEPT_S),
                ("mo", month_of(now), _MONTH_KEPT_S),
            ):
                line.incrbyfloat(_name(name, kind, period), usd)
                line.expire(_name(name, kind, period), kept_s)
        self._circuit.enter()
        try:
            async with asyncio.timeout(self._timeout_s):
                await line.execute()
            self._circuit.succeed()
        except self._failures:
            self._circuit.fail()
            for name, (tokens, usd) in owed.items():
                again = self._owed.setdefault(name, [0.0, 0.0])
                again[0] += tokens
                again[1] += usd

    def _tell(self) -> None:
        if self._circuit.state == "open":
            way = "keys with limits are refused" if self._refuse else "limits hold for this host alone"
            _log.warning("Redis does not answer: %s until it does", way)
        elif self._circuit.state == "closed":
            _log.info("Redis answers again")


def _name(key_id: str, kind: str, period: int) -> str:
    return f"upshift:{{{key_id}}}:{kind}:{period}"


def _number(fields: dict[bytes, bytes], name: bytes) -> float:
    return float(fields.get(name, 0))

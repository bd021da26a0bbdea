"""What a key has used against what it may use: requests and tokens of a minute, dollars of a day and a month.

A minute is a sliding one: the last full minute counts in as far as it still overlaps the 60 seconds before
now, as if its requests had been spread evenly (the sliding-window counter). A fixed minute would let twice
the limit through around its edge, and a log of every request would grow with the traffic. Requests are
counted when they come; tokens and dollars when the answer is there, since nobody knows them before: requests
that run at the same time may together go beyond these limits, by what they cost.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from proxy.auth import ApiKey, Limits
from proxy.wire import Headers
from proxy.wire_error import ApiError

MINUTE_S = 60.0
ACCOUNT = "upshift.account"  # in the scope: the account of a key with limits


@dataclass(slots=True)
class Used:
    """What a key has used, the request at hand not included."""

    requests: float = 0.0  # in this minute of the clock
    requests_before: float = 0.0  # in the one before
    tokens: float = 0.0
    tokens_before: float = 0.0
    usd_day: float = 0.0
    usd_month: float = 0.0


class Meter(Protocol):
    """Where use is counted."""

    async def admit(self, key: ApiKey) -> Used:
        """Count one request and tell what had been used before. Raises `ApiError` 429, 503."""
        ...

    def charge(self, key: ApiKey, tokens: int, usd: float) -> None:
        """Count what an answer cost. Never raises, never waits."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Account:
    """A key with the meter its answers are charged on."""

    key: ApiKey
    meter: Meter

    def charge(self, tokens: int, usd: float) -> None:
        """Count what an answer cost."""
        self.meter.charge(self.key, tokens, usd)


def minute_of(now: float) -> int:
    """The minute of the clock; `now` in seconds since the epoch."""
    return int(now // MINUTE_S)


def day_of(now: float) -> int:
    """The day (UTC)."""
    return int(now // 86_400)


def month_of(now: float) -> int:
    """The month (UTC)."""
    moment = datetime.fromtimestamp(now, UTC)
    return moment.year * 12 + moment.month


def check_limits(key: ApiKey, used: Used, now: float) -> None:
    """Raises `ApiError` 429 when one more request is too many."""
    limits = key.limits or Limits()
    elapsed_s = now % MINUTE_S
    for kind, limit, current, before, need in (
        ("requests", limits.requests_per_minute, used.requests, used.requests_before, 1),
        ("tokens", limits.tokens_per_minute, used.tokens, used.tokens_before, 1),
    ):
        wait_s = _wait_s(limit, current, before, elapsed_s, need) if limit else 0.0
        wait_s = round(wait_s, 6)
        if wait_s > 0:
            sliding = current + before * (1 - elapsed_s / MINUTE_S)
            raise ApiError(
                429,
                f"Rate limit reached for API key '{key.id}' on {kind} per min: limit {limit}, "
                f"used {math.ceil(sliding)}. Please try again in {math.ceil(wait_s)}s.",
                kind=kind, code="rate_limit_exceeded", retry=True, retry_after=str(max(1, math.ceil(wait_s))),
                extra=limit_headers(key, used, now, asked=0),
            )  # fmt: skip
    for period, limit_usd, spent, left_s in (
        ("day", limits.usd_per_day, used.usd_day, 86_400 - now % 86_400),
        ("month", limits.usd_per_month, used.usd_month, _month_left_s(now)),
    ):
        if limit_usd and spent >= limit_usd:
            raise ApiError(
                429,
                f"API key '{key.id}' has spent its {limit_usd:g} US dollars of this {period} (UTC).",
                kind="insufficient_quota", code="insufficient_quota", retry_after=str(math.ceil(left_s)),
                extra=limit_headers(key, used, now, asked=0),
            )  # fmt: skip


def limit_headers(key: ApiKey, used: Used, now: float, asked: int = 1) -> Headers:
    """OpenAI's `x-ratelimit-*`, for what is limited; `asked` is 0 for a request that was refused."""
    limits = key.limits or Limits()
    elapsed_s = now % MINUTE_S
    out: Headers = []
    for kind, limit, current, before in (
        (b"requests", limits.requests_per_minute, used.requests + asked, used.requests_before),
        (b"tokens", limits.tokens_per_minute, used.tokens, used.tokens_before),
    ):
        if limit:
            sliding = current + before * (1 - elapsed_s / MINUTE_S)
            reset_s = MINUTE_S - elapsed_s + (MINUTE_S if current else 0.0) if sliding else 0.0
            out += [
                (b"x-ratelimit-limit-" + kind, b"%d" % limit),
                (b"x-ratelimit-remaining-" + kind, b"%d" % max(0, limit - math.ceil(sliding))),
                (b"x-ratelimit-reset-" + kind, b"%dm%ds" % divmod(math.ceil(reset_s), 60)),
            ]
    return out


def _wait_s(limit: int, current: float, before: float, elapsed_s: float, need: int) -> float:
    """Seconds until `need` more fit; 0: they fit now."""
    room = limit - need
    if current + before * (1 - elapsed_s / MINUTE_S) <= room:
        return 0.0
    if current <= room:  # what is left of the minute before fades within this one
        return MINUTE_S * (1 - (room - current) / before) - elapsed_s
    return MINUTE_S - elapsed_s + MINUTE_S * (1 - room / current)


def _month_left_s(now: float) -> float:
    moment = datetime.fromtimestamp(now, UTC)
    following = (
        moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)
    ).replace(day=1)
    return following.timestamp() - now


def clock() -> float:
    """Seconds since the epoch; windows must be the same on every host."""
    return time.time()

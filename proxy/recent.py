"""The last decisions of all workers, for people who watch: in memory, bounded, without a database.

Each worker writes into a ring of its own in shared memory, a fixed slot a decision; a reader gathers all
rings. Nothing is locked: a slot carries its number before and after, and one that changes while it is read is
left out. Writing costs about three microseconds after the client's last byte. No prompt is in it unless
`log.store_text` is on, and then its beginning alone.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Mapping
from typing import Any

import orjson

from proxy.shared_memory import OwnRow
from routing.protocols import DecisionLog

SLOTS = 256  # a worker
_SLOT_BYTES = 1024
_HEAD = struct.Struct("<dQ")  # when the first worker opened the ring, decisions written
_MARK = struct.Struct("<QI")  # number of the decision (0: empty), length of what follows
_HEAD_BYTES = 64
_PROMPT_CHARS = 160
_KEPT = (
    "request_id", "at", "api", "stream", "strategy", "threshold", "policy", "decision", "reason", "tier",
    "route_score", "difficulty", "answer_score", "outcome", "status", "prompt_tokens", "completion_tokens",
    "cost_usd", "baseline_usd", "total_s", "first_byte_s",
)  # fmt: skip


class Recent:
    """One a process."""

    def __init__(self) -> None:
        """Raises `OSError`."""
        self._row = OwnRow("decisions", _HEAD_BYTES + SLOTS * _SLOT_BYTES)
        self._own = self._row.bytes
        since, self._written = _HEAD.unpack_from(self._own, 0)
        if not since:
            _HEAD.pack_into(self._own, 0, time.time(), self._written)

    def add(self, row: Mapping[str, object]) -> None:
        """A row of the decision log."""
        kept = dict(zip(_KEPT, map(row.get, _KEPT), strict=True))
        if isinstance(prompt := row.get("prompt"), str):
            kept["prompt"] = prompt[:_PROMPT_CHARS]
        data = _encode(kept)
        if len(data) > _SLOT_BYTES - _MARK.size:  # a prompt of many escapes
            data = _encode({**kept, "prompt": None})
        number = self._written + 1
        at = _HEAD_BYTES + (number % SLOTS) * _SLOT_BYTES
        own = self._own
        _MARK.pack_into(own, at, 0, 0)
        own[at + _MARK.size : at + _MARK.size + len(data)] = data
        _MARK.pack_into(own, at, number, len(data))
        self._written = number
        _HEAD.pack_into(own, 0, _HEAD.unpack_from(own, 0)[0], number)

    def read(self, since: float, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` decisions that ended at `since` (seconds, epoch) or later, newest first.

        `id` tells decisions apart; the rest is as in the decision log.
        """
        found = [one for number, ring in self._row.all() for one in _read_ring(ring, number, since)]
        found.sort(key=lambda one: (one["at"], one["id"]), reverse=True)
        return found[:limit]

    def since(self) -> float:
        """When the server began to count, seconds since the epoch."""
        begun = [_HEAD.unpack_from(ring, 0)[0] for _, ring in self._row.all()]
        return min((value for value in begun if value), default=time.time())

    def close(self) -> None:
        self._row.close()


class WatchedLog:
    """`routing.protocols.DecisionLog` that also shows its rows to those who watch."""

    def __init__(self, log: DecisionLog, recent: Recent) -> None:
        self._log = log
        self._recent = recent

    def record(self, row: Mapping[str, object], table: str = "decisions") -> None:
        if table == "decisions":
            self._recent.add(row)
        self._log.record(row, table)

    async def close(self) -> None:
        await self._log.close()


def _encode(kept: Mapping[str, object]) -> bytes:
    try:
        return orjson.dumps(kept)
    except TypeError:  # a prompt that is no UTF-8: half of a surrogate pair
        return orjson.dumps({**kept, "prompt": None})


def _read_ring(ring: mmap.mmap, number: int, since: float) -> list[dict[str, Any]]:
    out = []
    for slot in range(SLOTS):
        at = _HEAD_BYTES + slot * _SLOT_BYTES
        mark, length = _MARK.unpack_from(ring, at)
        if not mark or length > _SLOT_BYTES - _MARK.size:
            continue
        data = ring[at + _MARK.size : at + _MARK.size + length]
        if _MARK.unpack_from(ring, at) != (mark, length):
            continue
        try:
            one = orjson.loads(data)
        except orjson.JSONDecodeError:  # overwritten while it was read
            continue
        if one["at"] >= since:
            one["id"] = f"{number}-{mark}"
            out.append(one)
    return out

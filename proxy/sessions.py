"""Stickiness: a session that needed a later tier goes there at once, so its answers do not change hands.

Only upwards: a session that the first tier has served is judged anew with every call. A session is what the
client says it is (`x-upshift-session`, `prompt_cache_key`), else a conversation: its beginning up to the
first user message, told apart by `user`. Each worker remembers its own, within a bound and for a while.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict

from proxy.call import Call
from routing.protocols import Clock
from scorers.text import render_content


class Sessions:
    """The latest sessions. `ttl_s` 0: none are kept."""

    def __init__(self, ttl_s: float, most: int, clock: Clock = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._most = most
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def key_of(self, call: Call, header: bytes | None) -> bytes | None:
        """Which session a call belongs to; None where none are kept or it has none."""
        return session_key(call, header) if self._ttl_s else None

    def tier(self, key: bytes | None, call: Call) -> int | None:
        """The tier a session stays at. A conversation that only begins is no session yet."""
        if key is None or (key[:1] == b"c" and not any(m.get("role") == "assistant" for m in call.messages)):
            return None
        held = self._kept.get(key)
        if held is None:
            return None
        tier, until = held
        if self._clock() >= until:
            del self._kept[key]
            return None
        return tier

    def served(self, key: bytes | None, tier: int) -> None:
        """A call of the session was answered by `tier`."""
        if key is None or tier == 0:
            return
        self._kept[key] = (tier, self._clock() + self._ttl_s)
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


def session_key(call: Call, header: bytes | None) -> bytes | None:
    """What tells a call's session from others; None for a text completion that names none."""
    if header:
        return b"h" + _digest(header)
    cache_key = call.value("prompt_cache_key")
    if isinstance(cache_key, str) and cache_key:
        return b"k" + _digest(cache_key.encode("utf-8", "surrogatepass"))
    if call.api != "chat":
        return None
    beginning = [str(call.value("user") or "")]
    for message in call.messages:
        beginning.append(render_content(message.get("content")))
        if message.get("role") == "user":
            break
    return b"c" + _digest("\0".join(beginning).encode("utf-8", "surrogatepass"))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()

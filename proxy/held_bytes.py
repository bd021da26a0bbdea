"""How many bytes of bodies and of answers are held at a time: what does not fit is shed before memory grows.

A bound on requests alone is none on memory, since one may bring `max_body_bytes` and hold as much again of
an answer that is judged before it is shown. So every piece is counted as it comes, by whoever keeps it, and
given back when its request ends. What is counted is bytes of the wire; decoded and encoded again for a
backend they take up to five times as much.
"""

from __future__ import annotations

from proxy.wire_error import Overloaded
from routing.protocols import BackendReply

HOLD = "upshift.hold"  # in the scope: what the request holds


class HeldBytes:
    """What all requests of a process hold. `max_bytes` 0 means no bound; it may be changed."""

    def __init__(self, max_bytes: int, retry_after_s: int) -> None:
        self.max_bytes = max_bytes
        self.retry_after_s = retry_after_s
        self.held = 0


class Hold:
    """What one request holds."""

    __slots__ = ("_all", "_held")

    def __init__(self, everything: HeldBytes | None = None) -> None:
        """Without `everything` there is no bound."""
        self._all = everything
        self._held = 0

    def take(self, count: int) -> None:
        """Keep `count` more bytes; fewer, where it is negative. Raises `Overloaded` when they do not fit."""
        if (everything := self._all) is None:
            return
        if 0 < everything.max_bytes < everything.held + count and count > 0:
            raise Overloaded(
                f"{everything.held} bytes of requests and answers are held, the limit is "
                f"{everything.max_bytes}",
                everything.retry_after_s,
            )
        everything.held += count
        self._held += count

    def release(self) -> None:
        """The request is over."""
        if self._all is not None:
            self._all.held -= self._held
            self._held = 0


async def read_whole(reply: BackendReply, hold: Hold) -> bytes:
    """The body of a reply, counted as it comes. Raises `BackendError`, `Overloaded`."""
    pieces: list[bytes] = []
    async for piece in reply.chunks():
        hold.take(len(piece))
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

"""The deadline of one request: the server's, or a shorter one that the client names.

It begins when the request has been read and counts what it waited for its turn, but not the time that a
client takes to send it (that has limits of its own, `proxy.connection`).
"""

from __future__ import annotations

import math

from proxy.wire import Scope, header
from proxy.wire_error import ApiError
from routing.deadline import Deadline

HEADER = "x-upshift-timeout-s"
_LEAST_S = 0.001


def request_deadline(scope: Scope, limit_s: float, waited_s: float = 0.0) -> Deadline:
    """`limit_s` of the server (0: none), `waited_s` of it gone. Raises `ApiError` 400 for a header that is
    no number of seconds."""
    given = header(scope, HEADER.encode())
    if given is not None:
        try:
            asked_s = float(given)
        except ValueError:
            asked_s = math.nan
        if not 0 < asked_s < math.inf:
            told = given[:40].decode("latin-1")
            raise ApiError(400, f"{HEADER} must be seconds above 0, got {told!r}.", param=HEADER)
        limit_s = min(limit_s or math.inf, asked_s)
    return Deadline(max(_LEAST_S, limit_s - waited_s) if limit_s else 0.0)

"""Signs of life while a stream is held back: SSE comments, and only after a long silence.

Headers cannot be taken back, so as long as possible nothing is sent: a decision can then still show in
headers and a failure as a status. Proxies and clients that give up on a silent connection are what the
comments are for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

COMMENT = b": waiting for an answer\n\n"
Result = TypeVar("Result")


async def with_signs_of_life(
    work: Coroutine[Any, Any, Result], interval_s: float, sign: Callable[[], Awaitable[None]]
) -> Result:
    """The result of `work`; `sign` is called whenever another `interval_s` (> 0) has passed without it."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=interval_s)
            if done:
                return task.result()
            await sign()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

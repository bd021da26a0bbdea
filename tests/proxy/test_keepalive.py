"""Signs of life while a stream is held back."""

from __future__ import annotations

import asyncio

import pytest

from proxy.keepalive import with_signs_of_life


async def test_quick_work_sends_no_sign() -> None:
    signs: list[int] = []

    async def sign() -> None:
        signs.append(1)

    async def work() -> int:
        return 7

    assert await with_signs_of_life(work(), 5.0, sign) == 7
    assert signs == []


async def test_slow_work_sends_signs_until_it_is_done() -> None:
    told = asyncio.Event()
    signs: list[int] = []

    async def sign() -> None:
        signs.append(1)
        if len(signs) == 3:
            told.set()

    async def work() -> str:
        await told.wait()
        return "done"

    assert await with_signs_of_life(work(), 0.01, sign) == "done"
    assert len(signs) >= 3


async def test_cancellation_reaches_the_work() -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async def sign() -> None:
        return

    task = asyncio.create_task(with_signs_of_life(work(), 60.0, sign))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


async def test_failure_of_the_work_is_its_own() -> None:
    async def work() -> None:
        raise ValueError("broken")

    async def sign() -> None:
        return

    with pytest.raises(ValueError, match="broken"):
        await with_signs_of_life(work(), 1.0, sign)

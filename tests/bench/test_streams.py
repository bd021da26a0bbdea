"""What the stream benchmark counts, and that the recorded server tells what was broken off."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import numpy as np
import pytest
import uvicorn

from bench.recorded import RecordedServer
from bench.recorded_answers import RecordedAnswers, key_of
from bench.streams import Streamed
from bench.streams_print import Row, print_rows
from trainer.examples import Example, PairTable


def example(number: int, model: str, quality: float) -> Example:
    prompt = f"prompt {number}"
    key = key_of([{"role": "user", "content": prompt}])
    return Example(key, prompt, model, quality, response="word " * 100, completion_tokens=100)


def test_a_row_counts_what_was_served_and_what_was_not(capsys: pytest.CaptureFixture[str]) -> None:
    weak = [example(number, "w", 0.0) for number in range(4)]
    strong = [example(number, "s", 1.0) for number in range(4)]
    pair = PairTable("w", "s", weak, strong, np.array([[0.0, 1.0]] * 4))
    streams = [
        Streamed(0.2, 1.0, "weak", "weak", "early_commit"),
        Streamed(1.0, 1.1, "weak", "weak", "adequate"),
        Streamed(0.5, 1.5, "strong", "escalated", "early_abandon"),
        Streamed(1.2, 2.2, "strong", "escalated", "inadequate"),
    ]
    stats = [
        {"completion_tokens": 300, "cancelled_tokens": 30, "broken_off": {weak[2].prompt_id: 0.3}},
        {"completion_tokens": 200, "cancelled_tokens": 0, "broken_off": {}},
    ]
    row = Row.of("early", streams, pair, stats)
    assert (row.strong_share, row.quality, row.before_end, row.before_half) == (0.5, 0.5, 0.5, 0.5)
    assert row.wasted_tokens == pytest.approx(130 / 4)
    print_rows([row])
    assert "| early | 0.75 s |" in capsys.readouterr().out


async def test_the_recorded_server_tells_how_much_was_written_in_vain() -> None:
    row = example(1, "m", 1.0)
    server = RecordedServer(RecordedAnswers([row], ["m"]), tokens_per_s=200.0)
    config = uvicorn.Config(server.app(), port=0, log_level="error")
    listening = uvicorn.Server(config)
    task = asyncio.create_task(listening.serve())
    while not listening.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    port = listening.servers[0].sockets[0].getsockname()[1]
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": row.prompt}]}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as reply:
            seen = 0
            async for line in reply.content:
                seen += b"word" in line
                if seen == 20:
                    break
        for _ in range(100):
            async with session.get(f"http://127.0.0.1:{port}/__recorded/stats") as reply:
                data = json.loads(await reply.read())
            if data["models"]["m"]["cancelled"]:
                break
            await asyncio.sleep(0.02)
    listening.should_exit = True
    await task
    assert 18 <= data["models"]["m"]["cancelled_tokens"] < 60
    assert 0.18 <= data["broken_off"]["m"][row.prompt_id] < 0.6

"""The load generator and the null backend, against each other: what they count is what was sent."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from bench.null_upstream import plain_answer, stream_answer
from bench.processes import REPOSITORY, ServerProcess


@pytest.fixture
def null(tmp_path):
    with ServerProcess("bench.null_upstream", ["--chunks", "50"], tmp_path / "null.log") as server:
        for _ in range(100):
            if load(server, "--seconds", "0.05", "--connections", "1", check=False):
                break
        yield server


def load(server: ServerProcess, *arguments: str, check: bool = True) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", "--warm-s", "0.1",
         "--url", f"{server.base_url}/chat/completions", *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=check,
    )  # fmt: skip
    return json.loads(done.stdout) if done.stdout else {}


def test_closed_loop_counts_whole_answers(null):
    figures = load(null, "--seconds", "0.5", "--connections", "4")
    assert figures["requests"] > 10
    assert figures["failures"] == 0
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]


def test_streams_count_chunks(null):
    figures = load(null, "--seconds", "0.5", "--connections", "2", "--stream")
    assert figures["failures"] == 0
    assert figures["requests"] > 2
    assert figures["chunks_s"] >= 50 * figures["rps"]
    assert figures["first50_ms"] <= figures["p50_ms"]


def test_open_loop_keeps_to_its_rate(null):
    figures = load(null, "--seconds", "1.0", "--connections", "8", "--rate", "50")
    assert 30 <= figures["requests"] <= 60


def test_no_fresh_prompt_is_sent_twice():
    seen: list[bytes] = []

    class Upstream(asyncio.Protocol):
        def connection_made(self, transport):
            self._transport = transport

        def data_received(self, data):
            seen.append(data.split(b"\r\n\r\n", 1)[1])
            self._transport.write(plain_answer())

    async def run():
        server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        load = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.load", "--url", f"http://127.0.0.1:{port}/v1/chat/completions",
            "--fresh", "--connections", "2", "--seconds", "0.2", "--warm-s", "0.1", cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert json.loads((await load.communicate())[0])["failures"] == 0
        server.close()

    asyncio.run(run())
    assert len(seen) > 10
    assert len(set(seen)) == len(seen)
    assert all("hello" in json.loads(body)["messages"][0]["content"] for body in seen)


def test_the_answers_are_http_and_json():
    head, body = plain_answer().split(b"\r\n\r\n", 1)
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)["choices"][0]["finish_reason"] == "stop"
    whole = b"".join(stream_answer(200))
    assert whole.count(b"data: {") == 200
    assert whole.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")

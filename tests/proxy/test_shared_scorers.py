"""One scorer process for all workers: the same scores, one copy of the weights, and life without it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import aiohttp
import psutil
import pytest

from proxy.bundle_scorers import load_bundle
from proxy.scorer_keeper import ScorerKeeper
from proxy.scorer_link import ScorerLink
from proxy.settings import RoutingSettings
from routing.bundle import open_bundle
from routing.errors import ScorerError
from routing.protocols import Answer
from routing.signals import Signals
from scorers.errors import ScoringFailed
from scorers.text import TEXT_TEMPLATE
from tests.chaos_upstream import ChaosUpstream
from tests.proxy.server_process import server_process, write_config

BUNDLE = Path(__file__).parents[2] / "demo/bundle"
PROMPTS = [
    "Find 17 + 28.",
    "Today is Friday. What day is it in 9 days?",
    "",
    "zw\N{CYRILLIC SMALL LETTER YU}lf " * 90,
]
ANSWERS = [
    Answer("45", "stop", (-0.1, -0.4), 2),
    Answer("Sunday", "stop", None, None),
    Answer("", "length", (), 0),
]


@pytest.fixture
async def keeper(tmp_path):
    """A scorer process without a server."""
    life_read, life_write = os.pipe()
    keeper = ScorerKeeper(tmp_path, "scorers", life_read)
    keeper.start()
    yield keeper
    await keeper.stop()
    os.close(life_read)
    os.close(life_write)


async def _prompt_scores(scorers, prompts):
    async def one(prompt):
        signals = Signals()
        await scorers.read_prompt(prompt, signals)
        return signals.route_score, signals.difficulty, signals.unfamiliar

    return await asyncio.gather(*map(one, prompts))


async def test_scores_are_those_of_this_process_and_a_dead_one_fails_at_once(keeper):
    near = load_bundle(BUNDLE, RoutingSettings(), threads=1)
    far = load_bundle(BUNDLE, RoutingSettings(), scorer_socket=keeper.socket)
    try:
        await far.warm()
        here, there = await _prompt_scores(near, PROMPTS), await _prompt_scores(far, PROMPTS)
        for ours, theirs in zip(here, there, strict=True):
            assert theirs[:2] == pytest.approx(ours[:2], abs=1e-4)
            assert theirs[2] == ours[2]
        assert len(set(there)) > 1
        stranger = ScorerLink(keeper.socket, BUNDLE, "another")
        with pytest.raises(ScoringFailed, match="a worker wants another"):
            await stranger.warm()
        with pytest.raises(ScoringFailed, match="a worker wants another"):
            await stranger.prompt("hello")
        await stranger.close()
        assert await far.score_answers(PROMPTS[0], ANSWERS) == pytest.approx(
            await near.score_answers(PROMPTS[0], ANSWERS), abs=1e-4
        )
        assert isinstance((await _prompt_scores(far, ["lone \ud800 surrogate"]))[0][0], float)

        (child,) = (p for p in psutil.Process().children() if "proxy.scorer_process" in p.cmdline())
        child.suspend()  # so that the answer is still owed when it dies
        asking = asyncio.ensure_future(far.score_answers("x" * 20_000, ANSWERS[:1]))
        await asyncio.sleep(0.01)
        child.kill()
        with pytest.raises(ScorerError):
            await asking
        began = time.monotonic()
        with pytest.raises(ScorerError, match="not there"):
            await far.score_answers("anything", ANSWERS[:1])
        assert time.monotonic() - began < 0.5, "a request does not wait for it to come back"
        assert await _prompt_scores(far, PROMPTS[:1]) == there[:1], "what was scored before is kept"
        await far.warm()
        assert (await far.score_answers("anything", ANSWERS[:1]))[0] >= 0.0
    finally:
        await far.close()
        await near.close()


async def test_workers_share_one_copy_and_go_on_without_it(tmp_path):
    version = open_bundle(BUNDLE, TEXT_TEMPLATE).version
    async with ChaosUpstream("weak-model", "45") as upstream:
        config = tmp_path / "upshift.yaml"
        write_config(
            config, {"weak": upstream.url, "strong": upstream.url}, server={"workers": 2}, bundle=str(BUNDLE)
        )
        async with server_process(config) as server, aiohttp.ClientSession() as session:
            await server.until(lambda: server.ready_lines == 2)

            async def route(prompt):
                async with session.post(f"{server.url}/v1/route", json={"prompt": prompt}) as reply:
                    return await reply.json()

            first = await route(PROMPTS[0])
            assert first["policy"] == version
            assert 0.0 <= first["route_score"] <= 1.0
            children = psutil.Process(server.process.pid).children(recursive=True)
            owners = [child for child in children if _holds_weights(child)]
            assert len(children) == 3
            assert len(owners) == 1, "the weights are in one process"

            os.kill(owners[0].pid, signal.SIGKILL)
            owners[0].wait(5)
            async with session.post(
                f"{server.url}/v1/chat/completions",
                json={"model": "upshift", "messages": [{"role": "user", "content": "a new prompt"}]},
            ) as reply:
                assert reply.status == 200
                assert reply.headers["x-upshift-reason"] == "scorer_failed"
                assert reply.headers["x-upshift-tier"] == "strong"
            end = time.monotonic() + 30
            for index in range(10_000):
                if isinstance((await route(f"prompt {index}")).get("route_score"), float):
                    break
                assert time.monotonic() < end, server.log
                await asyncio.sleep(0.1)
            assert "the scorer process" in server.log
            assert await server.end() == 0
    assert not [child for child in children if child.is_running()]


@pytest.mark.parametrize(("bundle", "copies"), [(None, 1), ("none", 0)])
async def test_the_starter_bundle_is_shared_too_and_none_needs_no_process(tmp_path, bundle, copies):
    async with ChaosUpstream("weak-model", "45") as upstream:
        config = tmp_path / "upshift.yaml"
        write_config(
            config, {"weak": upstream.url, "strong": upstream.url}, server={"workers": 2}, bundle=bundle
        )
        async with server_process(config) as server, aiohttp.ClientSession() as session:
            await server.until(lambda: server.ready_lines == 2)
            async with session.post(f"{server.url}/v1/route", json={"prompt": PROMPTS[0]}) as reply:
                told = await reply.json()
            assert isinstance(told["route_score"], float) == bool(copies)
            children = psutil.Process(server.process.pid).children(recursive=True)
            assert len(children) == 2 + copies
            assert len([child for child in children if _holds_weights(child)]) == copies


def _holds_weights(process: psutil.Process) -> bool:
    return any("onnxruntime" in part.path for part in process.memory_maps())


async def test_the_event_loop_goes_on_while_prompts_are_scored():
    """In-process, the other case: an encoder at work may not hold up the requests beside it."""
    scorers = load_bundle(BUNDLE, RoutingSettings(), threads=1)
    try:
        await scorers.warm()
        work = asyncio.gather(
            _prompt_scores(scorers, [f"What is {index} plus {index * 7}? " * 8 for index in range(120)])
        )
        lags = []
        while not work.done():
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append(time.perf_counter() - began - 0.005)
        await work
        lags.sort()
        assert len(lags) > 20, "too short to tell"
        assert lags[len(lags) // 2] < 0.05
    finally:
        await scorers.close()

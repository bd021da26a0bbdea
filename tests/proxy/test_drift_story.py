"""The whole loop on recorded answers: healthy traffic, drift, alarm, retraining, trial, recovery.

The bundle in force was fitted on ten families of short questions. Then customers come with long ones about
orders. Everything is real but the two models, whose answers are recorded, and the judge, who knows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from demo.tasks import draw_tasks
from tests.proxy.bundle_copies import light_copy
from tests.proxy.live_proxy import LiveProxy, live_proxy, make_settings
from tests.trainer.answering import Answering, Body, ask_of
from tests.trainer.judging import material_of
from trainer.cli_train import main

ITEMS = ("chairs", "lamps", "desks", "shelves", "mirrors", "carpets")
OPENINGS = ("Good morning, I am writing about my last order.", "Hello, I hope that you can help me.",
            "Dear support team, I have a question about an invoice.")  # fmt: skip


def order(number: int, rng: random.Random) -> tuple[str, str]:
    """A long question and its answer."""
    item, count, price = rng.choice(ITEMS), rng.randint(2, 60), rng.randint(3, 90)
    prompt = (
        f"{rng.choice(OPENINGS)} On order {number} there were {count} {item} at {price} euros each, and the "
        "letter that came with the parcel says nothing about the sum. Could you tell me what the whole "
        "order comes to before delivery? Thank you very much for your trouble and have a nice day."
    )
    return prompt, str(count * price)


class Recorded:
    """What both models answered: strong is right, weak is right about short questions and small orders."""

    def __init__(self) -> None:
        rng = random.Random(0)
        self.healthy = [(task.prompt, task.reference) for task in draw_tasks("test", 70, seed=5)]
        self.drifted = [order(number, rng) for number in range(1_000, 1_300)]
        self.right = dict(self.healthy + self.drifted)

    def reply(self, body: Body) -> str:
        right = self.right[ask_of(body)]
        small = len(right) <= 3
        return right if body["model"] == "strong-model" or small else f"{right}0"

    def judge(self, body: Body) -> str:
        shown = material_of(body)
        good = shown["answer"].strip() == self.right[shown["prompt"].strip()]
        return json.dumps({"reason": "compared", "score": 10 if good else 0})


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def servers(recorded: Recorded) -> Iterator[tuple[Answering, Answering]]:
    with Answering(recorded.reply) as models, Answering(recorded.judge) as judge:
        yield models, judge


def settings_of(folder: Path, models: Answering, canary: Path | None = None) -> Any:
    tiers = [
        {"name": name, "url": models.url, "model": f"{name}-model", "output_usd_per_mtok": price}
        for name, price in (("weak", 1.0), ("strong", 10.0))
    ]
    trial = {} if canary is None else {"canary": {"bundle": str(canary), "share": 0.5, "least_rows": 20}}
    return make_settings(
        tiers,
        bundle=str(folder / "bundle"),  # type: ignore[arg-type]
        log={"url": f"sqlite:///{folder / 'log.db'}", "flush_interval_s": 0.05, "store_text": True},
        loop={"interval_s": 0.1, "drift": {"least_rows": 40}, **trial},
    )


async def send(proxy: LiveProxy, prompts: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Eight at a time; the answers' headers."""
    gate = asyncio.Semaphore(8)

    async def one(prompt: str) -> dict[str, str]:
        async with gate:
            seen = await proxy.ask(messages=[{"role": "user", "content": prompt}])
        assert seen.status == 200, seen.body
        return seen.headers

    return await asyncio.gather(*(one(prompt) for prompt, _ in prompts))


async def until(proxy: LiveProxy, condition: Any) -> Any:
    end = time.monotonic() + 60
    while not condition(found := proxy.live.app.loop.snapshot()):
        assert time.monotonic() < end, found
        await asyncio.sleep(0.05)
    return found


def a_month_passes(log: Path) -> None:
    with contextlib.closing(sqlite3.connect(log)) as database, database:
        database.execute("UPDATE decisions SET at = at - 30 * 86400")


def retrain(folder: Path, models: Answering, judge: Answering) -> Path:
    config = {
        "work": "work",
        "models": [{"model": f"{name}-model", "url": models.url} for name in ("weak", "strong")],
        "price_ratio": 0.1,
        "collect": {"max_tokens": 16},
        "label": {"judge": judge.url_of("judge")},
        "split": {"fit": 0.7, "calibrate": 0.2, "test": 0.1},
        "fit": {"mf_form": "correctness", "difficulty": False, "evaluator": False, "max_minutes": 0.02},
        "evaluate": {"draws": 5, "coverage_draws": 0},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    log = f"sqlite:///{folder / 'log.db'}"
    command = ["--config", str(folder / "train.yaml"), "--from-log", log, "--log-days", "7"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small lose more to waiting threads than they gain
    try:
        assert main(command) == 0
    finally:
        torch.set_num_threads(threads)
    return folder / "work" / "bundle"


@pytest.mark.timeout(300)
async def test_alarm_retraining_trial_recovery(
    tmp_path: Path, recorded: Recorded, servers: tuple[Answering, Answering]
) -> None:
    models, judge = servers
    old = light_copy(tmp_path / "bundle").version
    settings = settings_of(tmp_path, models)
    async with live_proxy(settings) as proxy:
        await send(proxy, recorded.healthy)
        found = await until(proxy, lambda s: s.savings.requests == len(recorded.healthy))
        assert found.drift.alarmed == (), "healthy traffic"
    a_month_passes(tmp_path / "log.db")

    async with live_proxy(settings) as proxy:
        await send(proxy, recorded.drifted[:210])
        found = await until(proxy, lambda s: s.drift.alarmed)
        assert "prompt_length" in found.drift.alarmed
        assert found.drift.since is not None

        bundle = await asyncio.to_thread(retrain, tmp_path, models, judge)
        assert await proxy.live.reload(lambda: settings_of(tmp_path, models, bundle))
        told = await send(proxy, recorded.drifted[210:])
        versions = {headers["x-upshift-policy"] for headers in told}
        assert len(versions) == 2
        (new,) = versions - {old}
        tried = sum(headers["x-upshift-policy"] == new for headers in told)
        found = await until(
            proxy, lambda s: s.canary.canary is not None and s.canary.canary.requests == tried
        )
        assert found.canary.state == "running", "the new bundle knows this traffic"
        assert not [signal.name for signal in found.canary.canary.drift if signal.alarmed]
        assert found.drift.alarmed, "the old one still does not"

        async with proxy.session.post(f"{proxy.url}/admin/canary/promote") as answer:
            assert answer.status == 200
        told = await send(proxy, recorded.drifted[:210])  # sixty leave the index to chance
        assert {headers["x-upshift-policy"] for headers in told} == {new}
        found = await until(proxy, lambda s: s.policy == new and s.savings.requests >= 470)
        assert found.drift.alarmed == (), "recovered"
        assert proxy.count("upshift_drift", signal="prompt_length") <= 0.25

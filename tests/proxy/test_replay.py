"""`upshift replay` on a real server's log with real scorers: its own policy, others, another bundle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.bundle_scorers import load_bundle
from proxy.cli import main
from proxy.settings import RoutingSettings
from routing.bundle import open_bundle, rewrite_bundle
from scorers.text import TEXT_TEMPLATE
from tests.proxy.live_proxy import live_proxy, make_settings
from tests.upstream import Upstream

BUNDLE = Path(__file__).resolve().parents[2] / "demo" / "bundle"
THRESHOLD = 0.45
REQUESTS = 24


@pytest.fixture
def pair() -> Iterator[list[dict[str, Any]]]:
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        weak.script.text = strong.script.text = "45"
        yield [
            {"name": "weak", "url": weak.url, "model": "weak-model", "output_usd_per_mtok": 1.0},
            {"name": "strong", "url": strong.url, "model": "strong-model", "output_usd_per_mtok": 10.0},
        ]


async def traffic(pair: list[dict[str, Any]], log: str, store_text: bool) -> int:
    """Sums of growing size under the evaluator, a third explored. Returns the strong calls clients saw."""
    routing = RoutingSettings(strategy="evaluator", threshold=THRESHOLD, explore_share=0.3)
    settings = make_settings(
        pair,
        routing=routing.model_dump(),
        log={"url": log, "flush_interval_s": 0.05, "store_text": store_text},
    )
    strong = 0
    async with live_proxy(settings, load_bundle(BUNDLE, routing)) as proxy:  # type: ignore[arg-type]
        for number in range(REQUESTS):
            prompt = f"Find {number} + {7 * number}."
            seen = await proxy.ask(messages=[{"role": "user", "content": prompt}])
            assert seen.status == 200
            strong += seen.headers["x-upshift-tier"] == "strong"
        await proxy.ask(model="upshift-mf-0.5")  # the client's own choice: no evidence
        await proxy.ask(model="strong")
    return strong


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    capsys.readouterr()
    status = main(["replay", *arguments])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else None, err


def test_replay(pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = f"sqlite:///{tmp_path / 'log.db'}"
    strong = asyncio.run(traffic(pair, log, store_text=False))

    # The policy itself, without its exploration: nothing of it is unsupported.
    own = ("--log", log, "--bundle", str(BUNDLE), "--strategy", "evaluator", "--threshold", str(THRESHOLD))
    status, report, _ = run(capsys, *own)
    assert status == 0
    assert report["log"] == {
        "replayed": REQUESTS, "rescored": 0, "chosen_by_client": 1, "unscored": 0,
    }  # fmt: skip
    assert report["logged_strong_calls"] == pytest.approx(strong / REQUESTS)
    calls = report["strong_calls"]
    assert 0 <= calls["low"] <= calls["estimate"] <= calls["high"] <= 1 + 1e-9
    assert report["unsupported"] == 0
    assert 0 < report["evidence"] <= REQUESTS
    assert report["always_strong_usd"] == pytest.approx(10.0 * 7 / 1e6)  # seven tokens an answer

    # Thresholds move it the right way, to the ends of the scale.
    def share(threshold: float) -> float:
        _, moved, _ = run(capsys, *own[:-1], str(threshold))
        return float(moved["strong_calls"]["estimate"])

    explored = float(open_bundle(BUNDLE, TEXT_TEMPLATE).read_json("policy.json")["explore_share"])
    assert share(0.0) == pytest.approx(1.0)
    assert share(1.0) == pytest.approx(0.5 * explored)


def test_other_scorers_need_text(pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(BUNDLE, other)
    bundle = open_bundle(other, TEXT_TEMPLATE)
    calibration = bundle.read_json("calibration.json")
    rewrite_bundle(bundle, {"calibration.json": json.dumps({**calibration, "changed": True}).encode()})
    log = f"sqlite:///{tmp_path / 'log.db'}"
    asyncio.run(traffic(pair, log, store_text=True))
    wanted = ("--strategy", "evaluator", "--threshold", str(THRESHOLD))
    status, again, _ = run(capsys, "--log", log, "--bundle", str(other), *wanted)
    assert status == 0
    assert again["log"]["rescored"] == REQUESTS
    _, first, _ = run(capsys, "--log", log, "--bundle", str(BUNDLE), *wanted)
    # The maps are the same in both bundles, so scoring the stored text must give the logged scores back.
    assert again["strong_calls"] == pytest.approx(first["strong_calls"])

    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as database, database:
        database.execute("UPDATE decisions SET prompt = NULL, judged = NULL")
    status, _, err = run(capsys, "--log", log, "--bundle", str(other), *wanted)
    assert status == 1
    assert "log.store_text: true" in err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--log", "sqlite:///nowhere.db"), "there is no file nowhere.db"),
        (("--log", "mysql://x"), "not sqlite:///PATH"),
        (("--log", "sqlite:///nowhere.db", "--since", "soon"), "12h, 7d or 4w"),
        (("--log", "sqlite:///nowhere.db", "--confidence", "2"), "(0, 1)"),
        (("--log", "sqlite:///nowhere.db", "--strategy", "tarot"), "no strategy 'tarot'"),
    ],
)
def test_what_cannot_be_read_says_why(arguments, word, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *arguments, "--bundle", str(BUNDLE))
    assert status == 1
    assert word in err

"""`collect --engine ray` on a real local Ray cluster: the same artifact as the local engine's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.trainer.answering import Answering
from tests.trainer.killing import run_through, unmeasured
from tests.trainer.tables import write_jsonl

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.timeout(400),
]


def test_the_artifact_is_the_local_engine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine needs more than the 30 s and 20 s that Ray gives its own processes to start.
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "150")
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "150000")
    table = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Number {n}."} for n in range(24)])
    with Answering(delay_s=0.02) as server:
        for engine in ("local", "ray"):
            run_through(
                "trainer.cli_collect",
                ["--prompts", str(table), "--out", str(tmp_path / f"{engine}.jsonl"), "--engine", engine,
                 "--weak", server.url_of("small"), "--strong", server.url_of("big"), "--concurrency", "16"],
                within_s=180,
            )  # fmt: skip
            assert server.asked.total() == 48
            assert len(server.asked) == 48
            assert 8 < server.most_in_flight <= 16
            server.asked.clear()
            server.most_in_flight = 0
    assert unmeasured(tmp_path / "ray.jsonl") == unmeasured(tmp_path / "local.jsonl")

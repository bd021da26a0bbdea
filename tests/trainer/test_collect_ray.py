"""`collect --engine ray` on a real local Ray cluster: the same artifact as the local engine's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.trainer.answering import Answering
from tests.trainer.killing import start, unmeasured
from tests.trainer.tables import write_jsonl

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.timeout(300),
]


def test_the_artifact_is_the_local_engine_s(tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Number {n}."} for n in range(24)])
    with Answering(delay_s=0.02) as server:
        for engine in ("local", "ray"):
            child = start(
                "trainer.cli_collect",
                ["--prompts", str(table), "--out", str(tmp_path / f"{engine}.jsonl"), "--engine", engine,
                 "--weak", server.url_of("small"), "--strong", server.url_of("big"), "--concurrency", "16"],
            )  # fmt: skip
            try:
                _, told = child.communicate(timeout=150)
            finally:
                child.kill()
                child.communicate()
            if b"timed out during startup" in told:
                pytest.skip("this machine is too busy for Ray: its own processes start in 20 s or not at all")
            assert child.returncode == 0, told.decode()
            assert server.asked.total() == 48
            assert len(server.asked) == 48
            assert 8 < server.most_in_flight <= 16
            server.asked.clear()
            server.most_in_flight = 0
    assert unmeasured(tmp_path / "ray.jsonl") == unmeasured(tmp_path / "local.jsonl")

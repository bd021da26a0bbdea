"""`collect --engine ray` on a real local Ray cluster: the same artifact as the local engine's."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from scorers.text import prompt_id
from tests.trainer.answering import Answering
from tests.trainer.killing import start, unmeasured
from tests.trainer.tables import write_jsonl
from trainer.collect import CollectOptions, questions, read_prompts
from trainer.collect_ray import AskBlock, encode_question
from trainer.endpoint import parse_endpoint


@pytest.mark.parametrize("key", ["right-key", "wrong-key"])
def test_a_worker_answers_its_block_or_says_what_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """What a worker gets and gives crosses between machines: pickled options, text in and out."""
    table = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Number {n}."} for n in range(5)])
    monkeypatch.setenv("UPSHIFT_API_KEY", key)
    with Answering() as server:
        server.key = "right-key"
        models = (parse_endpoint(server.url_of("small")), parse_endpoint(server.url_of("big")))
        options = CollectOptions(table, models, tmp_path / "a.jsonl")
        block = [encode_question(question) for question in questions(options, read_prompts(table))]
        worker = AskBlock(pickle.loads(pickle.dumps(options)))
        values = [json.loads(text) for text in worker({"question": np.array(block, dtype=object)})["entry"]]
    if key == "wrong-key":
        assert "answered 401" in values[-1]["ended"]
        return
    entries, told = values[:-2], values[-2:]
    assert {tuple(entry["key"]) for entry in entries} == {
        (prompt_id(f"Number {n}."), model, 0) for n in range(5) for model in ("small", "big")
    }
    assert "big says: .4 rebmuN" in [entry["response"] for entry in entries]
    assert [value["endpoint"]["model"] for value in told] == ["small", "big"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.timeout(300)
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
            several = 8 if engine == "local" else 1  # Ray's workers may start one after the other
            assert several < server.most_in_flight <= 16
            server.asked.clear()
            server.most_in_flight = 0
    assert unmeasured(tmp_path / "ray.jsonl") == unmeasured(tmp_path / "local.jsonl")

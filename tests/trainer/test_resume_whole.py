"""Ten kills of the stages that no other file kills so often, and of `upshift train` over HTTP, at full size.

`train` collects from the server of recorded answers, in a process of its own that counts what it is asked.
The other stages' ten kills stand beside their short tests (test_collect_resume, test_label,
test_resume_fit, test_resume_stages).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.trainer.kill_stage import ROOT, files_of, run, run_killed
from tests.trainer.killing import unmeasured
from tests.trainer.tables import STRONG, WEAK, example_rows, write_jsonl

CONCURRENCY = 4
KILLS = 10
PROMPTS = 400
FIXED_TIME = {"SOURCE_DATE_EPOCH": "1767225600"}

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[str]:
    """URL of the recorded answers' server, for both models."""
    table = write_jsonl(tmp_path / "recorded.jsonl", example_rows(PROMPTS))
    asked = ["--examples", str(table), "--model", WEAK, STRONG, "--port", "0", "--tokens-per-s", "400"]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.recorded", *asked],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1]
        server.terminate()


def requests_of(url: str, clear: bool = False) -> int:
    """How many requests for answers the server has had, of both models."""
    request = urllib.request.Request(
        url.replace("/v1", "/__recorded/stats"), method="DELETE" if clear else "GET"
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        body = reply.read()
    return 0 if clear else sum(counters["requests"] for counters in json.loads(body)["models"].values())


def write_prompts(folder: Path) -> Path:
    weak = [row for row in example_rows(PROMPTS) if row["model"] == WEAK]
    sums = [row["response"].split(" = ")[0].split(" + ") for row in weak]
    rows = [
        {"prompt": row["prompt"], "reference": str(int(a) + int(b)), "group": row["group"]}
        for row, (a, b) in zip(weak, sums, strict=True)
    ]
    return write_jsonl(folder / "asked.jsonl", rows)


def write_config(folder: Path, name: str, url: str) -> Path:
    config = {
        "work": name,
        "prompts": "asked.jsonl",
        "models": [{"model": model, "url": url, "tier": model} for model in (WEAK, STRONG)],
        "collect": {"concurrency": CONCURRENCY},
        "label": {"verify": "numeric"},
        "fit": {"max_minutes": 0.2, "lora_rank": 2},
        "evaluate": {"draws": 50, "coverage_draws": 0},
        "publish": {"to": f"{name}-published", "licence": "made up"},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_train_over_http(tmp_path: Path, recorded: str) -> None:
    write_prompts(tmp_path)
    whole = run("trainer.cli_train", "--config", write_config(tmp_path, "a", recorded), env=FIXED_TIME)
    assert requests_of(recorded) == 2 * PROMPTS
    requests_of(recorded, clear=True)
    killed = run_killed(
        "trainer.cli_train", "--config", write_config(tmp_path, "b", recorded),
        kills=KILLS, within_s=whole.seconds / 2, env=FIXED_TIME,
    )  # fmt: skip
    assert killed.kills >= KILLS // 2
    assert requests_of(recorded) <= 2 * PROMPTS + CONCURRENCY * killed.kills
    for name in ("answers.jsonl", "examples.jsonl"):
        assert unmeasured(tmp_path / "a" / name) == unmeasured(tmp_path / "b" / name)
    # After these two nothing a clock measured is left; their manifests hold the hash of what was measured.
    measured = ("answers.", "examples.", "train.json")
    for one, other in (("a", "b"), ("a-published", "b-published")):
        left, right = (
            {
                file: content
                for file, content in files_of(tmp_path / name).items()
                if not file.startswith(measured) and not file.endswith(".lock")
            }
            for name in (one, other)
        )
        assert any(file.endswith("evaluator.safetensors") for file in left)
        assert left == right


def test_prompts(tmp_path: Path) -> None:
    """Long enough to be hit: near duplicates among thousands."""
    rows = [{"prompt": f"{row['prompt']} And then {n}?"} for row in example_rows(500) for n in range(4)]
    table = write_jsonl(tmp_path / "p.jsonl", rows)
    rest = ("trainer.cli_prompts", "--prompts", table)
    whole = run(*rest, "--out", tmp_path / "a" / "p.jsonl")
    killed = run_killed(*rest, "--out", tmp_path / "b" / "p.jsonl", kills=KILLS, within_s=whole.seconds)
    assert killed.kills >= KILLS // 2
    left, right = (
        {file: content for file, content in files_of(tmp_path / name).items() if file.endswith(".jsonl")}
        for name in "ab"
    )
    assert left
    assert left == right


def test_publish(tmp_path: Path) -> None:
    rest = ("trainer.cli_publish", ROOT / "demo" / "bundle", "--licence", "made up")
    whole = run(*rest, "--to", tmp_path / "a", env=FIXED_TIME)
    killed = run_killed(*rest, "--to", tmp_path / "b", kills=KILLS, within_s=whole.seconds, env=FIXED_TIME)
    assert killed.kills >= KILLS // 2
    left, right = (
        {file: content for file, content in files_of(tmp_path / name).items() if not file.endswith(".lock")}
        for name in "ab"
    )
    assert left == right

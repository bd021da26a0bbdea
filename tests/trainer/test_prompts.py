"""Prompts: from files, data sets and the decision log; duplicates and contamination out; split for ever."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from proxy.decision_log import QueuedLog, open_decision_log
from proxy.settings import LogSettings
from routing.errors import ExamplesError, SettingsError
from scorers.text import prompt_id
from tests.proxy.postgres_server import PostgresServer, postgres_server, why_not
from tests.trainer.answering import Answering
from tests.trainer.fake_hub import FakeHub
from tests.trainer.tables import write_jsonl
from trainer.cli_collect import main as collect_main
from trainer.cli_prompts import main
from trainer.manifest import read_manifest
from trainer.prompts import PromptOptions, gather_prompts
from trainer.prompts_contamination import find_contaminated
from trainer.prompts_near import find_near_duplicates, jaccard, shingle_hashes
from trainer.table_file import read_rows

LONG = "The committee that met on Thursday decided to postpone the vote on the new bridge until the spring"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)]


def gather(folder: Path, *sources: Any, **changes: Any) -> list[dict[str, Any]]:
    options = PromptOptions(tuple(map(str, sources)), folder / "prompts.jsonl", **changes)
    return rows_of(gather_prompts(options))


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder / "prompts.jsonl")
    assert manifest is not None
    return manifest


def test_files_of_every_kind_and_exact_duplicates(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": "one", "reference": 1}, {"prompt": " one "}])
    (tmp_path / "b.csv").write_text('\ufeffprompt,group\n"two\nlines",g\none,g\n')
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"},
             {"role": "user", "content": "z"}]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table({"messages": [turns]}), tmp_path / "c.parquet")
    rows = gather(tmp_path, tmp_path / "a.jsonl", tmp_path / "b.csv", tmp_path / "c.parquet")
    assert [row["prompt"] for row in rows] == ["one", "two\nlines", "User: x\n\nAssistant: y\n\nUser: z"]
    assert rows[0]["reference"] == "1"
    assert rows[1]["group"] == "g"
    assert rows[2]["messages"] == turns
    assert all(row["prompt_id"] == prompt_id(row["prompt"]) for row in rows)
    assert manifest_of(tmp_path)["counts"]["sources"][str(tmp_path / "b.csv")] == {
        "read": 2, "distinct": 1, "taken": 1
    }  # fmt: skip


def test_a_row_without_a_prompt_is_told(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("question\nwhat?\n")
    with pytest.raises(ExamplesError, match=r"b\.csv, row 1: prompt is None"):
        gather(tmp_path, tmp_path / "b.csv")
    assert gather(tmp_path, tmp_path / "b.csv", column="question")[0]["prompt"] == "what?"
    with pytest.raises(SettingsError, match=r"'hf:x': expected hf:OWNER/NAME:SPLIT:COLUMN, or one of alpaca"):
        gather(tmp_path, "hf:x")


def test_limit_draws_by_hash_and_split_stays_when_sources_are_added(tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "a.jsonl", [{"prompt": f"number {n}"} for n in range(400)])
    rows = gather(tmp_path, table, limit=200)
    assert len(rows) == 200
    counts = manifest_of(tmp_path)["counts"]["splits"]
    assert set(counts) == {"train", "calibration", "certification", "test"}
    assert 90 < counts["train"] < 150
    more = write_jsonl(tmp_path / "b.jsonl", [{"prompt": f"other {n}"} for n in range(50)])
    again = {row["prompt_id"]: row["split"] for row in gather(tmp_path, more, table, limit=200)}
    assert all(again[row["prompt_id"]] == row["split"] for row in rows)
    before = (tmp_path / "prompts.jsonl").read_bytes()
    gather(tmp_path, more, table, limit=200)
    assert (tmp_path / "prompts.jsonl").read_bytes() == before


def test_near_duplicates_go_but_not_those_with_other_numbers(tmp_path: Path) -> None:
    texts = [LONG, LONG.upper() + ".", LONG.replace("Thursday", "thursday,"), LONG.replace("spring", "war"),
             "What is 12 + 7, please tell me the sum of it?", "What is 12 + 9, please tell me the sum of it?",
             "", "ab", "ab "]  # fmt: skip
    assert find_near_duplicates(texts) == {1: 0, 2: 0, 3: 0, 8: 7}
    assert find_near_duplicates(texts, 0.99) == {8: 7}
    assert jaccard(shingle_hashes("abcdef"), shingle_hashes("abcdefg")) == pytest.approx(2 / 3)
    table = write_jsonl(tmp_path / "a.jsonl", [{"prompt": text} for text in texts[:6]])
    assert len(gather(tmp_path, table, near_threshold=0.0)) == 6
    assert len(gather(tmp_path, table)) == 3
    assert manifest_of(tmp_path)["near_duplicates"][0]["of"] == prompt_id(LONG)


def test_contamination_is_removed_and_reported(tmp_path: Path) -> None:
    held = [LONG, "short one"]
    texts = [f"Please read this: {LONG}, and tell me who met.", "Short one!", "The committee met.", "other"]
    assert find_contaminated(texts, held) == {0: 0, 1: 1}
    template = "Read the question below and answer with the letter of the right choice only:"
    prompts = [f"{template} item {n} {'abcdefghij'[n % 10] * 9}" for n in range(30)]
    assert not find_contaminated(prompts[:15], prompts[15:])  # a template gives nothing away
    table = write_jsonl(tmp_path / "a.jsonl", [{"prompt": text} for text in texts])
    secret = write_jsonl(tmp_path / "held.jsonl", [{"prompt": text} for text in held])
    rows = gather(tmp_path, table, held_out=(secret,))
    assert [row["prompt"] for row in rows] == texts[2:]
    assert manifest_of(tmp_path)["counts"]["contaminated"] == 2


def test_no_train_prompt_gives_a_test_prompt_away(tmp_path: Path) -> None:
    rows = []
    for n in range(60):  # pairs that share a long passage, and are no near duplicates
        passage = " ".join(f"word{n}x{i}" for i in range(20))
        tail = " ".join(f"tail{n}y{i}" for i in range(12))
        rows += [{"prompt": passage}, {"prompt": f"{passage} {tail}"}]
    found = gather(tmp_path, write_jsonl(tmp_path / "a.jsonl", rows), near_threshold=0.0)
    test = {row["prompt"] for row in found if row["split"] == "test"}
    removed = manifest_of(tmp_path)["counts"]["contaminated"]
    assert removed > 0
    assert len(found) + removed == 120
    others = [row["prompt"] for row in found if row["split"] != "test"]
    assert not find_contaminated(others, sorted(test))


HUB_FILES = {
    "openai/gsm8k": ("main/train/0000.parquet", {"question": ["2 + 2?"], "answer": ["so #### 4"]}),
    "cais/mmlu": ("all/test/0000.parquet", {
        "question": ["Which?"], "choices": [["w", "x", "y", "z"]], "answer": [2], "subject": ["law"]}),
    "tatsu-lab/alpaca": ("data/train-00000-of-00001-a09b.parquet", {
        "instruction": ["Shorten."], "input": ["Long text."], "output": ["Text."]}),
    "databricks/databricks-dolly-15k": ("default/train/0000.parquet", {
        "instruction": ["Who?"], "context": [""], "response": ["Me."], "category": ["open_qa"]}),
    "HuggingFaceH4/ultrachat_200k": ("default/train_sft/0000.parquet", {"prompt": ["Tell me a story."]}),
}  # fmt: skip


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    for repo, (name, columns) in HUB_FILES.items():
        path = tmp_path / "datasets" / repo / name
        path.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return tmp_path / "datasets"


def test_known_data_sets_and_any_other(
    tmp_path: Path, datasets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = gather(tmp_path, "gsm8k", "mmlu", "alpaca", "dolly", "ultrachat", datasets=datasets)
    assert [(row["source"], row["prompt"], row.get("reference"), row.get("group")) for row in rows] == [
        ("gsm8k", "2 + 2?", "so #### 4", None),
        ("mmlu", "Which?\nA. w\nB. x\nC. y\nD. z\nAnswer with the letter of the right choice.", "C", "law"),
        ("alpaca", "Shorten.\n\nLong text.", "Text.", None),
        ("dolly", "Who?", "Me.", "open_qa"),
        ("ultrachat", "Tell me a story.", None, None),
    ]
    assert manifest_of(tmp_path)["licences"]["alpaca"] == "CC BY-NC 4.0"
    spec = "hf:openai/gsm8k/main:train:question:answer"
    assert gather(tmp_path, spec, datasets=datasets)[0]["reference"] == "so #### 4"
    with pytest.raises(ExamplesError, match="has no column 'text'; there are: question, answer"):
        gather(tmp_path, "hf:openai/gsm8k:train:text", datasets=datasets)
    with pytest.raises(ExamplesError, match="no split 'test'; there are: main/train"):
        gather(tmp_path, "hf:openai/gsm8k:test:question", datasets=datasets)
    assert main(["--list"]) == 0
    assert "dolly: databricks/databricks-dolly-15k, train, CC BY-SA 3.0" in capsys.readouterr().out


def run_prompts(folder: Path, *sources: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-m", "trainer.cli_prompts", "--prompts", *sources, "--out",
         str(folder / "prompts.jsonl")],
        env={**os.environ, "PYTHONPATH": str(root), "HF_HOME": str(folder / "hf"), **environment},
        cwd=root, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_from_a_hub_over_http_and_then_from_its_cache(tmp_path: Path, datasets: Path) -> None:
    with FakeHub(datasets) as hub:
        done = run_prompts(tmp_path, "gsm8k", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
        assert done.returncode == 0, done.stderr
    assert "gsm8k: licence MIT" in done.stderr
    first = (tmp_path / "prompts.jsonl").read_bytes()
    done = run_prompts(tmp_path, "gsm8k", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "prompts.jsonl").read_bytes() == first
    done = run_prompts(tmp_path, "mmlu", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "cais/mmlu cannot be had from the hub" in done.stderr
    assert "give --datasets FOLDER" in done.stderr
    assert "Traceback" not in done.stderr


def log_row(number: int, **changes: Any) -> dict[str, Any]:
    text = f"What did customer {number} order?"
    return {
        "request_id": f"r{number}", "at": 1000.0 + number, "api": "chat", "stream": False,
        "strategy": "upshift", "policy": "p", "prompt_id": prompt_id(text), "decision": "weak",
        "reason": "easy_prompt", "tier": "weak", "outcome": "ok", "status": 200, "prompt": text, **changes,
    }  # fmt: skip


def write_log(url: str, rows: list[dict[str, Any]]) -> None:
    """With the proxy's own writer."""

    async def write() -> None:
        log = open_decision_log(LogSettings(url=url), lambda count: pytest.fail(f"{count} rows dropped"))
        assert isinstance(log, QueuedLog)
        for row in rows:
            log.record(row)
        await log.close()

    asyncio.run(write())


def check_log(folder: Path, url: str) -> None:
    write_log(url, [log_row(n, prompt=None) for n in range(3)])
    with pytest.raises(ExamplesError, match=r"3 requests and no text of any; .*`store_text: true`"):
        gather(folder, url)
    rows = [log_row(n % 5) for n in range(7)] + [log_row(8, outcome="client_error"), log_row(9)]
    write_log(url, rows)
    prompts = gather(folder, url)
    assert [row["prompt"] for row in prompts] == [f"What did customer {n} order?" for n in (0, 1, 2, 3, 4, 9)]
    assert {row["source"] for row in prompts} == {"log"}


def test_from_a_decision_log_in_sqlite(tmp_path: Path) -> None:
    check_log(tmp_path, f"sqlite:///{tmp_path}/log.db")
    (tmp_path / "other.db").write_text("no database, but long enough to look at")
    with pytest.raises(ExamplesError, match=r"other\.db cannot be read as a decision log"):
        gather(tmp_path, f"sqlite:///{tmp_path}/other.db")


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    if reason := why_not():
        pytest.skip(reason)
    with postgres_server() as server:
        yield server


@pytest.mark.postgres
def test_from_a_decision_log_in_postgresql(tmp_path: Path, postgres: PostgresServer) -> None:
    check_log(tmp_path, postgres.url)
    assert "postgres@" not in (tmp_path / "prompts.jsonl.manifest.json").read_text()


def test_collect_freezes_the_prompts_of_a_log_that_grows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    write_log(url, [log_row(n) for n in range(4)])
    with Answering() as server:
        asked = ["--prompts", url, "--out", str(tmp_path / "answers.jsonl"), "--weak", server.url_of("w")]
        assert collect_main(asked) == 0
        write_log(url, [log_row(n) for n in range(4, 8)])
        assert collect_main(asked) == 0
        assert server.asked.total() == 4
    assert {row["split"] for row in rows_of(tmp_path / "answers.jsonl")} <= {
        "train", "calibration", "certification", "test"
    }  # fmt: skip

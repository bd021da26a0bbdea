"""`upshift fit` killed with SIGKILL and run again gives the bytes of a run that was left alone.

One kill takes a minute on a free core, ten kills of all scorers many: both are `long`. What `make test` has
are the kills of single stages, and of publish (`test_resume_stages.py`, `test_publish.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.kill_stage import files_of, run, run_killed
from tests.trainer.tables import STRONG, WEAK, example_rows, write_jsonl


def arguments(table: Path, out: Path, *more: object) -> list[object]:
    pair = ["--weak", WEAK, "--strong", STRONG, "--checkpoint-every", "0.2", "--lora-rank", "2"]
    return ["--examples", table, *pair, "--out", out, *more]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed(tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "t.jsonl", example_rows(160))
    small = ["--no-difficulty", "--max-minutes", "0.02"]
    whole = run("trainer.cli_fit", *arguments(table, tmp_path / "a", *small), env=cache(tmp_path, "a"))
    killed = run_killed(
        "trainer.cli_fit", *arguments(table, tmp_path / "b", *small),
        kills=1, within_s=whole.seconds, seed=1, env=cache(tmp_path, "b"),
    )  # fmt: skip
    assert killed.kills > 0
    assert "policy.json" in files_of(tmp_path / "a")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir() if "work" in p.name or p.name.startswith(".")) == []


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_ten_times(tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "t.jsonl", example_rows(400))
    size = ["--max-minutes", "0.5"]
    whole = run("trainer.cli_fit", *arguments(table, tmp_path / "a", *size), env=cache(tmp_path, "a"))
    killed = run_killed(
        "trainer.cli_fit", *arguments(table, tmp_path / "b", *size),
        kills=10, within_s=whole.seconds / 2, env=cache(tmp_path, "b"),
    )  # fmt: skip
    assert killed.kills >= 3
    assert "policy.json" in files_of(tmp_path / "a")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_other_inputs_start_anew_with_a_word(tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "t.jsonl", example_rows(160))
    rest = ["--no-difficulty", "--no-evaluator"]
    work = tmp_path / "b.work"
    work.mkdir()
    (work / "inputs.json").write_text('{"tiers": ["x", "y"]}')
    (work / "mf").mkdir()
    (work / "mf" / "part.json").write_text('{"files": {}, "entry": {}, "log": {}}')
    done = run("trainer.cli_fit", *arguments(table, tmp_path / "b", *rest))
    assert "b.work was made from another" in done.stderr
    assert "tiers" in done.stderr
    assert (tmp_path / "b" / "mf.safetensors").is_file()
    assert not work.exists()


def cache(folder: Path, name: str) -> dict[str, str]:
    """A cold cache each: query vectors are part of what a kill may interrupt."""
    return {"UPSHIFT_CACHE": str(folder / f"cache-{name}")}

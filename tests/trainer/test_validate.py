"""`validate` says everything that is wrong with a table, with file and row, and passes what is sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.tables import STRONG, WEAK, example_rows, write_jsonl
from trainer.cli_validate import main
from trainer.examples import read_examples
from trainer.validate import find_problems


def test_everything_is_told_at_once(tmp_path: Path) -> None:
    base = {"prompt": "p", "model": "m", "quality": 1.0, "judge": "j"}
    rows = [
        base,
        {**base, "prompt": "q", "quality": 1.5},
        {**base, "prompt": "r", "quality": float("nan")},
        {**base, "prompt": "s", "judge": "other"},
        {**base, "prompt": " p "},
        {"prompt": "t", "quality": 1},
        {**base, "prompt": "u", "sample": 0},
        {**base, "prompt": "u", "sample": 1},
    ]
    table = write_jsonl(tmp_path / "t.jsonl", rows)
    with table.open("a") as file:
        file.write('{"prompt": \n[1]\n' + json.dumps({**base, "prompt": "v"}) + "\n")
    name = str(table)
    problems = find_problems([table, tmp_path / "gone.parquet"], ["m", "n"])
    assert [problem.removeprefix(name) for problem in problems] == [
        ", row 2: quality is 1.5, outside 0..1",
        ", row 3: quality is nan, outside 0..1",
        f", row 4: judge is 'other', that of {name}, row 1 is 'j'",
        f", row 5: 'm' has answered this prompt in {name}, row 1 already",
        ", row 6: model is None, a non-empty string was expected",
        ", row 9: not JSON (Expecting value: line 2 column 1 (char 12))",
        ", row 10: list where an object was expected",
        f"{tmp_path / 'gone.parquet'} does not exist",
        "all 6 answers of 'm' are adequate (quality against 0.5): one class only",
        "model 'n' has no row; there are: m",
    ]


def test_a_sound_table_passes_and_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_jsonl(tmp_path / "t.jsonl", example_rows(30))
    assert main([str(table), "--models", WEAK, STRONG]) == 0
    assert capsys.readouterr().out == "no problem\n"
    assert len(read_examples([table])) == 60


def test_missing_answers_and_many_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = example_rows(30)
    table = write_jsonl(tmp_path / "t.jsonl", rows[:-1])
    assert main([str(table), "--models", WEAK, STRONG]) == 1
    assert f"model {STRONG!r} lacks 1 of 30 prompts" in capsys.readouterr().out
    write_jsonl(table, [{**row, "quality": 2} for row in rows])
    assert main([str(table)]) == 1
    assert "... and 10 more (--all shows them)\n60 problems\n" in capsys.readouterr().out
    assert main([str(table), "--all"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 61
    write_jsonl(table, [])
    assert find_problems([table]) == ["there are no rows"]

"""What a user sees when a table cannot be used: one line, exit 1, with file, row and what would be right."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing.errors import ExamplesError
from tests.trainer.kill_stage import ROOT
from tests.trainer.population import draw_population
from tests.trainer.tables import STRONG, WEAK, example_rows, write_jsonl
from trainer import cli_calibrate, cli_evaluate, cli_fit
from trainer.scored import ScoredPairs

DEMO = ROOT / "demo" / "bundle"


def fit(table: Path) -> list[str]:
    return ["--examples", str(table), "--weak", WEAK, "--strong", STRONG, "--out", str(table.parent / "out")]


def calibrate(table: Path) -> list[str]:
    bundle = table.parent / "bundle"
    if not bundle.is_dir():
        shutil.copytree(DEMO, bundle)
    return [str(bundle), "--examples", str(table)]


def evaluate(table: Path) -> list[str]:
    return [str(DEMO), "--examples", str(table), "--out", str(table.parent / "report")]


STAGES = [(cli_fit.main, fit), (cli_calibrate.main, calibrate), (cli_evaluate.main, evaluate)]
BROKEN = {
    "cut": ('{"prompt": "x", "mod', r"row 3: not JSON"),
    "list": ("[1, 2]", r"row 3: list where an object was expected"),
    "above": ({"quality": 1.2}, r"row 3: quality is 1\.2, outside 0\.\.1"),
    "below": ({"quality": -0.1}, r"row 3: quality is -0\.1, outside 0\.\.1"),
    "nan": ({"quality": float("nan")}, r"row 3: quality is nan, outside 0\.\.1"),
    "text": ({"quality": "good"}, r"row 3: quality is 'good', a number from 0 to 1 was expected"),
    "absent": ({"quality": None}, r"row 3: quality is None, a number from 0 to 1 was expected"),
    "unnamed": ({"model": ""}, r"row 3: model is '', a non-empty string was expected"),
    "prompt": ({"prompt": None}, r"row 3: prompt is None, a non-empty string was expected"),
    "logprobs": ({"logprobs": [-0.1, float("nan")]}, r"row 3: logprobs must be a flat list"),
    "judge": ({"judge": "another"}, r"judges are mixed: 'another', 'exact'"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize(("main", "arguments"), STAGES)
def test_a_row_that_cannot_be_used_is_named(
    name: str,
    main: Callable[[list[str]], int],
    arguments: Callable[[Path], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change, told = BROKEN[name]
    lines = [json.dumps(row) for row in example_rows(20)]
    lines[2] = change if isinstance(change, str) else json.dumps({**json.loads(lines[2]), **change})
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(lines) + "\n")
    assert main(arguments(table)) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("upshift ")
    assert re.search(told, line)
    assert name == "judge" or str(table) in line


def test_classes_models_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(rows: list[dict[str, Any]], told: str) -> None:
        assert cli_fit.main(fit(write_jsonl(tmp_path / "t.jsonl", rows))) == 1
        assert told in capsys.readouterr().err

    rows = example_rows(60)
    says([{**row, "quality": 0.0} for row in rows], f"all 60 answers of {WEAK} in t.jsonl are inadequate")
    says([row for row in rows if row["model"] == WEAK], f"model '{STRONG}' has no row in t.jsonl")
    assert cli_fit.main(fit(tmp_path / "none.jsonl")) == 1
    assert "none.jsonl does not exist" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").write_text("\n")
    assert cli_evaluate.main(evaluate(tmp_path / "empty.jsonl")) == 1
    assert "empty.jsonl has no rows" in capsys.readouterr().err
    assert cli_calibrate.main(calibrate(write_jsonl(tmp_path / "t.jsonl", rows))) == 1
    assert "model 'demo-phi' has no row in t.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["gain_raw", "difficulty_raw", "adequate_raw"])
def test_scores_that_are_no_numbers_are_named(column: str) -> None:
    scored = draw_population(30)
    values = np.array(getattr(scored, column))
    values[7] = np.nan
    columns = {name: getattr(scored, name) for name in ScoredPairs.__slots__}
    with pytest.raises(
        ExamplesError, match=rf"column '{column}', row 7 \(prompt_id '[0-9a-f]+'\): nan is not"
    ):
        ScoredPairs(**{**columns, column: values})


def test_fifty_prompts_are_refused_with_the_number_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Strong is right always, weak half the time and nothing tells when: 50 labels prove nothing."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(50):
        for model, right in (("demo-phi", bool(random.random() < 0.9)), ("demo-mistral", True)):
            answer = f"{'' if right else 'not '}{number}"
            rows.append(
                {
                    "prompt": f"Say {number}.",
                    "model": model,
                    "response": answer,
                    "quality": float(right),
                    "judge": "x",
                }
            )
    assert cli_calibrate.main(calibrate(write_jsonl(tmp_path / "t.jsonl", rows))) == cli_calibrate.REFUSED
    told = capsys.readouterr().out
    assert re.search(r"refused: 50 labelled prompts do not prove 95% .*; about \d+ would", told)
    assert "The bundle is as it was." in told

"""Example tables: what is wrong is told with file and row; what is right comes in two forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from routing.errors import ExamplesError
from scorers.text import prompt_id
from tests.trainer.tables import STRONG, WEAK, example_rows, write_jsonl
from trainer.examples import pair_examples, read_examples, require_both_classes
from trainer.split import split_prompts


def row(**changes: Any) -> dict[str, Any]:
    base = {"prompt": "2 + 2?", "model": "m", "response": "4", "quality": 1.0, "judge": "exact"}
    return {k: v for k, v in {**base, **changes}.items() if v != "-"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": 1.5}, r"row 2: quality is 1\.5, outside 0\.\.1"),
        ({"quality": float("nan")}, r"row 2: quality is nan, outside 0\.\.1"),
        ({"quality": None}, r"row 2: quality is None, a number from 0 to 1"),
        ({"quality": True}, r"row 2: quality is True, a number from 0 to 1"),
        ({"prompt": "-"}, r"row 2: prompt is None, a non-empty string"),
        ({"prompt": "  "}, r"row 2: prompt is '  ', a non-empty string"),
        ({"model": ""}, r"row 2: model is '', a non-empty string"),
        ({"response": 4}, r"row 2: response is int, a string or null"),
        ({"prompt_id": "0123456789abcdef"}, r"row 2: prompt_id is '0123456789abcdef', the prompt's is"),
        ({"logprobs": [0.5]}, r"row 2: logprobs must be a flat list of natural logarithms"),
        ({"logprobs": ["a"]}, r"row 2: logprobs is not a list of numbers"),
        ({"cost_usd": -1}, r"row 2: cost_usd is -1, a number of at least 0"),
        ({"judge": "gpt"}, r"judges are mixed: 'exact', 'gpt'"),
        ({"messages": [{"role": "user", "content": "3 + 3?"}]}, r"row 2: prompt is not the rendered text"),
    ],
)
def test_bad_row_is_told_with_file_and_row(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_jsonl(tmp_path / "table.jsonl", [row(), row(**changes)])
    with pytest.raises(ExamplesError, match=message):
        read_examples([path])


def test_malformed_line_missing_file_and_unknown_kind(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(row()) + '\n{"prompt": \n')
    with pytest.raises(ExamplesError, match=r"broken\.jsonl, row 2: not JSON"):
        read_examples([broken])
    with pytest.raises(ExamplesError, match=r"gone\.parquet does not exist"):
        read_examples([tmp_path / "gone.parquet"])
    (tmp_path / "t.xlsx").touch()
    with pytest.raises(ExamplesError, match=r"expected \.parquet or \.jsonl, not '\.xlsx'"):
        read_examples([tmp_path / "t.xlsx"])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(ExamplesError, match=r"bad\.parquet cannot be read as parquet"):
        read_examples([tmp_path / "bad.parquet"])


def test_parquet_without_a_column_names_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a"], "model": ["m"]}), path)
    with pytest.raises(ExamplesError, match=r"column 'quality' is missing; there are: prompt, model"):
        read_examples([path])


def test_parquet_and_jsonl_are_the_same_table(tmp_path: Path) -> None:
    rows = example_rows(12)
    jsonl = read_examples([write_jsonl(tmp_path / "t.jsonl", rows)])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    parquet = read_examples([tmp_path / "t.parquet"])
    assert [(r.prompt_id, r.model, r.quality, r.response) for r in jsonl.rows] == [
        (r.prompt_id, r.model, r.quality, r.response) for r in parquet.rows
    ]
    np.testing.assert_array_equal(jsonl.rows[0].logprobs, parquet.rows[0].logprobs)
    assert jsonl.fingerprint() != parquet.fingerprint()


def test_several_files_are_one_table(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", example_rows(3))
    second = write_jsonl(tmp_path / "b.jsonl", example_rows(4, seed=1))
    table = read_examples([first, second])
    assert len(table) == 14
    assert [f["rows"] for f in table.files] == [6, 8]


def test_messages_are_the_prompt(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2 + 2?"}]
    table = read_examples([write_jsonl(tmp_path / "t.jsonl", [row(prompt="-", messages=messages)])])
    assert table.rows[0].prompt == "System: Be short.\n\nUser: 2 + 2?"
    assert table.rows[0].prompt_id == prompt_id(table.rows[0].prompt)


def test_pair_form_needs_both_models(tmp_path: Path) -> None:
    rows = example_rows(6)
    table = read_examples([write_jsonl(tmp_path / "t.jsonl", rows[:-1])])  # the last strong row is gone
    pairs = pair_examples(table, WEAK, STRONG)
    assert len(pairs) == 5
    assert pairs.quality.shape == (5, 2)
    with pytest.raises(
        ExamplesError, match=rf"model 'gpt-9' has no row in t\.jsonl; there are: {STRONG}, {WEAK}"
    ):
        pair_examples(table, WEAK, "gpt-9")
    with pytest.raises(ExamplesError, match="weak and strong are both"):
        pair_examples(table, WEAK, WEAK)


def test_repeated_rows_are_samples(tmp_path: Path) -> None:
    rows = [row(model="w", quality=0.0), row(model="w", quality=1.0), row(model="s", quality=1.0)]
    table = read_examples([write_jsonl(tmp_path / "t.jsonl", rows)])
    assert pair_examples(table, "w", "s").quality.tolist() == [[0.5, 1.0]]
    assert len(table) == 3


def test_no_common_prompt_is_told(tmp_path: Path) -> None:
    rows = [row(model="w"), row(model="s", prompt="3 + 3?")]
    table = read_examples([write_jsonl(tmp_path / "t.jsonl", rows)])
    with pytest.raises(ExamplesError, match="no prompt has a row of both 'w' and 's'"):
        pair_examples(table, "w", "s")


def test_one_class_only_is_told() -> None:
    with pytest.raises(ExamplesError, match="all 3 answers of w are adequate"):
        require_both_classes(np.array([0.5, 1.0, 0.9]), "w")
    require_both_classes(np.array([0.4, 0.6]), "w")


def test_split_is_by_prompt_stable_and_near_its_shares() -> None:
    ids = [prompt_id(str(i)) for i in range(4000)]
    splits = split_prompts(ids, {"train": 0.7, "test": 0.3})
    assert sorted(splits["train"] + splits["test"]) == sorted(ids)
    assert abs(len(splits["train"]) / 4000 - 0.7) < 0.03
    fewer = split_prompts(ids[:100], {"train": 0.7, "test": 0.3})
    assert set(fewer["train"]) <= set(splits["train"])  # more prompts move none
    assert split_prompts(ids, {"train": 0.7, "test": 0.3}, seed=1) != splits
    with pytest.raises(ValueError, match="sum to 1"):
        split_prompts(ids, {"train": 0.7})

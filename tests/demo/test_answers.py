from __future__ import annotations

import pytest

from demo.answers import export_answers
from demo.tasks import is_correct
from demo.tasks.task import find_split

pq = pytest.importorskip("pyarrow.parquet")
COLUMNS = {
    *("prompt_id", "prompt", "source", "group", "model", "response", "quality", "judge", "reference"),
    *("logprobs", "prompt_tokens", "completion_tokens", "cost_usd", "latency_s", "finish_reason"),
}


def test_tables_hold_both_models_over_unseen_prompts(tmp_path):
    paths = export_answers(tmp_path, 100, seed=2)
    assert [path.name for path in paths] == ["fit.parquet", "calibrate.parquet", "test.parquet"]
    seen = set()
    for path in paths:
        rows = pq.read_table(path).to_pylist()
        prompts = {row["prompt"] for row in rows}
        assert len(rows) == 2 * len(prompts)
        assert not prompts & seen
        seen |= prompts
        for row in rows:
            assert set(row) == COLUMNS
            assert find_split(row["prompt"]) == path.stem
            assert row["quality"] == is_correct(row["group"], row["reference"], row["response"])
            assert len(row["logprobs"]) == row["completion_tokens"]
            assert max(row["logprobs"]) <= 0
        assert {row["model"] for row in rows} == {"demo-phi", "demo-mistral"}
        weak, strong = (
            {
                r["cost_usd"] / (r["prompt_tokens"] + r["completion_tokens"])
                for r in rows
                if r["model"] == name
            }
            for name in ("demo-phi", "demo-mistral")
        )
        assert max(weak) < 0.31 * min(strong)
    assert len(seen) == 100

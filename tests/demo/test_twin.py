"""The CPU twin: every stage from prompts to a published bundle, over two real servers. About 40 s alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.twin import main
from routing.bundle import open_bundle


@pytest.mark.timeout(600)
def test_from_prompts_to_a_published_bundle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--work", str(tmp_path), "--prompts", "400", "--max-minutes", "0.05"]) == 0
    told = capfd.readouterr().out
    for stage in ("prompts", "collect", "label", "split", "fit", "calibrate", "evaluate", "publish"):
        assert f"{stage}: ->" in told
    bundle = open_bundle(tmp_path / "published" / "current")
    assert set(bundle.scorers) == {"mf", "evaluator", "difficulty"}
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_bytes())
    assert report["pair"] == {"weak": "demo-phi", "strong": "demo-mistral"}
    assert report["quality"]["weak"] < report["quality"]["strong"]
    assert report["cost"]["price_ratio"] is not None

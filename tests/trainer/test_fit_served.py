"""A bundle whose evaluator is served elsewhere: calibrated, evaluated, asked by the code that serves."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.bundle_scorers import load_bundle
from proxy.settings import RoutingSettings
from routing.bundle import open_bundle
from routing.errors import ScorerError
from routing.protocols import Answer
from tests.scorers.json_server import json_server
from tests.trainer.tables import STRONG, WEAK, example_rows, write_jsonl
from trainer.evaluate_bundle import evaluate_bundle
from trainer.fit import FitOptions, fit_bundle
from trainer.model_card import render_card

_SUM = re.compile(r"(\d+) \+ (\d+) = (\d+)")


def read_sums(body: dict[str, Any]) -> object:
    """A classifier that adds up, and is far too sure of itself."""
    data = []
    for at, text in enumerate(body["input"]):
        sums = [[int(number) for number in found] for found in _SUM.findall(text)]
        sure = 0.999 if all(a + b == told for a, b, told in sums) else 0.6
        data.append({"index": at, "probs": [1 - sure, sure]})
    return {"data": data}


def test_it_is_calibrated_and_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = write_jsonl(tmp_path / "t.jsonl", example_rows(180))
    with json_server(read_sums) as server:
        options = FitOptions(
            difficulty=False, mf_form="correctness", evaluator_encoder=f"{server.base_url}#adder"
        )
        bundle = open_bundle(fit_bundle([table], WEAK, STRONG, tmp_path / "bundle", options))
        assert bundle.scorers["evaluator"]["encoder"]["sha256"] == "remote"
        assert "evaluator.safetensors" not in bundle.manifest["files"]
        found = evaluate_bundle(bundle.path, [table], tmp_path / "r", draws=20, coverage_draws=0)
        assert found.report["strategies"]["evaluator"]["adequacy_auroc"] > 0.95
        assert "served" in render_card(bundle, None, "", None)

        async def ask() -> list[float]:
            duty = load_bundle(bundle.path, RoutingSettings())
            await duty.warm()
            answers = [Answer("3 + 4 = 7", "stop"), Answer("3 + 4 = 8", "stop")]
            return await duty.score_answers("What is 3 plus 4?", answers)

        right, wrong = asyncio.run(ask())
        assert f"sends prompts and answers to {server.base_url}#adder" in caplog.text
        assert right > 0.8
        assert wrong < 0.3  # the map undid the .6

    with pytest.raises(ScorerError, match="cannot be reached"):
        asyncio.run(ask())
    assert np.isfinite([right, wrong]).all()

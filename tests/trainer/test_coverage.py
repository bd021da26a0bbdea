"""The certificate keeps its word: small here, at full size under `make test-long`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from routing.certificate import Promise
from tests.trainer.population import draw_population
from trainer.coverage import measure_coverage
from trainer.scored import ScoredPairs

QUALITY_ONLY, BOTH = Promise(0.95), Promise(0.95, max_worse=0.06)


@pytest.mark.parametrize("promise", [QUALITY_ONLY, BOTH])
def test_promises_are_broken_no_more_often_than_allowed(promise):
    found = measure_coverage(draw_population(6000, seed=5), promise, draws=60, rows=600)
    assert found.violations <= found.allowed
    assert found.granted > 0.5
    assert found.to_dict()["rows"] == 600


def test_a_promise_that_is_false_everywhere_is_not_given():
    """Weak never right: every saved call breaks quality 1."""
    population = draw_population(2000, q_weak=0.001, evaluator_auroc=0.5)
    found = measure_coverage(population, Promise(1.0), draws=40, rows=400)
    assert found.violations <= found.allowed


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "promise", "rows"),
    [
        ("plain", QUALITY_ONLY, 896),
        ("both", BOTH, 896),
        ("few", QUALITY_ONLY, 200),
        ("strict", Promise(0.99), 896),
    ],
)
def test_coverage_at_full_size(name, promise, rows):
    found = measure_coverage(draw_population(8000, seed=len(name)), promise, draws=1000, rows=rows)
    assert found.violations <= found.allowed


def gsm8k() -> ScoredPairs:
    """The real outcomes of the GSM8K pair, with an evaluator drawn at AUROC .75."""
    folder = os.environ.get("UPSHIFT_EXAMPLES")
    if not folder or not (Path(folder) / "gsm8k.parquet").is_file():
        pytest.skip("set UPSHIFT_EXAMPLES to a folder with gsm8k.parquet")
    import pandas as pd

    table = pd.read_parquet(Path(folder) / "gsm8k.parquet")
    wide = table.pivot_table(index="prompt_id", columns="model", values="quality").dropna()
    weak, strong = sorted(wide.columns, key=lambda model: wide[model].mean())
    q_weak, q_strong = wide[weak].to_numpy(), wide[strong].to_numpy()
    rng = np.random.default_rng(0)
    n = len(wide)
    log_odds = rng.normal(size=n) + 0.954 * (q_weak - 0.5) * 1.0
    return ScoredPairs(
        weak=weak, strong=strong, prompt_id=list(wide.index), q_weak=q_weak, q_strong=q_strong,
        prompt_chars=np.ones(n), gain_raw=rng.normal(size=n) + 0.4 * (q_strong > q_weak),
        adequate_raw=1 / (1 + np.exp(-log_odds)), cost_weak=np.full(n, 0.1), cost_strong=np.ones(n),
    )  # fmt: skip


def test_power_on_the_real_gsm8k_outcomes():
    """At quality .95 a certificate that saves at least 5 % of strong calls in at least half of the draws."""
    found = measure_coverage(gsm8k(), QUALITY_ONLY, draws=30, rows=800)
    assert found.granted >= 0.5
    assert found.saved_median >= 0.05

"""The routing benchmark: its split and its figures on known truths, and a quick run on real prompts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from bench.routing_figures import Scores, collect_figures, split_name, thresholds_for_shares
from bench.routing_pairs import Pair, PriceRatio, TokenPrices, priced, split_table, write_fit_table
from bench.routing_prices import break_even
from bench.routing_serve import HeldOut, Pass
from routing.errors import ExamplesError
from routing.policy import Policy
from scorers.text import prompt_id
from trainer.calibrate import CalibratedScores
from trainer.examples import Example, PairTable, read_examples
from trainer.metrics import sweep_scores, trace
from trainer.split import split_prompts

PAIR = Pair("toy", "toy.jsonl", "small", "large", PriceRatio(0.25), "a test")
N = 400


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """400 prompts; small is right on the even ones, large on nine in ten; a third model answered some."""
    path = tmp_path / "toy.jsonl"
    rows = []
    for i in range(N):
        truth = {"small": float(i % 2 == 0), "large": float(i % 10 != 0), "third": 1.0}
        models = ("small", "large", "third") if i % 4 == 0 else ("small", "large")
        rows += [
            {"prompt": f"question {i}", "model": m, "quality": truth[m], "response": f"{m} {i}"}
            for m in models
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def toy_held_out(qualities: np.ndarray, prices: PriceRatio | TokenPrices = PAIR.prices) -> HeldOut:
    weak, strong = (
        [
            Example(prompt_id(f"p {i}"), f"p {i}", model, float(q), model * 5)
            for i, q in enumerate(qualities[:, tier])
        ]
        for tier, model in enumerate(("small", "large"))
    )
    pair = Pair("toy", "", "small", "large", prices, "a test")
    return HeldOut(pair, PairTable("small", "large", weak, strong, qualities))


def toy_pass(held: HeldOut, model: str, strong: np.ndarray, judged: bool) -> Pass:
    weak_called = np.ones(len(held)) if judged else 1.0 - strong
    cost = weak_called * held.cost[:, 0] + strong * held.cost[:, 1]
    quality = np.where(strong == 1.0, held.quality[:, 1], held.quality[:, 0])
    nothing = np.full(len(held), np.nan)
    calls = (int(weak_called.sum()), int(strong.sum()))
    return Pass(model, quality, strong, cost, nothing, nothing, np.zeros(len(held)), calls, 0.0)


def test_the_split_is_by_prompt_and_always_the_same(table: Path) -> None:
    first, again = split_table(PAIR, table, 0.4), split_table(PAIR, table, 0.4)
    apart, learnt = set(first.held_out.prompt_ids), {row.prompt_id for row in first.fit.rows}
    assert first.held_out.prompt_ids == again.held_out.prompt_ids
    assert not apart & learnt
    assert len(apart | learnt) == N
    assert 0.3 * N < len(apart) < 0.5 * N


def test_the_split_leaves_the_trainer_all_of_its_own_splits(table: Path) -> None:
    learnt = {row.prompt_id for row in split_table(PAIR, table, 0.4).fit.rows}
    sizes = {name: len(ids) / len(learnt) for name, ids in split_prompts(learnt).items()}
    assert 0.6 < sizes["train"] < 0.84
    assert 0.1 < sizes["calibration"] < 0.3


def test_fewer_prompts_are_divided_as_before(table: Path) -> None:
    few, all_of_them = split_table(PAIR, table, 0.4, prompts=100), split_table(PAIR, table, 0.4)
    assert len({row.prompt_id for row in few.fit.rows}) + len(few.held_out) == 100
    assert set(few.held_out.prompt_ids) < set(all_of_them.held_out.prompt_ids)


def test_a_table_to_measure_on_is_never_learnt_from(table: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(table.read_text().splitlines(keepends=True)[:90]))
    split = split_table(PAIR, table, 0.4, held_out=other)
    measured = {row.prompt_id for row in read_examples([other]).rows}
    assert set(split.held_out.prompt_ids) == measured
    assert not measured & {row.prompt_id for row in split.fit.rows}


def test_the_fit_table_carries_costs_where_tokens_have_prices(table: Path, tmp_path: Path) -> None:
    pair = priced(PAIR, None, [1.0, 2.0], [10.0, 20.0])
    split = split_table(pair, table, 0.4)
    write_fit_table(split.fit, pair, tmp_path / "fit.parquet")
    rows = read_examples([tmp_path / "fit.parquet"]).rows
    small, large = (next(row for row in rows if row.model == name) for name in ("small", "large"))
    assert small.cost_usd == pytest.approx(
        (round(len(small.prompt) / 4) + 2 * round(len(small.response) / 4)) / 1e6
    )
    assert large.cost_usd == pytest.approx(10 * small.cost_usd)
    assert all(row.cost_usd is None for row in rows if row.model == "third")
    write_fit_table(split.fit, PAIR, tmp_path / "bare.parquet")
    assert "cost_usd" not in pyarrow.parquet.read_schema(tmp_path / "bare.parquet").names


def test_prices_of_one_model_alone_are_refused() -> None:
    with pytest.raises(ExamplesError, match="both models"):
        priced(PAIR, None, [1.0, 2.0], None)


def test_a_perfect_evaluator_beats_random_by_what_arithmetic_says() -> None:
    """Weak right on half, strong always right, weak costs a quarter: only failures are shifted."""
    q_weak = np.tile([0.0, 1.0], 200)
    held = toy_held_out(np.column_stack([q_weak, np.ones(N)]))
    policy = Policy(version="toy", default="evaluator", thresholds={"evaluator": 0.5, "random": 0.5})
    scores = Scores(CalibratedScores(adequate=np.where(q_weak > 0, 0.9, 0.1)), policy)
    shifted = 1.0 - q_weak
    passes = {
        "weak": toy_pass(held, "weak", np.zeros(N), judged=False),
        "upshift-evaluator-0.4": toy_pass(held, "upshift-evaluator-0.4", shifted, judged=True),
    }
    figures = collect_figures(held, scores, passes, draws=200)
    weak, judged = figures.served
    assert (weak.at_equal_share, weak.quality, weak.cost) == (None, 0.5, 0.25)
    assert (judged.quality, judged.strong_share, judged.cost, judged.off_curve) == (1.0, 0.5, 0.75, 0)
    assert judged.at_equal_share.mean == pytest.approx(1.0 - 0.75)
    # .25 + .75 x = .75 is spent by a random mix with two thirds of strong calls: quality .5 + .5 * 2/3
    assert judged.at_equal_cost.mean == pytest.approx(1.0 - 5 / 6)
    assert judged.at_equal_cost.low > 0.1
    assert figures.differences["evaluator - random"].low > 0.2
    assert figures.curves["evaluator"]["adequacy_auroc"] == 1.0
    assert figures.oracle_break_even == 0.5
    full = figures.break_even[-1]
    assert (full["quality"], full["strong_share"], full["always_strong"]) == (1.0, 0.5, 0.5)
    assert full["random_mix"] == pytest.approx(0.5)
    assert (full["cost_evaluator"], full["cost_random"]) == (0.75, 1.0)


def test_an_evaluator_that_guesses_is_not_found_better_than_random() -> None:
    rng = np.random.default_rng(3)
    qualities = np.column_stack([rng.integers(0, 2, N), rng.random(N) < 0.9]).astype(float)
    held = toy_held_out(qualities)
    policy = Policy(version="toy", default="evaluator", thresholds={"evaluator": 0.5, "random": 0.5})
    adequate = rng.random(N)
    strong = (1.0 - adequate >= 0.5).astype(float)
    passes = {"upshift-evaluator": toy_pass(held, "upshift-evaluator", strong, judged=True)}
    figures = collect_figures(held, Scores(CalibratedScores(adequate=adequate), policy), passes, draws=400)
    gap = figures.differences["evaluator - random"]
    assert gap.low < 0.0 < gap.high
    assert figures.served[0].at_equal_share.low < 0.0 < figures.served[0].at_equal_share.high
    assert (
        figures.served[0].at_equal_cost.mean < figures.served[0].at_equal_share.mean
    )  # rejected answers paid


def test_break_even_against_a_random_mix() -> None:
    q_weak, q_strong = np.tile([0.0, 1.0], 200), np.ones(N)
    zero, one = np.zeros(N), np.ones(N)
    curves = {
        "evaluator": trace(sweep_scores(1.0 - q_weak, one, one), q_weak, q_strong),
        "random": trace(sweep_scores(zero, one, one), q_weak, q_strong),
    }
    told = break_even(curves, 1.0, 0.8)
    # four fifths of the quality: three fifths of strong calls at random, half at most with the evaluator
    assert told["random_share"] == pytest.approx(0.6)
    assert told["always_strong"] == pytest.approx(1.0 - told["strong_share"])
    assert told["random_mix"] == pytest.approx((0.6 - told["strong_share"]) / 0.6)


def test_thresholds_lead_to_the_shares_wanted() -> None:
    rng = np.random.default_rng(0)
    held = toy_held_out(np.column_stack([rng.integers(0, 2, N), np.ones(N)]).astype(float))
    score = rng.random(N)
    values = thresholds_for_shares(held, sweep_scores(score, np.ones(N), np.ones(N)))
    assert sorted(round(float((score >= value).mean()), 2) for value in values) == [0.2, 0.4, 0.6, 0.8]


def test_names_are_read_as_they_were_sent() -> None:
    policy = Policy(version="toy", default="mf", thresholds={"mf": 0.3, "random": 0.5})
    assert split_name("strong", policy) == (None, None)
    assert split_name("upshift-mf-0.125", policy) == ("mf", 0.125)
    assert split_name("upshift-mf", policy) == ("mf", 0.3)
    assert split_name("upshift", policy) == ("mf", 0.3)


@pytest.mark.timeout(240)
@pytest.mark.long
def test_quick_run_on_real_prompts(examples_dir: Path, repository: Path, tmp_path: Path) -> None:
    """Fits, starts two recorded backends and the real proxy, asks under every strategy, tells figures."""
    if not (examples_dir / "gsm8k.parquet").is_file():
        pytest.skip("gsm8k.parquet is not among the examples")
    command = [sys.executable, "-m", "bench.routing", "--pair", "gsm8k", "--quick"]
    done = subprocess.run(
        [*command, "--work", str(tmp_path / "work"), "--out", str(tmp_path)],
        cwd=repository, capture_output=True, text=True, timeout=230, check=False,
        env={**os.environ, "UPSHIFT_EXAMPLES": str(examples_dir), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| `upshift-cascade` |" in done.stdout
    told = json.loads((tmp_path / "routing-gsm8k.json").read_text())
    served = {row["model"]: row for row in told["served"]}
    assert served["weak"]["quality"] == pytest.approx(told["weak"]["quality"])
    assert served["strong"]["quality"] == pytest.approx(told["strong"]["quality"])
    assert served["strong"]["cost"] == pytest.approx(told["strong"]["cost"])
    assert served["upshift-evaluator"]["weak_calls"] == told["n"]  # every weak answer was asked for and paid
    assert told["weak"]["cost"] < served["upshift-evaluator"]["cost"]
    for strategy in ("random", "mf", "evaluator", "cascade"):
        assert any(name.startswith(f"upshift-{strategy}") for name in served)
        assert strategy in told["curves"]
    assert all(row["off_curve"] in (None, 0) for row in told["served"])

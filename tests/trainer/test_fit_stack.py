"""The stack: trees read from arrays equal scikit-learn's, and what is served equals what was fitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.ensemble import HistGradientBoostingClassifier

from scorers.encoders import resolve_encoder
from scorers.errors import ScorerFileError
from scorers.features import features_of
from scorers.prompt_features import features_of_prompts
from scorers.runtime.heads import read_scorer_file
from scorers.runtime.session import EncoderSession
from scorers.runtime.stack import AnswerStack
from scorers.runtime.trees import BoostedTrees
from tests.trainer.tables import WEAK, example_rows, write_jsonl
from trainer.examples import Example, read_examples
from trainer.fit_evaluator import model_offsets
from trainer.fit_stack import FittedStack, add_network, fit_mix, fit_stack, model_weights
from trainer.fit_trees import ANSWERS, TreeSettings, fit_trees
from trainer.prefixes import answer_of, cut_answer

TOKENS = 48


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return read_examples([write_jsonl(tmp_path_factory.mktemp("t") / "a.jsonl", example_rows(120))]).rows


@pytest.fixture(scope="module")
def fitted(rows: list[Example]) -> FittedStack:
    return fit_stack(resolve_encoder("minilm"), rows, WEAK, model_offsets(rows), TOKENS, seed=0)


def test_trees_from_arrays_are_scikit_learns(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 5)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + 0.3 * random.normal(size=600) > 0).astype(np.float64)
    weight = random.uniform(0.5, 2.0, 600)
    trees = fit_trees(x, y, weight, seed=3)
    theirs = HistGradientBoostingClassifier(
        max_iter=ANSWERS.trees,
        max_leaf_nodes=ANSWERS.leaves,
        learning_rate=ANSWERS.learning_rate,
        l2_regularization=ANSWERS.ridge,
        min_samples_leaf=ANSWERS.least_leaf_rows,
        early_stopping=False,
        random_state=3,
    ).fit(x, y, sample_weight=weight)
    save_file(trees.tensors("t"), tmp_path / "t.safetensors")
    read = BoostedTrees.read(read_scorer_file(tmp_path / "t.safetensors"), "t", 5)
    np.testing.assert_allclose(read.logits(x), theirs.decision_function(x), atol=1e-4)
    assert np.ptp(read.logits(x)) > 1.0
    with pytest.raises(ScorerFileError, match=r"t\.feature must lie in 0\.\.2"):
        BoostedTrees.read(read_scorer_file(tmp_path / "t.safetensors"), "t", 3)


def test_several_forests_are_their_mean() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(500, 8)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.float64)
    settings = TreeSettings(trees=12, most_levels=4, column_share=0.3)
    alone = [fit_trees(x, y, np.ones(500), seed, settings).logits(x) for seed in (4, 5, 6)]
    assert np.abs(alone[0] - alone[1]).max() > 0.05, "they look at other columns"
    together = fit_trees(x, y, np.ones(500), 4, replace(settings, forests=3))
    assert together.depth <= 4
    np.testing.assert_allclose(together.logits(x), np.mean(alone, axis=0), atol=1e-5)


def test_one_class_only_is_a_constant() -> None:
    trees = fit_trees(np.zeros((20, 2)), np.ones(20), np.ones(20), seed=0)
    assert trees.logits(np.zeros((3, 2))) == pytest.approx(np.full(3, np.log(999)), rel=1e-3)


def test_the_stack_is_read_back_and_tells_right_from_wrong(
    rows: list[Example], fitted: FittedStack, tmp_path: Path
) -> None:
    save_file(fitted.stack.tensors(), tmp_path / "s.safetensors")
    stack = AnswerStack.read(read_scorer_file(tmp_path / "s.safetensors"), 384)
    own = [row for row in rows if row.model == WEAK]
    session = EncoderSession(resolve_encoder("minilm"), TOKENS, threads=1, lower_half=True)
    inputs = (
        session.embed_middle([row.prompt for row in own]),
        session.embed_middle([row.response or "" for row in own]),
        features_of([(row.prompt, answer_of(row)) for row in own]),
        features_of_prompts([row.prompt for row in own]),
        np.zeros(len(own)),
    )
    logits = stack.logits(*inputs)
    np.testing.assert_allclose(logits, fitted.stack.logits(*inputs), atol=1e-4)
    good = np.array([row.quality >= 0.5 for row in own])
    assert logits[good].mean() > logits[~good].mean() + 0.5
    assert not stack.reads_network


def test_predictions_out_of_fold_cover_every_whole_weak_answer(
    rows: list[Example], fitted: FittedStack
) -> None:
    assert sorted(fitted.unseen) == [at for at, row in enumerate(rows) if row.model == WEAK]
    prefixes = sum(cut_answer(row, 16).finish_reason is None for row in rows)
    assert len(rows) <= fitted.rows <= len(rows) + prefixes
    assert fitted.losses["sum"] < np.log(2)


def test_the_same_seed_gives_the_same_stack(rows: list[Example], fitted: FittedStack) -> None:
    again = fit_stack(resolve_encoder("minilm"), rows, WEAK, model_offsets(rows), TOKENS, seed=0)
    for name, tensor in again.stack.tensors().items():
        np.testing.assert_array_equal(tensor, fitted.stack.tensors()[name], err_msg=name)


def test_a_backward_reading_is_left_out_and_a_good_one_counts() -> None:
    random = np.random.default_rng(1)
    y = (random.random(400) < 0.4).astype(np.float64)
    good, backward = y + random.normal(size=400), -y + random.normal(size=400)
    mix, _ = fit_mix(np.stack([good, backward], axis=1), y)
    assert mix[0] > 0.5
    assert mix[1] == 0.0
    nothing, bias = fit_mix(np.stack([backward], axis=1), y)
    assert nothing.tolist() == [0.0]
    assert bias == pytest.approx(np.log(y.mean() / (1 - y.mean())), abs=1e-6)


def test_the_network_counts_only_where_it_proves_itself(rows: list[Example], fitted: FittedStack) -> None:
    own = [at for at, row in enumerate(rows) if row.model == WEAK]
    knows = {at: 6.0 * float(rows[at].quality >= 0.5) - 3.0 for at in own}
    guesses = dict(zip(own, np.random.default_rng(0).normal(size=len(own)).tolist(), strict=True))
    stack = add_network(replace(fitted, unseen=guesses), 0, knows, rows)
    assert stack.mix[-1] > 0.0
    assert stack.reads_network
    silent = add_network(replace(fitted, unseen=knows), 0, guesses, rows)
    assert not silent.reads_network
    np.testing.assert_array_equal(silent.mix, fitted.stack.mix)


def test_models_alike_count_more() -> None:
    weights = model_weights({"weak": -0.8, "like": -0.7, "strong": 2.0}, "weak")
    assert weights["weak"] == 1.0
    assert weights["like"] > 0.8
    assert weights["strong"] < 0.05

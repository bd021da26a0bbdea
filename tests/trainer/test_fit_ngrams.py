"""The reading of a prompt's words: fitted here, read by the code that serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score

from scorers.errors import ScorerFileError
from scorers.ngrams import COLUMNS, ngram_columns, read_ngrams
from scorers.runtime.difficulty import DifficultyHead
from scorers.runtime.heads import ScorerFile, read_scorer_file
from scorers.runtime.mf import MatrixFactorisation
from scorers.runtime.words import WordReading
from trainer.fit_ngrams import SHARE, fit_ngrams

# A factorisation of two models on vectors of three dimensions, and a classifier's two heads.
SHAPES = {"v": (2, 2), "W1": (2, 3), "b": (2,), "w2": (2,), "a": (2,), "u": (3,), "c": (), "c2": (2,)}

HARD, EASY = ("entropy", "tensor", "estoppel"), ("apple", "river", "colour")


def prompts_of(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Prompts of which a word says how likely the weak model fails; the strong one is right nine times in
    ten."""
    random = np.random.default_rng(seed)
    hard = random.random(n) < 0.5
    texts = [
        f"Question {i}: what is {random.choice(HARD if h else EASY)}, and why is it so?"
        for i, h in enumerate(hard)
    ]
    weak = random.random(n) < np.where(hard, 0.2, 0.9)
    return texts, np.stack([weak, random.random(n) < 0.9], axis=1).astype(np.float64)


def test_columns_are_a_set_and_bounded() -> None:
    found = ngram_columns("Two and two and TWO \ud800 is 4!")
    assert found.tolist() == sorted(set(found.tolist()))
    assert found.max() < COLUMNS
    assert ngram_columns("two").tolist() == ngram_columns("TWO").tolist()
    assert len(ngram_columns("")) == 0
    assert len(ngram_columns("a b " * 1_000_000)) == 4  # a, b, "a b", "b a"


def test_words_tell_what_is_hard_and_serving_reads_the_same(tmp_path: Path) -> None:
    texts, quality = prompts_of(600, 0)
    tensors = fit_ngrams(texts, quality).tensors()
    new, truth = prompts_of(300, 1)
    read = {name: tensors[f"ngrams.{name}"].astype(np.float64) for name in ("idf", "weight", "bias")}
    logits = read_ngrams(new, **read)
    assert roc_auc_score(truth[:, 0], logits[:, 0]) > 0.8
    calm = np.abs(1 / (1 + np.exp(-logits[:, 1])) - 0.9)
    assert calm.mean() < 0.1
    zero = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    save_file({**zero, **tensors}, tmp_path / "mf.safetensors")
    file = read_scorer_file(tmp_path / "mf.safetensors")
    factorisation = MatrixFactorisation.read(file, ["w", "s"], ["w", "s"], "correctness")
    nothing = np.zeros((len(new), 3), np.float32)
    chances = 1 / (1 + np.exp(-SHARE * logits))
    np.testing.assert_allclose(factorisation.adequacy(nothing, new), chances, atol=1e-5)

    head = {"head.weight": zero["W1"], "head.bias": zero["c2"], "ngrams.share": np.array([0.2], np.float32)}
    save_file(head, tmp_path / "d.safetensors")
    file = read_scorer_file(tmp_path / "d.safetensors")
    gain = DifficultyHead.read(file, 3, words=factorisation.words).gain(nothing, nothing, new)
    chances = 1 / (1 + np.exp(-0.2 * logits))
    np.testing.assert_allclose(gain, chances[:, 1] - chances[:, 0], atol=1e-5)


def test_tensors_that_do_not_fit_are_named() -> None:
    tensors = fit_ngrams(*prompts_of(40, 2)).tensors()
    with pytest.raises(
        ScorerFileError, match=r"mf: tensor 'ngrams\.weight' has shape \(2, 32768\), expected \(3, 32768\)"
    ):
        WordReading.read(ScorerFile(Path("mf"), tensors, {}), 3)
    del tensors["ngrams.idf"]
    with pytest.raises(ScorerFileError, match=r"'ngrams\.idf' is missing"):
        WordReading.read(ScorerFile(Path("mf"), tensors, {}), 2)


def test_one_class_teaches_its_base_rate_and_shares_count_by_halves() -> None:
    texts, quality = prompts_of(40, 2)
    reading = fit_ngrams(texts, np.stack([np.ones(40), quality[:, 1]], axis=1))
    assert not reading.weight[0].any()
    assert reading.bias[0] > 3
    half = fit_ngrams(texts, np.full((40, 2), 0.5))
    assert np.abs(half.weight).max() < 0.05
    assert np.abs(half.bias).max() < 0.05

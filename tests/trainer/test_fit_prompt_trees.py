"""The trees beside a factorisation: fitted where no line tells, read by the code that serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score

from scorers.errors import ScorerFileError
from scorers.runtime.heads import ScorerFile, read_scorer_file
from scorers.runtime.mf import MatrixFactorisation
from scorers.runtime.prompt_trees import PromptTrees
from trainer.fit_mf import standardiser
from trainer.fit_prompt_trees import SHARE, fit_prompt_trees

VECTOR, FEATURES = 6, 3
BLOCKS = ((VECTOR, 1.0, False), (FEATURES, 1.0, True))
SHAPES = {"v": (2, 2), "W1": (2, 9), "b": (2,), "w2": (2,), "a": (2,), "u": (9,), "c": ()}


def prompts_of(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Query vectors and qualities: a feature makes prompts hard on one side of the vectors, easy on the
    other."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(n, VECTOR + FEATURES)) * ([3.0] + [0.5] * (VECTOR - 1) + [0.01] * FEATURES)
    hard = vectors[:, 0] * vectors[:, VECTOR + 1] > 0
    weak = random.random(n) < np.where(hard, 0.2, 0.9)
    return vectors + 2.0, np.stack([weak, random.random(n) < 0.9], axis=1).astype(np.float64)


def fitted(vectors: np.ndarray, quality: np.ndarray) -> PromptTrees:
    nothing = np.zeros((len(vectors), 2))
    return fit_prompt_trees(vectors, nothing, quality, standardiser(vectors, BLOCKS), BLOCKS, seed=0)


def test_trees_tell_what_no_line_does_and_serving_reads_the_same(tmp_path: Path) -> None:
    tensors = fitted(*prompts_of(2400, 0)).tensors()
    vectors, quality = prompts_of(800, 1)
    for column in vectors.T:
        assert abs(roc_auc_score(quality[:, 0], column) - 0.5) < 0.07, "no column tells by itself"
    zero = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    save_file({**zero, **tensors}, tmp_path / "mf.safetensors")
    file = read_scorer_file(tmp_path / "mf.safetensors")
    served = MatrixFactorisation.read(file, ["w", "s"], ["w", "s"], "correctness")
    chances = served.adequacy(vectors.astype(np.float32), [""] * len(vectors))
    assert roc_auc_score(quality[:, 0], chances[:, 0]) > 0.75
    log_odds = np.log(chances / (1 - chances)) / SHARE
    assert np.abs(1 / (1 + np.exp(-log_odds[:, 1])) - 0.9).mean() < 0.05, "the strong model knows them all"


def test_the_probes_own_opinion_is_a_column() -> None:
    vectors, quality = prompts_of(2400, 2)
    random = np.random.default_rng(3)
    probed = 2.0 * quality - 1.0 + random.normal(size=quality.shape)
    inputs = standardiser(vectors, BLOCKS)
    trees = fit_prompt_trees(vectors, probed, quality, inputs, BLOCKS, seed=0)
    with_it, without = (
        roc_auc_score(quality[:, 0], trees.blend(np.zeros((2400, 2)), vectors, told)[:, 0])
        for told in (probed, probed[::-1])
    )
    assert with_it > without + 0.1


def test_a_tie_counts_as_both() -> None:
    vectors, _ = prompts_of(400, 4)
    half = fitted(vectors, np.full((400, 2), 0.5))
    told = half.blend(np.zeros((400, 2)), vectors, np.zeros((400, 2)))
    assert np.abs(told).max() < 0.1


def test_tensors_that_do_not_fit_are_named() -> None:
    tensors = fitted(*prompts_of(400, 5)).tensors()
    assert PromptTrees.read(ScorerFile(Path("mf"), {}, {}), 2, 9) is None
    with pytest.raises(ScorerFileError, match=r"mf: tensor 'trees\.projection' has shape \(9, 9\)"):
        PromptTrees.read(ScorerFile(Path("mf"), tensors, {}), 2, 8)
    tensors["trees.1.feature"] += 20
    with pytest.raises(ScorerFileError, match=r"tensor trees\.1\.feature must lie in 0\.\.10"):
        PromptTrees.read(ScorerFile(Path("mf"), tensors, {}), 2, 9)
    del tensors["trees.0.value"]
    with pytest.raises(ScorerFileError, match=r"'trees\.0\.value' is missing"):
        PromptTrees.read(ScorerFile(Path("mf"), tensors, {}), 2, 9)

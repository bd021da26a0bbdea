"""The reading of a prompt's topic: fitted on a table's groups, read by the code that serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score

from scorers.errors import ScorerFileError
from scorers.runtime.heads import ScorerFile, read_scorer_file
from scorers.runtime.mf import MatrixFactorisation
from scorers.runtime.topics import TopicReading
from trainer.fit_mf import standardiser
from trainer.fit_topics import LEAST_OF_GROUP, SHARE, fit_topics, topic_tensors

NAMES, PLACES, RATES = ("law", "cooking", "physics"), (-1.0, 0.0, 1.0), (0.2, 0.9, 0.2)
SHAPES = {"v": (2, 2), "W1": (2, 3), "b": (2,), "w2": (2,), "a": (2,), "u": (3,), "c": ()}


def prompts_of(n: int, seed: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Query vectors, groups and qualities: the hard subjects lie on both sides of the easy one."""
    random = np.random.default_rng(seed)
    group = random.integers(0, 3, n)
    vectors = random.normal(0, 0.15, (n, 3)) + np.eye(3)[0] * np.array(PLACES)[group][:, None] + 5.0
    weak = random.random(n) < np.array(RATES)[group]
    return (
        vectors,
        [NAMES[at] for at in group],
        np.stack([weak, random.random(n) < 0.9], axis=1).astype(float),
    )


def fitted(vectors: np.ndarray, groups: list[str], quality: np.ndarray) -> TopicReading | None:
    return fit_topics(vectors, groups, quality, standardiser(vectors, [(vectors.shape[1], 1.0, False)]))


def test_the_topic_is_told_from_the_vector_and_serving_adds_what_it_means(tmp_path: Path) -> None:
    reading = fitted(*prompts_of(900, 0))
    assert reading is not None
    vectors, groups, quality = prompts_of(600, 1)
    assert max(roc_auc_score(quality[:, 0], sign * vectors[:, 0]) for sign in (1, -1)) < 0.6, "no line tells"
    told = reading.log_odds(vectors)
    assert roc_auc_score(quality[:, 0], told[:, 0]) > 0.75
    assert np.abs(told[:, 1]).max() < 0.4, "the strong model knows every subject"
    easy = np.array(groups) == "cooking"
    full = np.log(0.9 / 0.1) - np.log((1.3 / 3) / (1 - 1.3 / 3))
    assert told[easy, 0].mean() == pytest.approx(SHARE * full, abs=0.3)

    zero = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    save_file({**zero, **topic_tensors(reading)}, tmp_path / "mf.safetensors")
    file = read_scorer_file(tmp_path / "mf.safetensors")
    served = MatrixFactorisation.read(file, ["w", "s"], ["w", "s"], "correctness")
    chances = served.adequacy(vectors.astype(np.float32), [""] * len(vectors))
    np.testing.assert_allclose(chances, 1 / (1 + np.exp(-told)), atol=1e-3)


def test_two_groups_are_one_logistic_regression() -> None:
    vectors, groups, quality = prompts_of(600, 2)
    kept = np.array(groups) != "law"
    reading = fitted(vectors[kept], [name for name in groups if name != "law"], quality[kept])
    assert reading is not None
    assert reading.weight.shape == (2, 3)
    told = reading.log_odds(vectors[kept])[:, 0]
    names = np.array(groups)[kept]
    assert told[names == "cooking"].mean() > 0.3
    assert told[names == "physics"].mean() < -0.3


def test_groups_of_few_prompts_and_none_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, groups, quality = prompts_of(300, 3)
    assert fitted(vectors, [f"user-{at}" for at in range(300)], quality) is None
    assert fitted(vectors, [""] * 300, quality) is None
    assert fitted(vectors, ["all"] * 300, quality) is None
    many = np.repeat(np.arange(15), 20)
    many_groups = [f"task-{at}" for at in many]
    monkeypatch.setattr("trainer.fit_topics.MOST_GROUPS", 4)
    few = fitted(vectors, many_groups, quality)
    assert few is not None
    assert few.lift.shape == (2, 4)
    rare = ["rare"] * (LEAST_OF_GROUP - 1) + groups[LEAST_OF_GROUP - 1 :]
    reading = fitted(vectors, rare, quality)
    assert reading is not None
    assert reading.lift.shape == (2, 3)


def test_tensors_that_do_not_fit_are_named() -> None:
    reading = fitted(*prompts_of(300, 4))
    assert reading is not None
    tensors = topic_tensors(reading)
    with pytest.raises(
        ScorerFileError, match=r"mf: tensor 'topics\.weight' has shape \(3, 3\), expected \(3, 4\)"
    ):
        TopicReading.read(ScorerFile(Path("mf"), tensors, {}), 2, 4)
    del tensors["topics.bias"]
    with pytest.raises(ScorerFileError, match=r"'topics\.bias' is missing"):
        TopicReading.read(ScorerFile(Path("mf"), tensors, {}), 2, 3)

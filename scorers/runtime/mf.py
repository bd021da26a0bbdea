"""Matrix factorisation at serving time: for a fixed model it is one dot product with the query vector.

    s(m, q) = w2 . (v_m * (W1 v_q + b)) + a_m + u . v_q + c
            = [(w2 * v_m) W1 + u] . v_q + [(w2 * v_m) . b + a_m + c]

so a file is folded where it is read into one probe (d,) and one intercept per tier. The derivation
of both forms stands in `scorers/torch/matrix_factorisation.py`. A factorisation of thousands of prompts has
beside it a linear reading of their words (`scorers/runtime/words.py`), boosted trees
(`scorers/runtime/prompt_trees.py`), and where they came in groups a reading of their topics
(`scorers/runtime/topics.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scorers.errors import ScorerFileError
from scorers.runtime.heads import ScorerFile
from scorers.runtime.prompt_trees import PromptTrees
from scorers.runtime.topics import TopicReading
from scorers.runtime.words import WordReading

FORMS = ("correctness", "pairwise")


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


@dataclass(frozen=True, slots=True)
class MatrixFactorisation:
    """The probes of the tiers: `probes` (tiers, d), `intercepts` (tiers,), cheapest tier first."""

    form: str
    probes: np.ndarray
    intercepts: np.ndarray
    words: WordReading | None = None
    trees: PromptTrees | None = None
    topics: TopicReading | None = None

    @classmethod
    def read(
        cls,
        file: ScorerFile,
        models: Sequence[str],
        tiers: Sequence[str],
        form: str,
        dimension: int | None = None,
    ) -> MatrixFactorisation:
        """Fold the file's tensors for these tiers; `dimension` is the query vectors', None: any.

        Raises `ScorerFileError` on an unknown form or model, and on tensors that do not go together.
        """
        if form not in FORMS:
            raise ScorerFileError(f"{file.path}: form {form!r} is unknown; there are: {', '.join(FORMS)}")
        missing = [tier for tier in tiers if tier not in models]
        if missing:
            raise ScorerFileError(
                f"{file.path}: no vector for {missing[0]!r}; fitted were: {', '.join(models)}"
            )
        weight = file.tensor("W1", None, dimension)
        rank, width = weight.shape
        rows = [list(models).index(tier) for tier in tiers]
        weighted = np.float64(file.tensor("v", len(models), rank)[rows] * file.tensor("w2", rank))
        probes = weighted @ weight + file.tensor("u", width)
        intercepts = (
            weighted @ file.tensor("b", rank) + file.tensor("a", len(models))[rows] + file.tensor("c")
        )
        words = WordReading.read(file, len(tiers))
        trees = PromptTrees.read(file, len(tiers), width)
        topics = TopicReading.read(file, len(tiers), width)
        return cls(form, probes.astype(np.float32), intercepts.astype(np.float32), words, trees, topics)

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """s(m, q) for N query vectors (N, d) by the probes alone: shape (N, tiers)."""
        if vectors.shape[1] != self.probes.shape[1]:
            raise ScorerFileError(
                f"mf was fitted on vectors of {self.probes.shape[1]} dimensions, "
                f"the encoder gives {vectors.shape[1]}"
            )
        return vectors @ self.probes.T + self.intercepts

    def adequacy(self, vectors: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """P(tier adequate), (N, tiers) in (0, 1), from the query vectors (N, d) of N prompts.

        The pairwise form knows only who wins: there the last tier's number is P(it beats the first) and
        the others' its complement.
        """
        scores = probed = self.logits(vectors)
        if self.words is not None:
            scores = self.words.blend(scores, prompts)
        if self.trees is not None:
            scores = self.trees.blend(scores, vectors, probed)
        if self.topics is not None:
            scores = scores + self.topics.log_odds(vectors)
        if self.form == "correctness":
            return sigmoid(scores)
        wins = sigmoid(scores[:, -1:] - scores[:, :-1])  # (N, tiers - 1)
        return np.concatenate([1.0 - wins, wins[:, :1]], axis=1)

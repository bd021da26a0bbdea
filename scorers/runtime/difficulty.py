"""The difficulty classifier's head: from the adapted encoder's query vector to both tiers' chances.

Two heads (default): P(weak right), P(strong right), ranked by their difference, the gain. Ranking by
P(weak wrong) alone sends up the prompts that both fail: .572 APGR on MMLU against .726 for the gain.
One head: P(strong should answer) directly.

Where the bundle has them, probes on the frozen encoder's query vector (which the matrix factorisation needs
anyway, so they cost nothing) are averaged in, log-odds with log-odds: the two err differently. So does the
factorisation's reading of the prompt's words, which comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scorers.runtime.heads import ScorerFile
from scorers.runtime.mf import sigmoid
from scorers.runtime.words import SHARE, WordReading


@dataclass(frozen=True, slots=True)
class FrozenProbes:
    """`weight` (outputs, D), `bias` (outputs,) over frozen query vectors; their `share` of the log-odds."""

    weight: np.ndarray
    bias: np.ndarray
    share: float


@dataclass(frozen=True, slots=True)
class DifficultyHead:
    """`weight` (outputs, D) and `bias` (outputs,) over query vectors; outputs is 2 (weak, strong) or 1.
    `words` have `words_share` of the log-odds."""

    weight: np.ndarray
    bias: np.ndarray
    frozen: FrozenProbes | None = None
    words: WordReading | None = None
    words_share: float = 0.0

    @classmethod
    def read(
        cls, file: ScorerFile, dimension: int, frozen_dimension: int = 0, words: WordReading | None = None
    ) -> DifficultyHead:
        """From a scorer file; dimensions are those of the adapted and of the frozen query vectors, `words`
        the factorisation's."""
        weight = file.tensor("head.weight", None, dimension)
        outputs = weight.shape[0]
        frozen = None
        if "frozen.weight" in file.head:
            frozen = FrozenProbes(
                file.tensor("frozen.weight", outputs, frozen_dimension),
                file.tensor("frozen.bias", outputs),
                float(file.tensor("frozen.share", 1)[0]),
            )
        share = 0.0
        if words is not None and SHARE in file.head:
            share = float(file.tensor(SHARE, 1)[0])
        return cls(weight, file.tensor("head.bias", outputs), frozen, words, share)

    def gain(self, query: np.ndarray, frozen_query: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """P(strong right) - P(weak right) in [-1, 1], or with one head 2 P(strong should answer) - 1.
        Shape (N,), from the adapted and the frozen encoder's query vectors (N, D) and the N prompts."""
        logits = query @ self.weight.T + self.bias
        if self.frozen is not None:
            probed = frozen_query @ self.frozen.weight.T + self.frozen.bias
            logits = (1.0 - self.frozen.share) * logits + self.frozen.share * probed
        if self.words is not None and self.words_share:
            logits = self.words.blend(logits, prompts, self.words_share)
        chances = sigmoid(logits)
        if chances.shape[1] == 1:
            return 2.0 * chances[:, 0] - 1.0
        return chances[:, 1] - chances[:, 0]

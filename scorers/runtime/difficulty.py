"""The difficulty classifier's head: from the adapted encoder's query vector to both tiers' chances.

Two heads (default): P(weak right), P(strong right), ranked by their difference, the gain. Ranking by
P(weak wrong) alone sends up the prompts that both fail: .572 APGR on MMLU against .726 for the gain.
One head: P(strong should answer) directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scorers.runtime.heads import ScorerFile
from scorers.runtime.mf import sigmoid


@dataclass(frozen=True, slots=True)
class DifficultyHead:
    """`weight` (outputs, D) and `bias` (outputs,) over query vectors; outputs is 2 (weak, strong) or 1."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def read(cls, file: ScorerFile, dimension: int) -> DifficultyHead:
        weight = file.tensor("head.weight", None, dimension)
        return cls(weight, file.tensor("head.bias", weight.shape[0]))

    def gain(self, query: np.ndarray) -> np.ndarray:
        """P(strong right) - P(weak right) in [-1, 1], or with one head 2 P(strong should answer) - 1.
        Shape (N,)."""
        chances = sigmoid(query @ self.weight.T + self.bias)
        if chances.shape[1] == 1:
            return 2.0 * chances[:, 0] - 1.0
        return chances[:, 1] - chances[:, 0]

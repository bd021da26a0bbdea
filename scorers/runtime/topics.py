"""What a prompt is about, where the table it was learnt from names groups (subjects, tasks, sources).

    log-odds of a tier += lift . softmax(W v_q + b)

The chances of the groups come from the query vector; a group's lift is how much more or less often a tier
is adequate there than elsewhere, as log-odds. A linear probe cannot say so: what lies between two hard
subjects is hard to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scorers.runtime.heads import ScorerFile

PREFIX = "topics."
LIFT = f"{PREFIX}lift"


@dataclass(frozen=True, slots=True)
class TopicReading:
    """`weight` (groups, d) and `bias` (groups,) over query vectors; `lift` (tiers, groups), log-odds."""

    weight: np.ndarray
    bias: np.ndarray
    lift: np.ndarray

    @classmethod
    def read(cls, file: ScorerFile, tiers: int, dimension: int) -> TopicReading | None:
        """From a factorisation's file; None where it has none. Raises `ScorerFileError`."""
        if LIFT not in file.head:
            return None
        lift = file.tensor(LIFT, tiers, None)
        groups = lift.shape[1]
        weight = file.tensor(f"{PREFIX}weight", groups, dimension)
        return cls(weight, file.tensor(f"{PREFIX}bias", groups), lift)

    def log_odds(self, vectors: np.ndarray) -> np.ndarray:
        """What the topic adds, (N, tiers), for N query vectors (N, d)."""
        scores = vectors @ self.weight.T + self.bias
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        return np.asarray(chances @ self.lift.T)

"""Boosted trees that a factorisation of thousands of prompts has beside its probes.

    columns  = [P v_q, s]                                       s: the factorisation's own log-odds
    log-odds = (1 - share) * those so far + share * trees(columns)

A probe is one direction for all prompts. It cannot say that numbers among the options count in physics
and not in law, or that a stem's length counts up to a point; trees can. They read the principal components
of the vectors, the prompt's features, and what the probes make of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scorers.runtime.heads import ScorerFile
from scorers.runtime.trees import BoostedTrees

PREFIX = "trees."
SHARE = f"{PREFIX}share"


@dataclass(frozen=True, slots=True)
class PromptTrees:
    """`projection` (K, d) of query vectors; `trees`, one a tier, over K + tiers columns; their `share` of the
    log-odds."""

    projection: np.ndarray
    trees: tuple[BoostedTrees, ...]
    share: float

    @classmethod
    def read(cls, file: ScorerFile, tiers: int, dimension: int) -> PromptTrees | None:
        """From a factorisation's file; None where it has none. Raises `ScorerFileError`."""
        if SHARE not in file.head:
            return None
        projection = file.tensor(f"{PREFIX}projection", None, dimension)
        columns = len(projection) + tiers
        trees = tuple(BoostedTrees.read(file, f"{PREFIX}{tier}", columns) for tier in range(tiers))
        return cls(projection, trees, float(file.tensor(SHARE, 1)[0]))

    def tensors(self) -> dict[str, np.ndarray]:
        """What `read` reads."""
        tensors = {
            f"{PREFIX}projection": self.projection,
            SHARE: np.array([self.share], dtype=np.float32),
        }
        for tier, trees in enumerate(self.trees):
            tensors |= trees.tensors(f"{PREFIX}{tier}")
        return tensors

    def blend(self, logits: np.ndarray, vectors: np.ndarray, probed: np.ndarray) -> np.ndarray:
        """Log-odds (N, tiers) with those of the trees, from N query vectors (N, d) and what the probes alone
        say of them, `probed` (N, tiers)."""
        columns = tree_columns(vectors, self.projection, probed)
        told = np.stack([trees.logits(columns) for trees in self.trees], axis=1)
        return np.asarray((1.0 - self.share) * logits + self.share * told)


def tree_columns(vectors: np.ndarray, projection: np.ndarray, probed: np.ndarray) -> np.ndarray:
    """(N, K + tiers) in float32, which is what thresholds were fitted on."""
    return np.concatenate([vectors @ projection.T, probed], axis=1, dtype=np.float32, casting="same_kind")

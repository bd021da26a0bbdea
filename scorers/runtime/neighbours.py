"""Whether a prompt's query vector lies near any that the scorers were fitted on.

The nearest of a few hundred fitted vectors, by cosine, against a bound that all but half a percent of
unseen prompts of the same kind keep. A look-up is one product of (N, d) by (d, k): 20 us a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_VECTORS = 512
_FAR_SHARE = 0.005
_SLACK = 0.05  # of cosine: the quantile of a few hundred prompts is uncertain by about that
_LEAST_NORM = 1e-9


@dataclass(frozen=True, slots=True)
class Neighbours:
    """`vectors` (k, d) of length 1; `least` is the smallest cosine to the nearest that counts as near."""

    vectors: np.ndarray
    least: float

    @classmethod
    def of(cls, fitted: np.ndarray, unseen: np.ndarray) -> Neighbours:
        """From vectors of prompts that were fitted on, (k, d), and of others of their kind, (m, d)."""
        near = cls(_unit(fitted[:MOST_VECTORS]), 1.0)
        return cls(near.vectors, float(np.quantile(near.cosines(unseen), _FAR_SHARE)) - _SLACK)

    def cosines(self, vectors: np.ndarray) -> np.ndarray:
        """To the nearest, shape (N,), in [-1, 1]."""
        nearest: np.ndarray = (_unit(vectors) @ self.vectors.T).max(axis=1)
        return nearest

    def far(self, vectors: np.ndarray) -> np.ndarray:
        """Which vectors lie near none, shape (N,), bool."""
        out: np.ndarray = self.cosines(vectors) < self.least
        return out


def _unit(vectors: np.ndarray) -> np.ndarray:
    values = np.asarray(vectors, dtype=np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), _LEAST_NORM)

"""Whether a prompt's query vector lies near any that the scorers were fitted on.

The nearest of a few hundred fitted vectors, by cosine, against a bound that all but a small share of
unseen prompts of the same kind keep. A look-up is one product of (N, d) by (d, k): 20 us a prompt.

The vectors are the encoder's middle layer where it is at hand: the last one was trained to tell topics apart
and puts a German question beside the English one on the same thing, the middle one still knows language and
form. Neighbours of exam questions take 85 % of open-ended instructions for unlike by the middle layer and
55 % by the last, at the same 2 % of unseen exam questions (see trainer/LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scorers.runtime.heads import ScorerFile

MOST_VECTORS = 512
FAR_SHARE = 0.005
# Of cosine: the quantile of a few hundred prompts is uncertain by about that. The middle layer's lie closer.
_SLACK, _MIDDLE_SLACK = 0.05, 0.02
TENSORS = {"last": "vectors", "middle": "middle"}  # what a bundle calls the vectors of a layer
LEAST = "least"
_LEAST_NORM = 1e-9


@dataclass(frozen=True, slots=True)
class Neighbours:
    """`vectors` (k, d) of length 1; `least` is the smallest cosine to the nearest that counts as near;
    `layer`, `last` or `middle`, is the one they are of."""

    vectors: np.ndarray
    least: float
    layer: str = "last"

    @classmethod
    def read(cls, file: ScorerFile, prefix: str = "") -> Neighbours | None:
        """From tensors whose names begin with `prefix`; None without them. Raises `ScorerFileError`."""
        if f"{prefix}{LEAST}" not in file.head:
            return None
        layer = "middle" if f"{prefix}{TENSORS['middle']}" in file.head else "last"
        vectors = file.tensor(f"{prefix}{TENSORS[layer]}", None, None)
        return cls(vectors, float(file.tensor(f"{prefix}{LEAST}", 1)[0]), layer)

    @classmethod
    def of(
        cls, fitted: np.ndarray, unseen: np.ndarray, layer: str = "last", far_share: float = FAR_SHARE
    ) -> Neighbours:
        """From vectors of prompts that were fitted on, (k, d), and of others of their kind, (m, d), of which
        `far_share` may be taken for unlike."""
        near = cls(_unit(fitted[:MOST_VECTORS]), 1.0)
        slack = _MIDDLE_SLACK if layer == "middle" else _SLACK
        return cls(near.vectors, float(np.quantile(near.cosines(unseen), far_share)) - slack, layer)

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

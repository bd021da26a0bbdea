"""Boosted trees read from arrays: what gradient boosting fitted, served with numpy alone.

Every tree is a row of padded arrays; all trees of all answers go down one level together, so a hundred
small trees cost a few dozen microseconds an answer and the server needs no learning library.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scorers.errors import ScorerFileError
from scorers.runtime.heads import ScorerFile

_FIELDS = ("feature", "threshold", "left", "right", "value")


@dataclass(frozen=True, slots=True)
class BoostedTrees:
    """T trees of at most N nodes; a leaf is its own left and right child, so going down stops there.

    `feature`, `left`, `right` (T, N) integers; `threshold`, `value` (T, N) float32; `base` starts the sum.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    base: float
    depth: int

    @classmethod
    def read(cls, file: ScorerFile, prefix: str, n_columns: int) -> BoostedTrees:
        """From tensors `PREFIX.feature` and so on. Raises `ScorerFileError` for indices out of range."""
        feature = file.tensor(f"{prefix}.feature", None, None)
        arrays = {name: file.tensor(f"{prefix}.{name}", *feature.shape) for name in _FIELDS}
        for name, bound in (("feature", n_columns), ("left", feature.shape[1]), ("right", feature.shape[1])):
            arrays[name] = arrays[name].astype(np.int64)
            if arrays[name].size and not (arrays[name].min() >= 0 and arrays[name].max() < bound):
                raise ScorerFileError(
                    f"{file.path}: tensor {prefix}.{name} must lie in 0..{bound - 1}, it reaches from "
                    f"{arrays[name].min()} to {arrays[name].max()}"
                )
        base, depth = file.tensor(f"{prefix}.base_depth", 2).tolist()
        return cls(**arrays, base=float(base), depth=int(depth))

    def tensors(self, prefix: str) -> dict[str, np.ndarray]:
        """What `read` reads."""
        arrays = {name: np.asarray(getattr(self, name), dtype=np.float32) for name in _FIELDS}
        arrays["base_depth"] = np.array([self.base, self.depth], dtype=np.float32)
        return {f"{prefix}.{name}": array for name, array in arrays.items()}

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Log-odds of rows (B, columns), shape (B,)."""
        trees, width = self.feature.shape
        feature, threshold = self.feature.ravel(), self.threshold.ravel()
        left, right = self.left.ravel(), self.right.ravel()
        values, row = x.ravel(), np.arange(len(x))[:, None] * x.shape[1]
        root = np.arange(trees)[None, :] * width
        node = np.repeat(root, len(x), axis=0)  # (B, T), by place in the flat arrays
        for _ in range(self.depth):
            below = values[row + feature[node]] <= threshold[node]
            node = root + np.where(below, left[node], right[node])
        total: np.ndarray = self.base + self.value.ravel()[node].sum(axis=1, dtype=np.float64)
        return total

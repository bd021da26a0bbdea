"""Fits the stack's kernel machine: ridge regression in a Gaussian kernel, exact, on the weak model's answers.

Targets are probabilities: labels, or labels softened by a teacher who has seen the reference (`fit_teacher`).
One eigendecomposition of the kernel serves every ridge and every target, so that folds can choose between
them: half a second for 800 rows, five for the 1,500 at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scorers.runtime.kernel import KernelReading, scale_inputs, similarity
from trainer.fit_mf import standardiser

MAX_ROWS = 1500
RIDGES = (0.1, 0.2, 0.4, 1.0, 3.0, 10.0)
VECTOR_WEIGHT, FEATURE_WEIGHT = 1.0, 4.0
WIDTH = 1.0  # gamma is this over twice the summed variance of the scaled inputs


@dataclass(slots=True)
class KernelFit:
    """A kernel machine on some rows before ridge and target are chosen."""

    center: np.ndarray
    scale: np.ndarray
    rows: np.ndarray
    gamma: float
    vectors: int
    _values: np.ndarray
    _basis: np.ndarray
    _root: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, weight: np.ndarray, vectors: int) -> KernelFit:
        """x (n, D), of which `vectors` columns are vectors, of prompt and answer;
        weight (n,) above 0."""
        layer = (vectors // 2, VECTOR_WEIGHT, False)
        inputs = standardiser(x, [layer, layer, (x.shape[1] - vectors, FEATURE_WEIGHT, True)])
        rows = scale_inputs(x, inputs.centre, inputs.scale, vectors).astype(np.float16)  # as a bundle has it
        spread = rows.astype(np.float64).var(axis=0).sum()
        gamma = float(np.float32(WIDTH / (2.0 * max(spread, 1e-9))))
        root = np.sqrt(weight)
        values, basis = np.linalg.eigh(root[:, None] * similarity(rows, rows, gamma) * root)
        return cls(inputs.centre, inputs.scale, rows, gamma, vectors, np.maximum(values, 0.0), basis, root)

    def solve(self, target: np.ndarray, ridge: float) -> KernelReading:
        """The machine for targets (n,); it predicts what they are above their weighted mean."""
        above = target - np.average(target, weights=self._root**2)
        inner = (self._basis.T @ (self._root * above)) / (self._values + ridge)
        alpha = self._root * (self._basis @ inner)
        return KernelReading(
            self.center, self.scale, self.rows, alpha.astype(np.float32), self.gamma, self.vectors
        )

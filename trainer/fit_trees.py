"""Boosted trees by scikit-learn, written out as the arrays that serving reads (`scorers/runtime/trees.py`).

Histogram boosting with small, strongly regularised trees; the settings held over AlpacaEval's and GSM8K's
answers alike (`trainer/LOG.md`). No early stopping: it would draw a split of rows, not of prompts.
"""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from scorers.runtime.trees import BoostedTrees

TREES = 150
LEAVES = 8
LEARNING_RATE = 0.05
RIDGE = 5.0
MIN_LEAF_ROWS = 20


def fit_trees(x: np.ndarray, y: np.ndarray, weight: np.ndarray, seed: int) -> BoostedTrees:
    """Fit on x (B, columns), y (B,) of 0 and 1, weight (B,) above 0; one class only gives its constant."""
    if y.min() == y.max():
        return _constant(float(np.average(y, weights=weight)))
    model = HistGradientBoostingClassifier(
        max_iter=TREES,
        max_leaf_nodes=LEAVES,
        learning_rate=LEARNING_RATE,
        l2_regularization=RIDGE,
        min_samples_leaf=min(MIN_LEAF_ROWS, max(1, len(x) // 10)),
        early_stopping=False,
        random_state=seed,
    )
    model.fit(x.astype(np.float32), y, sample_weight=weight)
    return _write_out(model)


def _write_out(model: HistGradientBoostingClassifier) -> BoostedTrees:
    """scikit-learn keeps fitted trees in private attributes only; a test holds both sums equal."""
    nodes = [predictors[0].nodes for predictors in model._predictors]
    shape = (len(nodes), max(map(len, nodes)))
    feature, left, right = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    threshold, value = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    left[:], right[:] = np.arange(shape[1]), np.arange(shape[1])
    for tree, table in enumerate(nodes):
        inner = np.flatnonzero(table["is_leaf"] == 0)
        feature[tree, inner] = table["feature_idx"][inner]
        threshold[tree, inner] = table["num_threshold"][inner]
        left[tree, inner], right[tree, inner] = table["left"][inner], table["right"][inner]
        value[tree, : len(table)] = table["value"]
    depth = max(int(table["depth"].max()) for table in nodes)
    base = float(np.ravel(model._baseline_prediction)[0])
    return BoostedTrees(feature, threshold, left, right, value, base, depth)


def _constant(share: float) -> BoostedTrees:
    held = min(max(share, 1e-3), 1 - 1e-3)
    node, number = np.zeros((1, 1), dtype=np.int64), np.zeros((1, 1), dtype=np.float32)
    return BoostedTrees(node, number, node, node, number, float(np.log(held / (1 - held))), 1)

"""Boosted trees by scikit-learn, written out as the arrays that serving reads (`scorers/runtime/trees.py`).

Histogram boosting with small, strongly regularised trees; the settings for answers held over AlpacaEval's and
GSM8K's alike (`trainer/LOG.md`). No early stopping: it would draw a split of rows, not of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from scorers.runtime.trees import BoostedTrees


@dataclass(frozen=True, slots=True)
class TreeSettings:
    """Of `forests` of `trees` each, which differ by the columns that their splits may look at."""

    trees: int = 150
    leaves: int = 8
    least_leaf_rows: int = 20
    most_levels: int | None = None
    column_share: float = 1.0  # that one split looks at
    forests: int = 1
    learning_rate: float = 0.05
    ridge: float = 5.0


ANSWERS = TreeSettings()


def fit_trees(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, seed: int, settings: TreeSettings = ANSWERS
) -> BoostedTrees:
    """Fit on x (B, columns), y (B,) of 0 and 1, weight (B,) above 0; one class only gives its constant."""
    if y.min() == y.max():
        return _constant(float(np.average(y, weights=weight)))
    models = [
        HistGradientBoostingClassifier(
            max_iter=settings.trees,
            max_leaf_nodes=settings.leaves,
            max_depth=settings.most_levels,
            max_features=settings.column_share,
            learning_rate=settings.learning_rate,
            l2_regularization=settings.ridge,
            min_samples_leaf=min(settings.least_leaf_rows, max(1, len(x) // 10)),
            early_stopping=False,
            random_state=seed + number,
        ).fit(x.astype(np.float32), y, sample_weight=weight)
        for number in range(settings.forests)
    ]
    return _write_out(models)


def _write_out(models: Sequence[HistGradientBoostingClassifier]) -> BoostedTrees:
    """All trees of some models as one forest, whose log-odds are the mean of theirs.

    scikit-learn keeps fitted trees in private attributes only; a test holds both sums equal."""
    nodes = [predictors[0].nodes for model in models for predictors in model._predictors]
    shape = (len(nodes), max(map(len, nodes)))
    feature, left, right = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    threshold, value = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    left[:], right[:] = np.arange(shape[1]), np.arange(shape[1])
    for tree, table in enumerate(nodes):
        inner = np.flatnonzero(table["is_leaf"] == 0)
        feature[tree, inner] = table["feature_idx"][inner]
        threshold[tree, inner] = table["num_threshold"][inner]
        left[tree, inner], right[tree, inner] = table["left"][inner], table["right"][inner]
        value[tree, : len(table)] = table["value"] / len(models)
    depth = max(int(table["depth"].max()) for table in nodes)
    base = float(np.mean([np.ravel(model._baseline_prediction)[0] for model in models]))
    return BoostedTrees(feature, threshold, left, right, value, base, depth)


def _constant(share: float) -> BoostedTrees:
    held = min(max(share, 1e-3), 1 - 1e-3)
    node, number = np.zeros((1, 1), dtype=np.int64), np.zeros((1, 1), dtype=np.float32)
    return BoostedTrees(node, number, node, node, number, float(np.log(held / (1 - held))), 1)

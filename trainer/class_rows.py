"""Qualities between 0 and 1 for learners that know two classes."""

from __future__ import annotations

import numpy as np


def class_rows(quality: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in quality (N,), class 1 or 0, and weight, a row each: first who was right, then who was not.

    A quality that is neither 0 nor 1 stands in both classes, each by its share.
    """
    share = quality.astype(np.float64)
    weight = np.concatenate([share, 1.0 - share])
    kept = np.flatnonzero(weight)
    return kept % len(share), (kept < len(share)).astype(np.int64), weight[kept]

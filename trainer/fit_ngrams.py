"""Fits the linear reading of a prompt's words (`scorers/ngrams.py`): one logistic regression a tier.

Convex, so there is one answer and no seed. Penalty and share were chosen by cross-validation on MMLU; the
share by the ranking, which gains where the loss does not. Seconds for thousands of prompts on one core.
Fewer prompts than a few thousand teach words nothing (`LEAST_PROMPTS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from scorers.ngrams import COLUMNS, ngram_columns

LEAST_PROMPTS = 2000
SHARE = 0.5  # of the difficulty classifier's log-odds
PENALTY_C = 1.0  # inverse ridge, on rows of unit length
STEPS = 80


@dataclass(frozen=True, slots=True)
class NgramReading:
    """`idf` (COLUMNS,), `weight` (2, COLUMNS), `bias` (2,): log-odds of weak and strong being adequate."""

    idf: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """As the bundle holds them, under `ngrams.`."""
        half, full = np.float16, np.float32
        return {
            "ngrams.idf": self.idf.astype(half),
            "ngrams.weight": self.weight.astype(half),
            "ngrams.bias": self.bias.astype(full),
            "ngrams.share": np.array([SHARE], dtype=full),
        }


def fit_ngrams(prompts: Sequence[str], quality: np.ndarray) -> NgramReading:
    """From prompts and both tiers' qualities (N, 2) in [0, 1]; one that is neither 0 nor 1 counts as both,
    each by its share."""
    rows = [ngram_columns(prompt) for prompt in prompts]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate(rows)
    counts = np.bincount(columns, minlength=COLUMNS)
    idf = np.log((1.0 + len(rows)) / (1.0 + counts)) * (counts > 1)  # a word of one prompt tells of no other
    table = sparse.csr_matrix((idf[columns], columns, starts), shape=(len(rows), COLUMNS))
    lengths = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).ravel())
    table = sparse.diags(1.0 / np.maximum(lengths, 1e-9)) @ table
    twice = sparse.vstack([table, table], format="csr")
    right = np.repeat([1, 0], len(rows))
    weight, bias = np.zeros((2, COLUMNS)), np.zeros(2)
    for tier in range(2):
        share = quality[:, tier].astype(np.float64)
        shares = np.concatenate([share, 1.0 - share])
        kept = np.flatnonzero(shares)
        if len(set(right[kept].tolist())) < 2:  # one class only: nothing in the words
            bias[tier] = np.log((share.sum() + 1.0) / (len(share) - share.sum() + 1.0))
            continue
        model = LogisticRegression(C=PENALTY_C, max_iter=STEPS)
        model.fit(twice[kept], right[kept], sample_weight=shares[kept])
        weight[tier], bias[tier] = model.coef_[0], model.intercept_[0]
    return NgramReading(idf, weight, bias)

"""Fits the factorisation's linear reading of a prompt's words (`scorers/ngrams.py`): one logistic regression
a tier.

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
from scorers.runtime.words import PREFIX
from trainer.class_rows import class_rows

LEAST_PROMPTS = 2000
SHARE = 0.5  # of the log-odds, of the factorisation and of the difficulty classifier
PENALTY_C = 1.0  # inverse ridge, on rows of unit length
STEPS = 80


@dataclass(frozen=True, slots=True)
class NgramReading:
    """`idf` (COLUMNS,), `weight` (tiers, COLUMNS), `bias` (tiers,): log-odds of each tier being adequate."""

    idf: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """As the bundle holds them, beside the factorisation's."""
        half, full = np.float16, np.float32
        return {
            f"{PREFIX}idf": self.idf.astype(half),
            f"{PREFIX}weight": self.weight.astype(half),
            f"{PREFIX}bias": self.bias.astype(full),
            f"{PREFIX}share": np.array([SHARE], dtype=full),
        }


def fit_ngrams(prompts: Sequence[str], quality: np.ndarray) -> NgramReading:
    """From prompts and the tiers' qualities (N, tiers) in [0, 1]; one that is neither 0 nor 1 counts as both,
    each by its share."""
    rows = [ngram_columns(prompt) for prompt in prompts]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate(rows)
    counts = np.bincount(columns, minlength=COLUMNS)
    idf = np.log((1.0 + len(rows)) / (1.0 + counts)) * (counts > 1)  # a word of one prompt tells of no other
    table = sparse.csr_matrix((idf[columns], columns, starts), shape=(len(rows), COLUMNS))
    lengths = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).ravel())
    table = sparse.diags(1.0 / np.maximum(lengths, 1e-9)) @ table
    tiers = quality.shape[1]
    weight, bias = np.zeros((tiers, COLUMNS)), np.zeros(tiers)
    for tier in range(tiers):
        at, right, share = class_rows(quality[:, tier])
        if right.min() == right.max():  # one class only: nothing in the words
            good = share[right == 1].sum()
            bias[tier] = np.log((good + 1.0) / (len(rows) - good + 1.0))
            continue
        model = LogisticRegression(C=PENALTY_C, max_iter=STEPS)
        model.fit(table[at], right, sample_weight=share)
        weight[tier], bias[tier] = model.coef_[0], model.intercept_[0]
    return NgramReading(idf, weight, bias)

"""Fits the factorisation's reading of topics (`scorers/runtime/topics.py`) from a table's `group` column.

The group of a prompt is never asked for when serving: it is told from the query vector by a multinomial
logistic regression. Penalty, share and the prior of a group's rate were chosen by cross-validation on MMLU's
57 subjects (trainer/LOG.md). Groups of few prompts are left out, so a column of nearly unique names teaches
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from scorers.runtime.topics import LIFT, PREFIX, TopicReading
from trainer.fit_mf import Standardiser

LEAST_OF_GROUP = 20  # prompts
MOST_GROUPS = 100  # the largest; time grows with them
SHARE = 0.5  # of a group's own log-odds
PENALTY_C = 0.1  # inverse ridge, on standardised query vectors
PRIOR_PROMPTS = 10.0  # as many at everybody's rate stand beside those of a group
STEPS = 300


def fit_topics(
    vectors: np.ndarray, groups: Sequence[str], quality: np.ndarray, inputs: Standardiser
) -> TopicReading | None:
    """From query vectors (N, d), the prompts' groups ('' for none) and the tiers' qualities (N, tiers) in
    [0, 1]; None where fewer than two groups have `LEAST_OF_GROUP`."""
    counted = Counter(name for name in sorted(groups) if name).most_common(MOST_GROUPS)
    names = [name for name, n in counted if n >= LEAST_OF_GROUP]
    if len(names) < 2:
        return None
    number = {name: at for at, name in enumerate(names)}
    rows = np.array([at for at, name in enumerate(groups) if name in number])
    group = np.array([number[groups[at]] for at in rows])
    model = LogisticRegression(C=PENALTY_C, max_iter=STEPS)
    model.fit((vectors[rows] - inputs.centre) * inputs.scale, group)
    weight, bias = model.coef_, model.intercept_
    if len(names) == 2:  # one row of log-odds stands for both
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight * inputs.scale
    counts = np.bincount(group, minlength=len(names))
    right = np.stack([np.bincount(group, column, len(names)) for column in quality[rows].T])
    mean = np.clip(quality.mean(axis=0), 1e-3, 1 - 1e-3)[:, None]
    rate = (right + PRIOR_PROMPTS * mean) / (counts + PRIOR_PROMPTS)
    lift = SHARE * (_log_odds(rate) - _log_odds(mean))
    return TopicReading(weight, bias - weight @ inputs.centre, lift)


def topic_tensors(reading: TopicReading) -> dict[str, np.ndarray]:
    """As the bundle holds them, beside the factorisation's; in C order, since safetensors writes memory as it
    lies."""
    parts = {f"{PREFIX}weight": reading.weight, f"{PREFIX}bias": reading.bias, LIFT: reading.lift}
    return {name: np.ascontiguousarray(part, dtype=np.float32) for name, part in parts.items()}


def _log_odds(rate: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(rate / (1.0 - rate)))

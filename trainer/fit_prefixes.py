"""Fits the heads that read beginnings: what will the stack say of the whole answer?

The target is the stack's own log-odds of the whole, on prompts that its readings had not seen: a number for
each of the weak model's answers instead of a label, which teaches a few hundred rows as much as thousands of
labels would, and it is the very verdict that an early one has to agree with. Each length gets a ridge
regression on standardised columns (features and what the prompt tells, out of fold). Lengths that too few
answers pass get none.

Cost: features of every beginning, a millisecond each; the vectors are the stack's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scorers.answer import AnswerLike
from scorers.features import LOGPROB_BLOCK, LOGPROB_FEATURES, features_of
from scorers.runtime.prefix_reader import HEAD_BOUND, PrefixHeads
from scorers.runtime.stack import stack_columns
from trainer.examples import Example
from trainer.fit_stack import LOGPROB_DROP, FittedStack
from trainer.prefixes import CHECKPOINTS, cut_answer

LEAST_ROWS = 60  # answers longer than a head's length
MOST_ROWS = 2_000  # answers that are cut; more teach a few dozen weights nothing
RIDGE = 60.0  # on standardised columns


def fit_prefix_heads(
    rows: Sequence[Example], weak: str, fitted: FittedStack, seed: int
) -> PrefixHeads | None:
    """Heads from the rows that `fitted` was fitted on; None where no length has enough answers."""
    at = [i for i in fitted.unseen if rows[i].model == weak][:MOST_ROWS]
    target = np.array([fitted.unseen[i] for i in at])
    told = fitted.told[[fitted.order[rows[i].prompt_id] for i in at]]
    random = np.random.default_rng(seed)
    found: dict[int, tuple[np.ndarray, ...]] = {}
    for tokens in CHECKPOINTS:
        cuts = [cut_answer(rows[i], tokens) for i in at]
        there = np.array([cut.finish_reason is None for cut in cuts], dtype=bool)
        if there.sum() < LEAST_ROWS:
            continue
        part: list[tuple[str, AnswerLike]] = [
            (rows[i].prompt, cut) for i, cut in zip(at, cuts, strict=True) if cut.finish_reason is None
        ]
        features = features_of(part)
        features[random.random(len(part)) < LOGPROB_DROP, LOGPROB_BLOCK] = [1.0] + [0.0] * (
            len(LOGPROB_FEATURES) - 1
        )
        found[tokens] = _fit_head(stack_columns(features, told[there]), target[there])
    if not found:
        return None
    center, scale, weight, bias = (np.stack(parts) for parts in zip(*found.values(), strict=True))
    return PrefixHeads(np.array(list(found), dtype=np.float32), center, scale, weight, bias)


def _fit_head(columns: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, ...]:
    """Center, scale, weight (C,) and bias () of a ridge regression with an intercept."""
    center, scale = columns.mean(0), columns.std(0)
    scale = np.where(scale < 1e-3, 1.0, scale)
    x = np.clip((columns - center) / scale, -HEAD_BOUND, HEAD_BOUND).astype(np.float64)
    middle, level = x.mean(0), target.mean()
    gram = (x - middle).T @ (x - middle) + RIDGE * np.eye(x.shape[1])
    weight = np.linalg.solve(gram, (x - middle).T @ (target - level))
    return center, scale, weight, np.asarray(level - middle @ weight)

"""Fits the factorisation's boosted trees (`scorers/runtime/prompt_trees.py`): one forest a tier.

Their columns are the principal components of the query vectors, the prompt's features as they are, and
the factorisation's log-odds of prompts that it had not seen: from those it was fitted on the trees would
learn to believe it.
Settings and share were chosen by cross-validation on MMLU (trainer/LOG.md). On GSM8K's 900 prompts trees lose
what a line gains, so fewer than a few thousand prompts get none.

Seconds for 10,000 prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scorers.runtime.prompt_trees import PromptTrees, tree_columns
from trainer.class_rows import class_rows
from trainer.fit_mf import Block, Standardiser
from trainer.fit_trees import TreeSettings, fit_trees

COMPONENTS = 24
SHARE = 0.6  # of the log-odds; the factorisation and words have the rest
# Deep trees that look at a fifth of the columns at each split, averaged over four forests, and stopped early.
SETTINGS = TreeSettings(trees=50, leaves=31, least_leaf_rows=40, most_levels=8, column_share=0.2, forests=4)


def fit_prompt_trees(
    vectors: np.ndarray,
    probed: np.ndarray,
    quality: np.ndarray,
    inputs: Standardiser,
    blocks: Sequence[Block],
    seed: int,
) -> PromptTrees:
    """From query vectors (N, d), the factorisation's log-odds of the tiers from folds that left the prompt
    out (N, tiers), and the tiers' qualities (N, tiers) in [0, 1]: one that is neither 0 nor 1 counts as
    both, each by its share."""
    projection = _projection(vectors, inputs, blocks)
    columns = tree_columns(vectors, projection, probed)
    trees = []
    for tier in quality.T:
        at, right, weight = class_rows(tier)
        trees.append(fit_trees(columns[at], right, weight, seed, SETTINGS))
    return PromptTrees(projection, tuple(trees), SHARE)


def _projection(vectors: np.ndarray, inputs: Standardiser, blocks: Sequence[Block]) -> np.ndarray:
    """(K, d): components of the encoder's columns, and each feature by itself."""
    singly = np.concatenate([np.full(columns, own) for columns, _, own in blocks])
    scaled = np.where(singly, 0.0, (vectors - inputs.centre) * inputs.scale)
    values, basis = np.linalg.eigh(scaled.T @ scaled)
    largest = basis[:, np.argsort(-values)[: min(COMPONENTS, int((~singly).sum()))]].T
    return np.concatenate([largest * inputs.scale, np.eye(len(singly))[singly]]).astype(np.float32)

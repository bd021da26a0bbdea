"""Splits by prompt, decided by the prompt's own hash: the same prompt falls on the same side everywhere.

No random state, so adding rows or files moves no prompt, all models' answers to one prompt stay together,
and a re-run after a kill splits alike. The seed changes the assignment, for cross-validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.72, "validation": 0.08, "calibration": 0.20}


def position_of(prompt_id: str, seed: int = 0) -> float:
    """Where a prompt stands in [0, 1): uniform over prompts, fixed for ever."""
    digest = hashlib.sha256(f"{seed}:{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_prompts(
    prompt_ids: Iterable[str], fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0
) -> dict[str, list[str]]:
    """Prompt ids by split, sorted. Raises `ValueError` unless the fractions are positive and sum to 1."""
    if any(f < 0 for f in fractions.values()) or abs(sum(fractions.values()) - 1.0) > 1e-9:
        raise ValueError(f"fractions must be at least 0 and sum to 1, got {dict(fractions)}")
    splits: dict[str, list[str]] = {name: [] for name in fractions}
    names = list(fractions)
    for prompt_id in sorted(set(prompt_ids)):
        position, edge = position_of(prompt_id, seed), 0.0
        chosen = names[-1]
        for name in names:
            edge += fractions[name]
            if position < edge:
                chosen = name
                break
        splits[chosen].append(prompt_id)
    return splits


def fold_of(prompt_id: str, folds: int, seed: int = 0) -> int:
    """The cross-validation fold of a prompt, 0..folds-1."""
    return int(position_of(prompt_id, seed) * folds)

"""Scores a pair table with a bundle, through the very runtime that serves it.

So an evaluation measures what a user gets: merged adapters, float16 storage, ONNX arithmetic. The result is
a `ScoredPairs`, which the calibration, the certificate and the report read without any encoder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from routing.bundle import Bundle, open_bundle
from routing.errors import BundleError
from scorers.errors import ScoringError
from scorers.runtime.scorers import BundleScorers, load_scorers
from scorers.text import TEXT_TEMPLATE
from trainer.examples import Example, PairTable
from trainer.prefixes import answer_of
from trainer.progress import Progress, no_progress
from trainer.scored import ScoredPairs

CHUNK_ROWS = 64


def score_pairs(
    bundle_dir: str | Path | Bundle,
    pairs: PairTable,
    progress: Progress = no_progress,
    threads: int | None = None,
    judge: bool = True,
) -> ScoredPairs:
    """Every scorer's raw output on every prompt of the table, with qualities and costs.

    `adequate_raw` is None where the bundle has no evaluator, where a prompt of the table has no answer, and
    without `judge`. Raises `BundleError`.
    """
    bundle = bundle_dir if isinstance(bundle_dir, Bundle) else open_bundle(bundle_dir, TEXT_TEMPLATE)
    try:
        scorers = load_scorers(bundle.path, bundle.scorers, threads)
        return score_table(scorers, pairs, progress, judge)
    except ScoringError as exc:
        raise BundleError(f"{bundle.path}: {exc}") from exc


def score_table(
    scorers: BundleScorers, pairs: PairTable, progress: Progress = no_progress, judge: bool = True
) -> ScoredPairs:
    """`score_pairs` with scorers that are loaded already. Raises `ScoringError`."""
    judged = judge and scorers.evaluator is not None and pairs.has_answers
    gain, weak_adequate, difficulty, adequate = [], [], [], []
    for start in range(0, len(pairs), CHUNK_ROWS):
        rows = pairs.weak[start : start + CHUNK_ROWS]
        prompt_scores = scorers.score_prompts([row.prompt for row in rows])
        gain.append(prompt_scores.gain)
        weak_adequate.append(prompt_scores.weak_adequate)
        if prompt_scores.difficulty is not None:
            difficulty.append(prompt_scores.difficulty)
        if judged:
            adequate.append(scorers.score_answers([(row.prompt, answer_of(row)) for row in rows]))
        progress("score", min(start + CHUNK_ROWS, len(pairs)), len(pairs))
    costs = _costs(pairs)
    return ScoredPairs(
        weak=pairs.weak_model,
        strong=pairs.strong_model,
        prompt_id=pairs.prompt_ids,
        q_weak=pairs.quality[:, 0],
        q_strong=pairs.quality[:, 1],
        prompt_chars=np.array([len(row.prompt) for row in pairs.weak], dtype=np.float64),
        group=[row.group or row.source for row in pairs.weak],
        answer_chars=np.array(
            [np.nan if r.response is None else len(r.response) for r in pairs.weak], dtype=np.float64
        ),
        cost_weak=None if costs is None else costs[0],
        cost_strong=None if costs is None else costs[1],
        gain_raw=np.concatenate(gain),
        weak_adequate_raw=np.concatenate(weak_adequate),
        difficulty_raw=np.concatenate(difficulty) if difficulty else None,
        adequate_raw=np.concatenate(adequate) if adequate else None,
    )


def _costs(pairs: PairTable) -> tuple[np.ndarray, np.ndarray] | None:
    """`cost_usd` of both sides where every row has it; tokens times price is for whoever knows the prices."""

    def column(rows: Sequence[Example]) -> list[float | None]:
        return [row.cost_usd for row in rows]

    weak, strong = column(pairs.weak), column(pairs.strong)
    if any(cost is None for cost in (*weak, *strong)):
        return None
    return np.array(weak, dtype=np.float64), np.array(strong, dtype=np.float64)


def serving_threads() -> int:
    """Threads for one encoder run here: the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)

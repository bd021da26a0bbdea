"""Bounds for judging streams before their end: `policy.json`'s `early`, from answers whose verdict is known.

Each calibration answer is cut at checkpoints and every prefix scored by the serving runtime, the rule turns
scores into margins, and `trainer/early_bounds.py` sets the bounds. Where no pair of them keeps the limits
there are none at all, and streams are held.

The certificate of a bundle speaks of held answers; early verdicts lie outside it by what these bounds allow.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as decode_tensors
from safetensors.numpy import save as encode_tensors

from routing.bundle import Bundle, open_bundle
from routing.early import EarlyRule
from routing.errors import BundleError
from routing.rules import Rule
from routing.signals import Signals
from scorers.checks import Expectation, failed_check
from scorers.errors import ScoringError
from scorers.runtime.scorers import BundleScorers, load_scorers
from scorers.text import TEXT_TEMPLATE
from trainer.calibrate import FittedPolicy, calibrate_scores
from trainer.early_bounds import Bools, JudgedStreams, fit_bounds
from trainer.examples import Example, PairTable
from trainer.loop import Progress, no_progress
from trainer.prefixes import CHECKPOINTS, answer_of, cut_answer
from trainer.scored import Floats, ScoredPairs

SPARSE = frozenset((4, 8, 16, 32, 48, 64, 96, 128, 192, 256))  # where each score costs an encoder's run
_LEAST_JUDGED = 60  # answers that a rule checks: fewer give no bounds
_MOST_ROWS = 2_000  # answers whose prefixes are scored; more would only cost time
_CHUNK_ROWS = 64


@dataclass(slots=True)
class PrefixScores:
    """Prefixes of `n` weak answers at K checkpoints. `rows` (n,) are positions in the scored pairs.

    `raw` (n, K) is the evaluator's P(adequate), NaN where the answer is no longer than the checkpoint;
    `tokens` (n,) the length of the whole answer; `unusable` (n,) whether it fails a hard check.
    """

    rows: NDArray[np.int64]
    raw: Floats
    tokens: Floats
    unusable: Bools

    def to_bytes(self) -> bytes:
        """As safetensors."""
        return encode_tensors(
            {"rows": self.rows, "raw": self.raw, "tokens": self.tokens, "unusable": self.unusable}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> PrefixScores:
        """Read `to_bytes`."""
        return cls(**decode_tensors(data))


def add_early_bounds(
    fitted: FittedPolicy,
    scored: ScoredPairs,
    bundle: str | Path | Bundle,
    pairs: PairTable,
    progress: Progress = no_progress,
) -> None:
    """`prefixes_of`, then `set_early_bounds`."""
    set_early_bounds(fitted, scored, prefixes_of(bundle, scored, pairs, progress))


def prefixes_of(
    bundle: str | Path | Bundle, scored: ScoredPairs, pairs: PairTable, progress: Progress = no_progress
) -> PrefixScores | None:
    """The prefixes of `scored`'s weak answers, scored by the bundle; None where it judges no answers.

    `pairs` holds the rows that `scored` was made of, in any order. Raises `BundleError`.
    """
    if scored.adequate_raw is None:
        return None
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, TEXT_TEMPLATE)
    try:
        scorers = load_scorers(bundle.path, bundle.scorers)
        return score_prefixes(scorers, scored, pairs, progress)
    except ScoringError as exc:
        raise BundleError(f"{bundle.path}: {exc}") from exc


def set_early_bounds(fitted: FittedPolicy, scored: ScoredPairs, prefixes: PrefixScores | None) -> None:
    """Fit bounds for every strategy that judges answers, at its threshold, and put them into the policy."""
    fitted.policy.early.clear()
    if prefixes is None or "adequate" not in fitted.maps:
        return
    for strategy in ("cascade", "evaluator"):
        if strategy not in fitted.policy.thresholds:
            continue
        rule = fitted.policy.rule(strategy, None)
        streams, share_judged = judge_streams(fitted, scored, prefixes, rule)
        points = fit_bounds(streams, share_judged) if len(streams.tokens) >= _LEAST_JUDGED else []
        if points:
            fitted.policy.early[strategy] = EarlyRule(rule.threshold, points)


def score_prefixes(
    scorers: BundleScorers,
    scored: ScoredPairs,
    pairs: PairTable,
    progress: Progress = no_progress,
    checkpoints: Collection[int] | None = None,
) -> PrefixScores:
    """Raw scores of the prefixes of at most 2,000 answers, at those of `CHECKPOINTS` that are asked for
    (None: all that the bundle has a head for, else `SPARSE`)."""
    if checkpoints is None:
        checkpoints = set(scorers.evaluator.lengths if scorers.evaluator else ()) or SPARSE
    by_id = {row.prompt_id: row for row in pairs.weak}
    rows = np.arange(min(len(scored), _MOST_ROWS), dtype=np.int64)
    examples: list[Example] = [by_id[scored.prompt_id[row]] for row in rows]
    raw = np.full((rows.size, len(CHECKPOINTS)), np.nan)
    cuts = [
        (i, k, cut)
        for i, row in enumerate(examples)
        for k, tokens in enumerate(CHECKPOINTS)
        if tokens in checkpoints and (cut := cut_answer(row, tokens)).finish_reason is None
    ]
    for start in range(0, len(cuts), _CHUNK_ROWS):
        chunk = cuts[start : start + _CHUNK_ROWS]
        scores = scorers.score_answers([(examples[i].prompt, cut) for i, _, cut in chunk])
        for (i, k, _), score in zip(chunk, scores, strict=True):
            raw[i, k] = score
        progress("score prefixes", min(start + _CHUNK_ROWS, len(cuts)), len(cuts))
    expect = Expectation(client_limit=False)
    return PrefixScores(
        rows,
        raw,
        np.array([token_count(row) for row in examples], dtype=np.float64),
        np.array([failed_check(answer_of(row), expect) is not None for row in examples]),
    )


def token_count(row: Example) -> int:
    """Tokens of a whole answer as `cut_answer` counts them: the first cut that gives it back whole."""
    low, high = 1, max(2, len(row.response or "") + 1, row.completion_tokens or 0)
    while low < high:
        middle = (low + high) // 2
        if cut_answer(row, middle).finish_reason is None:
            low = middle + 1
        else:
            high = middle
    return low


def judge_streams(
    fitted: FittedPolicy, scored: ScoredPairs, prefixes: PrefixScores, rule: Rule
) -> tuple[JudgedStreams, float]:
    """The streams that `rule` checks, and their share of all prompts."""
    scores = calibrate_scores(scored, fitted.maps)
    adequate = fitted.maps["adequate"]
    part = scored.subset(prefixes.rows)
    known = ~np.isnan(prefixes.raw)
    calibrated = np.full(prefixes.raw.shape, np.nan)
    calibrated[known] = adequate.apply(prefixes.raw[known])
    assert scores.adequate is not None
    margins, accepted, judged = [], [], []
    for i, row in enumerate(prefixes.rows.tolist()):
        signals = Signals(
            None if scores.mf is None else float(scores.mf[row]),
            None if scores.difficulty is None else float(scores.difficulty[row]),
            float(scores.adequate[row]),
            draw=0.5,
        )
        judged.append(rule.enter(signals).check)
        accepted.append(rule.accept(0, signals) and not prefixes.unusable[i])
        line = []
        for score in calibrated[i].tolist():
            signals.answer_score = score
            line.append(math.nan if math.isnan(score) else rule.margin(0, signals))
        margins.append(line)
    streams = JudgedStreams(
        np.array(margins), np.array(accepted, dtype=bool), prefixes.tokens, part.q_strong - part.q_weak
    )
    checked = np.array(judged, dtype=bool)
    return streams.subset(checked), float(checked.mean())

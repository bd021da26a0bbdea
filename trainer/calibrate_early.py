"""Bounds for judging streams before their end: `policy.json`'s `early`, from answers whose verdict is known.

Each calibration answer is cut at checkpoints and every prefix scored by the serving runtime. At a checkpoint
the commit bound is the widest at which at most a share `alpha` of the prefixes inside it belong to answers
that the whole would have got rejected, the abandon bound likewise with accepted ones; only answers still
undecided count. Of a grid of shares the pair is taken that saves most of the wait, provided that across
folds (bounds fitted on the others) the share of strong calls moves by at most a point and quality falls by at
most one. A checkpoint that decides nothing is left out, so serving never scores there; where no pair of
shares passes there are no bounds at all, and streams are held.

The certificate of a bundle speaks of held answers; early verdicts lie outside it by what these bounds allow.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as decode_tensors
from safetensors.numpy import save as encode_tensors

from routing.bundle import Bundle, open_bundle
from routing.early import Checkpoint, EarlyRule
from routing.errors import BundleError
from routing.policy import Rule, Signals
from scorers.checks import Expectation, failed_check
from scorers.errors import ScoringError
from scorers.runtime.scorers import BundleScorers, load_scorers
from scorers.text import TEXT_TEMPLATE
from trainer.calibrate import FittedPolicy, calibrate_scores
from trainer.examples import Example, PairTable
from trainer.loop import Progress, no_progress
from trainer.prefixes import answer_of, cut_answer
from trainer.scored import Floats, ScoredPairs

CHECKPOINTS = (4, 8, 16, 32, 48, 64, 96, 128, 192, 256)
MAX_SHARE_MOVED = 0.01  # of all prompts that go to strong
MAX_QUALITY_LOST = 0.01
_ALPHAS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3)
_LEAST_ROWS = 8  # inside a bound: fewer show nothing
_LEAST_JUDGED = 60  # answers that a rule checks: fewer give no bounds
_MOST_ROWS = 2_000  # answers whose prefixes are scored; more would only cost time
_FOLDS = 5
_CHUNK_ROWS = 64

Bools = NDArray[np.bool_]


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


@dataclass(slots=True)
class JudgedStreams:
    """What one rule says of n streams: `margins` (n, K) of their prefixes (NaN: ended before), whether the
    whole is `accepted` (n,), its length in `tokens` (n,), and the `gain` (n,) in quality by strong."""

    margins: Floats
    accepted: Bools
    tokens: Floats
    gain: Floats

    def subset(self, rows: Bools) -> JudgedStreams:
        return JudgedStreams(self.margins[rows], self.accepted[rows], self.tokens[rows], self.gain[rows])


@dataclass(frozen=True, slots=True)
class Replayed:
    """How early bounds would have treated streams: `verdict` (n,) 1 commit, -1 abandon, 0 held to the end;
    `at` (n,) the share of the answer's tokens that was there by then."""

    verdict: NDArray[np.int64]
    at: Floats


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
    checkpoints: Collection[int] = CHECKPOINTS,
) -> PrefixScores:
    """Raw scores of the prefixes of at most 2,000 answers, at those of `CHECKPOINTS` that are asked for."""
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


def fit_bounds(streams: JudgedStreams, share_judged: float = 1.0) -> list[Checkpoint]:
    """The checkpoints that decide anything, or none. `share_judged`: these streams' share of all prompts."""
    folds = np.arange(len(streams.tokens)) % _FOLDS
    best, chosen = 0.0, None
    for commit, abandon in product(_ALPHAS, _ALPHAS):
        verdict, at = np.zeros(len(folds), dtype=np.int64), np.ones(len(folds))
        for fold in range(_FOLDS):
            points = bounds_at(streams.subset(folds != fold), commit, abandon)
            replayed = replay(points, streams.subset(folds == fold))
            verdict[folds == fold], at[folds == fold] = replayed.verdict, replayed.at
        if not within_limits(streams, verdict, share_judged):
            continue
        saved = waiting_saved(streams, verdict, at)
        if saved > best:
            best, chosen = saved, (commit, abandon)
    if chosen is None:
        return []
    points = bounds_at(streams, *chosen)
    return [point for point in points if math.isfinite(point.commit) or math.isfinite(point.abandon)]


def bounds_at(streams: JudgedStreams, commit_alpha: float, abandon_alpha: float) -> list[Checkpoint]:
    """Bounds with these shares of wrong verdicts inside each; an alpha of 0 leaves that bound out."""
    undecided = np.ones(len(streams.tokens), dtype=bool)
    points = []
    for k, tokens in enumerate(CHECKPOINTS):
        margins = streams.margins[:, k]
        there = undecided & ~np.isnan(margins)
        values, accepted = margins[there], streams.accepted[there]
        commit = _widest(values, ~accepted, commit_alpha)
        abandon = -_widest(-values, accepted, abandon_alpha)
        if commit >= abandon:  # a checkpoint that tells nothing apart
            commit, abandon = -math.inf, math.inf
        points.append(Checkpoint(tokens, commit, abandon))
        undecided &= ~(there & ((margins <= commit) | (margins >= abandon)))
    return points


def replay(points: Sequence[Checkpoint], streams: JudgedStreams) -> Replayed:
    """What these bounds (one for each of `CHECKPOINTS`) would have done."""
    verdict = np.zeros(len(streams.tokens), dtype=np.int64)
    at = np.ones(len(streams.tokens))
    for k, point in enumerate(points):
        margins = streams.margins[:, k]
        is_open = (verdict == 0) & ~np.isnan(margins)
        for sign, hit in ((1, margins <= point.commit), (-1, margins >= point.abandon)):
            rows = is_open & hit
            verdict[rows] = sign
            at[rows] = point.tokens / streams.tokens[rows]
    return Replayed(verdict, at)


def within_limits(streams: JudgedStreams, verdict: NDArray[np.int64], share_judged: float) -> bool:
    """Whether strong's share and the quality stay within a point of held streams'."""
    lost = (verdict == 1) & ~streams.accepted  # weak's answer was served in place of strong's
    spent = (verdict == -1) & streams.accepted  # strong's in place of weak's
    n = len(streams.tokens)
    moved = (spent.sum() - lost.sum()) / n * share_judged
    quality = (streams.gain[spent].sum() - streams.gain[lost].sum()) / n * share_judged
    return bool(abs(moved) <= MAX_SHARE_MOVED and quality >= -MAX_QUALITY_LOST)


def waiting_saved(streams: JudgedStreams, verdict: NDArray[np.int64], at: Floats) -> float:
    """Share of the answer that need not be awaited: the mean over accepted plus that over rejected."""
    saved = np.where(verdict != 0, 1.0 - at, 0.0)
    sides = ((streams.accepted, 1), (~streams.accepted, -1))
    return float(sum(saved[side & (verdict == sign)].sum() / max(1, side.sum()) for side, sign in sides))


def _widest(values: Floats, wrong: Bools, alpha: float) -> float:
    """The largest bound with at most a share `alpha` of wrong rows at or below it; -inf for none.

    The share is (wrong + 1) / (rows + 2), Laplace's estimate, so that few rows show little. The bound lies
    half-way to the next value, not on one.
    """
    if alpha <= 0.0 or not values.size:
        return -math.inf
    order = np.argsort(values, kind="stable")
    counts = np.arange(1, values.size + 1)
    shares = (np.cumsum(wrong[order]) + 1.0) / (counts + 2.0)
    ends = np.append(np.diff(values[order]) > 0.0, True)  # a bound cannot part equal values
    good = np.flatnonzero((shares <= alpha) & (counts >= _LEAST_ROWS) & ends)
    if not good.size:
        return -math.inf
    last = int(good[-1])
    low = float(values[order][last])
    return low if last + 1 == values.size else 0.5 * (low + float(values[order][last + 1]))

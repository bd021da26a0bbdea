"""From streams whose verdict is known to the bounds of each checkpoint.

How sure a beginning is follows from its margin and its length, smoothly: one logistic regression over all
checkpoints (margin, log of the length, their product) gives P(the whole will be accepted), which a few dozen
answers a checkpoint could not. Two numbers remain, how sure to be before a commit and before an abandonment;
of a grid the pair is taken that saves most of the wait, provided that across folds (everything fitted on the
others) the share of strong calls moves by at most a point and quality falls by at most one. A regression
turned round is a bound on the margin, so what is served is two numbers a checkpoint. One that decides nothing
is left out, so serving never scores there.

Wrong verdicts of the two kinds make up for each other in the share of strong calls; each costs the agreement
with the held verdict, so a pair must save more than `DISAGREEMENT_PRICE` a share of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from routing.early import Checkpoint
from trainer.prefixes import CHECKPOINTS
from trainer.scored import Floats

MAX_SHARE_MOVED = 0.01  # of all prompts that go to strong
MAX_QUALITY_LOST = 0.01
DISAGREEMENT_PRICE = 6.0
_COMMITS = np.arange(0.50, 0.99, 0.03)  # least P(accepted)
_ABANDONS = np.arange(0.03, 0.50, 0.03)  # greatest
_MIDDLE_TOKENS = 64.0
_LEAST_STREAMS = 20  # longer than a checkpoint: fewer show nothing of it
_RIDGE = 0.3
_FOLDS = 5

Bools = NDArray[np.bool_]


@dataclass(slots=True)
class JudgedStreams:
    """What one rule says of n streams: `margins` (n, K) of their prefixes (NaN: ended before, or not read),
    whether the whole is `accepted` (n,), its length in `tokens` (n,), and the `gain` (n,) by strong."""

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


@dataclass(frozen=True, slots=True)
class Certainty:
    """log-odds of accepted = level + length l + (slope + slope_length l) margin; l = log(tokens / 64)."""

    level: float
    length: float
    slope: float
    slope_length: float

    def bound(self, tokens: int, certainty: float) -> float:
        """The margin at which P(accepted) is `certainty`; NaN where a margin says nothing, or the reverse."""
        log = math.log(tokens / _MIDDLE_TOKENS)
        slope = self.slope + self.slope_length * log
        if slope >= -1e-6:
            return math.nan
        return (math.log(certainty / (1.0 - certainty)) - self.level - self.length * log) / slope

    def bounds(self, commit: float, abandon: float, read: Bools) -> list[Checkpoint]:
        """One checkpoint for each of `CHECKPOINTS`; one that is not `read` (K,) decides nothing."""
        points = []
        for tokens, is_read in zip(CHECKPOINTS, read, strict=True):
            low, high = self.bound(tokens, commit), self.bound(tokens, abandon)
            sensible = bool(is_read) and low < high
            points.append(Checkpoint(tokens, low, high) if sensible else Checkpoint(tokens))
        return points


def fit_certainty(streams: JudgedStreams) -> Certainty:
    """Every stream counts once, however many checkpoints it passes."""
    row, k = np.nonzero(~np.isnan(streams.margins))
    log = np.log(np.array(CHECKPOINTS)[k] / _MIDDLE_TOKENS)
    margin = streams.margins[row, k]
    weight = 1.0 / np.bincount(row, minlength=len(streams.tokens))[row]
    columns = np.stack([log, margin, margin * log], axis=1)
    scale = np.maximum(columns.std(0), 1e-9)
    level, length, slope, slope_length = _logistic(columns / scale, streams.accepted[row], weight)
    return Certainty(level, length / scale[0], slope / scale[1], slope_length / scale[2])


def fit_bounds(streams: JudgedStreams, share_judged: float = 1.0) -> list[Checkpoint]:
    """The checkpoints that decide anything, or none. `share_judged`: these streams' share of all prompts."""
    n = len(streams.tokens)
    if streams.accepted.all() or not streams.accepted.any() or np.isnan(streams.margins).all():
        return []
    read = (~np.isnan(streams.margins)).sum(0) >= _LEAST_STREAMS
    folds = np.arange(n) % _FOLDS
    fitted = [fit_certainty(streams.subset(folds != fold)) for fold in range(_FOLDS)]
    parts = [streams.subset(folds == fold) for fold in range(_FOLDS)]
    best, chosen = 0.0, None
    for commit, abandon in product(_COMMITS, _ABANDONS):
        verdict, at = np.zeros(n, dtype=np.int64), np.ones(n)
        for fold in range(_FOLDS):
            replayed = replay(fitted[fold].bounds(commit, abandon, read), parts[fold])
            verdict[folds == fold], at[folds == fold] = replayed.verdict, replayed.at
        if not within_limits(streams, verdict, share_judged):
            continue
        saved = waiting_saved(streams, verdict, at) - DISAGREEMENT_PRICE * disagreeing(streams, verdict)
        if saved > best:
            best, chosen = saved, (commit, abandon)
    if chosen is None:
        return []
    points = fit_certainty(streams).bounds(*chosen, read)
    return [point for point in points if math.isfinite(point.commit)]


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


def disagreeing(streams: JudgedStreams, verdict: NDArray[np.int64]) -> float:
    """Share of the streams whose early verdict is not the held one."""
    return float(np.where(streams.accepted, verdict == -1, verdict == 1).mean())


def waiting_saved(streams: JudgedStreams, verdict: NDArray[np.int64], at: Floats) -> float:
    """Share of the answer that need not be awaited: the mean over accepted plus that over rejected."""
    saved = np.where(verdict != 0, 1.0 - at, 0.0)
    sides = ((streams.accepted, 1), (~streams.accepted, -1))
    return float(sum(saved[side & (verdict == sign)].sum() / max(1, side.sum()) for side, sign in sides))


def _logistic(columns: Floats, y: Bools, weight: Floats) -> tuple[float, ...]:
    """Intercept and weights by Newton's method, with a ridge on all but the intercept."""
    x = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    ridge = np.diag([0.0] + [_RIDGE] * columns.shape[1])
    beta = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ beta, -30.0, 30.0)))
        slope = x.T @ (weight * (y - p)) - ridge @ beta
        curve = (x * (weight * np.maximum(p * (1.0 - p), 1e-6))[:, None]).T @ x + ridge
        step = np.linalg.solve(curve, slope)
        beta += step
        if float(np.abs(step).max()) < 1e-8:
            break
    return tuple(float(value) for value in beta)

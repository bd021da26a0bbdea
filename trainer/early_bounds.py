"""From streams whose verdict is known to the bounds of each checkpoint.

How sure a beginning is follows from its margin and its length, smoothly: one logistic regression over all
checkpoints (margin, log of the length, their product) gives P(the whole will be accepted), which a few dozen
answers a checkpoint could not. Two numbers remain, how sure to be before a commit and before an abandonment;
of a grid the pair is taken that reaches the aims (`COMMITTED`, `GIVEN_UP`) with the fewest verdicts that the
whole answer would have overruled, provided that across folds (everything fitted on the others) the share of
strong calls moves by at most a point and quality falls by at most one. Beyond the aims nothing is gained by
haste: a pair that saved as much of the wait as the limits allow spent all of them, and on new answers more.
Both limits are held by the mean of what was counted and what the certainties foretell: a few hundred answers
count in steps of half a point.

A regression turned round is a bound on the margin, so what is served is two numbers a checkpoint. One that
decides nothing is left out, so serving never scores there.
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
COMMITTED = 0.62  # share of the accepted streams that are to begin before their end, with some to spare
GIVEN_UP = 0.36  # share of the rejected ones that are to end before their half
DISAGREEMENT_PRICE = 3.0  # of a share of wrong verdicts, in units of an aim
_COMMITS = np.arange(0.60, 0.985, 0.02)  # least P(accepted)
_ABANDONS = np.arange(0.04, 0.46, 0.02)  # greatest
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
    `at` (n,) the share of the answer's tokens that was there by then; `k` (n,) the checkpoint, or -1."""

    verdict: NDArray[np.int64]
    at: Floats
    k: NDArray[np.int64]


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

    def chances(self, streams: JudgedStreams) -> Floats:
        """P(accepted) at every checkpoint, (n, K); NaN where there is no margin."""
        log = np.log(np.array(CHECKPOINTS) / _MIDDLE_TOKENS)
        logits = self.level + self.length * log + (self.slope + self.slope_length * log) * streams.margins
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0))))

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
    scale = columns.std(0)
    scale[scale < 1e-9] = 1.0  # one checkpoint only, or one margin: the level says it all
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
    chances = np.empty(streams.margins.shape)
    for fold in range(_FOLDS):
        chances[folds == fold] = fitted[fold].chances(parts[fold])
    best, chosen = 0.0, None
    for commit, abandon in product(_COMMITS, _ABANDONS):
        verdict, at, k = np.zeros(n, dtype=np.int64), np.ones(n), np.full(n, -1)
        for fold in range(_FOLDS):
            rows = folds == fold
            replayed = replay(fitted[fold].bounds(commit, abandon, read), parts[fold])
            verdict[rows], at[rows], k[rows] = replayed.verdict, replayed.at, replayed.k
        chance = chances[np.arange(n), k]
        if not within_limits(streams, verdict, share_judged, chance):
            continue
        worth = reached_aims(streams, verdict, at) - DISAGREEMENT_PRICE * disagreeing(streams, verdict)
        if worth > best:
            best, chosen = worth, (commit, abandon)
    if chosen is None:
        return []
    points = fit_certainty(streams).bounds(*chosen, read)
    return [point for point in points if math.isfinite(point.commit)]


def replay(points: Sequence[Checkpoint], streams: JudgedStreams) -> Replayed:
    """What these bounds (one for each of `CHECKPOINTS`) would have done."""
    verdict = np.zeros(len(streams.tokens), dtype=np.int64)
    at = np.ones(len(streams.tokens))
    decided = np.full(len(streams.tokens), -1)
    for k, point in enumerate(points):
        margins = streams.margins[:, k]
        is_open = (verdict == 0) & ~np.isnan(margins)
        for sign, hit in ((1, margins <= point.commit), (-1, margins >= point.abandon)):
            rows = is_open & hit
            verdict[rows] = sign
            at[rows] = point.tokens / streams.tokens[rows]
            decided[rows] = k
    return Replayed(verdict, at, decided)


def within_limits(
    streams: JudgedStreams, verdict: NDArray[np.int64], share_judged: float, chance: Floats
) -> bool:
    """Whether strong's share and the quality stay within a point of held streams'.

    `chance` (n,) is P(accepted) where it was decided; read only where `verdict` is not 0.
    """
    n, gain, accepted = len(streams.tokens), streams.gain, streams.accepted
    commits, abandons = verdict == 1, verdict == -1
    lost = commits & ~accepted  # weak's answer was served in place of strong's
    spent = abandons & accepted  # strong's in place of weak's
    will_lose, will_spend = (1.0 - chance[commits]).sum(), chance[abandons].sum()
    moved = 0.5 * (spent.sum() - lost.sum() + will_spend - will_lose)
    counted = gain[spent].sum() - gain[lost].sum()
    foretold = will_spend * _mean(gain[accepted]) - will_lose * _mean(gain[~accepted])
    return bool(
        abs(moved) / n * share_judged <= MAX_SHARE_MOVED
        and 0.5 * (counted + foretold) / n * share_judged >= -MAX_QUALITY_LOST
    )


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def disagreeing(streams: JudgedStreams, verdict: NDArray[np.int64]) -> float:
    """Share of the streams whose early verdict is not the held one."""
    return float(np.where(streams.accepted, verdict == -1, verdict == 1).mean())


def reached_aims(streams: JudgedStreams, verdict: NDArray[np.int64], at: Floats) -> float:
    """How much of both aims is reached, in [0, 2]."""
    accepted = streams.accepted
    committed = (accepted & (verdict == 1)).sum() / max(1, accepted.sum())
    given_up = (~accepted & (verdict == -1) & (at < 0.5)).sum() / max(1, (~accepted).sum())
    return float(min(committed / COMMITTED, 1.0) + min(given_up / GIVEN_UP, 1.0))


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

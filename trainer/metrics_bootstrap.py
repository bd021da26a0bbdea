"""Paired bootstrap over prompts: intervals of APGR and tests of differences between strategies.

Every draw reweights the prompts (multinomial counts) and reads each strategy's curve off its presorted
events, so a draw is a cumulative sum, not a sort, and all strategies see the same draws. 1,000 draws of
10,000 prompts and seven strategies take a few seconds on one core.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.table import Floats
from trainer.metrics import Sweep

DRAWS = 1000
_CELLS = 1_000_000  # prompts x draws held at once: 8 MB an array, inside the cache where it matters


@dataclass(frozen=True, slots=True)
class Difference:
    """One strategy's APGR minus another's on the same prompts; `p` is two-sided, from the bootstrap."""

    mean: float
    low: float
    high: float
    p: float


def draw_weights(n: int, draws: int, seed: int) -> Iterator[Floats]:
    """Chunks (b, n) of how often each prompt was drawn, n draws of n; same seed, same draws."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS // n)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        picks = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(picks.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def bootstrap_apgr(
    sweeps: Mapping[str, Sweep], q_weak: Floats, q_strong: Floats, draws: int = DRAWS, seed: int = 0
) -> dict[str, Floats]:
    """APGR of every strategy in every draw, (draws,); NaN in draws where strong is not better."""
    n = q_weak.size
    gain = q_strong - q_weak
    out: dict[str, list[Floats]] = {name: [] for name in sweeps}
    for weights in draw_weights(n, draws, seed):
        gap = weights @ gain  # (b,)
        gap = np.where(gap > 1e-12, gap, np.nan)
        for name, sweep in sweeps.items():
            out[name].append(_apgr_rows(sweep, weights, gain, gap, n))
    return {name: np.concatenate(rows) for name, rows in out.items()}


def interval(values: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of the draws that have a value; None if fewer than half do."""
    good = values[np.isfinite(values)]
    if good.size < 0.5 * values.size:
        return None
    low, high = np.quantile(good, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
    return float(low), float(high)


def difference(a: Floats, b: Floats) -> Difference | None:
    """Paired difference a - b over the draws of `bootstrap_apgr`."""
    gaps = (a - b)[np.isfinite(a - b)]
    bounds = interval(a - b)
    if bounds is None:
        return None
    below, above = (gaps <= 0).sum(), (gaps >= 0).sum()
    p = min(1.0, 2.0 * (min(below, above) + 1) / (gaps.size + 1))
    return Difference(float(gaps.mean()), *bounds, float(p))


def mean_interval(values: Floats, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of a mean, (n,); for paired differences per prompt."""
    size = values.size
    means = np.concatenate([weights @ values / size for weights in draw_weights(size, draws, seed)])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _apgr_rows(sweep: Sweep, weights: Floats, gain: Floats, gap: Floats, n: int) -> Floats:
    """APGR under every row of `weights` (b, n)."""
    events: NDArray[np.int64] = np.flatnonzero(sweep.released)
    rows = sweep.row[events]
    ends = np.unique(np.searchsorted(events, sweep.end, side="left"))
    ends = ends[ends > 0] - 1
    at = weights[:, rows]  # (b, released events)
    released = np.cumsum(at, axis=1)[:, ends] / n
    at *= gain[rows]
    lost = np.cumsum(at, axis=1)[:, ends]
    step = np.diff(released, axis=1, prepend=0.0)
    before = np.concatenate([np.zeros((lost.shape[0], 1)), lost[:, :-1]], axis=1)
    area = ((gap[:, None] - 0.5 * (before + lost)) * step).sum(axis=1)
    result: Floats = area / gap
    return result

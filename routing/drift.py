"""How far a distribution has moved from the one it was calibrated on, in one unit for all.

The population stability index, sum over bins of (p - q) ln(p / q): 0 for no change, and by custom 0.1 to 0.25
a moderate one, above that a large one. Between two samples of one distribution it is not 0 but about
(1/n + 1/m) times a chi-square variable with bins - 1 degrees of freedom (Yurdakul & Naranjo 2020), so a few
hundred rows alone would cross a threshold. What that is worth on average is taken off, and a move counts only
when chance would make it less than once in a thousand windows.

Bins are quantiles of the reference, so each holds about the same share of it. Cost: microseconds.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from routing.errors import PolicyError

_BINS = 10
_HALF = 0.5  # added to every count, so that an empty bin is no infinity
_Z = 3.09  # of a chance of one in a thousand, one-sided


@dataclass(frozen=True, slots=True)
class Histogram:
    """A reference distribution. `edges` (k - 1,) divide the line into k bins, the bin of x being the number
    of edges at or below it; `shares` (k,) sum to 1; it rests on `rows` values."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    rows: int

    @classmethod
    def of(cls, values: ArrayLike, weights: ArrayLike | None = None, bins: int = _BINS) -> Histogram | None:
        """Quantile bins of `values` (n,), each counted with its weight; None where there is nothing to count.

        Values that are not finite are left out; equal quantiles are one edge.
        """
        x = np.asarray(values, dtype=np.float64)
        w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
        keep = np.isfinite(x) & (w > 0.0)
        x, w = x[keep], w[keep]
        if not x.size:
            return None
        order = np.argsort(x, kind="stable")
        x, w = x[order], w[order]
        below = np.cumsum(w) / w.sum()
        cuts = x[np.minimum(np.searchsorted(below, np.arange(1, bins) / bins), x.size - 1)]
        edges = tuple(float(edge) for edge in np.unique(cuts))
        places = np.searchsorted(edges, x, side="right")
        mass = np.bincount(places, weights=w, minlength=len(edges) + 1)
        rows = max(1, round(float(w.sum()) ** 2 / float((w**2).sum())))  # Kish's effective number
        return cls(edges, tuple((mass / mass.sum()).tolist()), rows)

    @classmethod
    def share(cls, share: float, rows: int) -> Histogram:
        """Two bins: what does not happen (0) and what happens (1), with probability `share`."""
        return cls((0.5,), (1.0 - share, share), rows)

    def bin(self, value: float) -> int:
        """Which bin a value falls into."""
        return bisect_right(self.edges, value)

    def to_dict(self) -> dict[str, Any]:
        return {"edges": list(self.edges), "shares": list(self.shares), "rows": self.rows}


@dataclass(frozen=True, slots=True)
class Shift:
    """How far live counts are from a reference. `certain`: chance alone would hardly bring it about."""

    index: float
    rows: int
    certain: bool

    def exceeds(self, threshold: float) -> bool:
        return self.certain and self.index > threshold


def measure_shift(counts: Sequence[float], reference: Histogram) -> Shift:
    """The stability index of `counts` (k,) against `reference`, chance taken off; never below 0.

    Raises `PolicyError` when the bins do not fit.
    """
    bins, rows = len(reference.shares), float(sum(counts))
    if len(counts) != bins:
        raise PolicyError(f"{len(counts)} bins were counted, the reference has {bins}")
    if rows <= 0.0:
        return Shift(0.0, 0, False)
    index = 0.0
    for count, share in zip(counts, reference.shares, strict=True):
        p = (count + _HALF) / (rows + _HALF * bins)
        q = (share * reference.rows + _HALF) / (reference.rows + _HALF * bins)
        index += (p - q) * math.log(p / q)
    unit = 1.0 / rows + 1.0 / reference.rows
    freedom = bins - 1
    if not freedom:
        return Shift(0.0, int(rows), False)
    certain = index > unit * _chi_square(freedom)
    return Shift(max(0.0, index - unit * freedom), int(rows), certain)


def _chi_square(freedom: int) -> float:
    """Its quantile at `_Z` (Wilson & Hilferty 1931)."""
    spread = 2.0 / (9.0 * freedom)
    return freedom * float((1.0 - spread + _Z * math.sqrt(spread)) ** 3)

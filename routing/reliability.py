"""How far probabilities are from what happened: ECE, its excess over chance, Brier, calibration slope.

ECE of finite data is above zero even for perfect probabilities; `ece_excess` takes that part away by
redrawing the labels from the probabilities themselves, so it is about 0 when calibration is right, whatever
n. Source: Naeini et al. 2015 (ECE), Cox 1958 (slope); the correction is a parametric bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routing.calibration import EPSILON, sigmoid
from routing.table import Floats

BINS = 15
DRAWS = 1000


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One equal-mass bin: mean probability, share of positives, rows."""

    predicted: float
    observed: float
    rows: int


def reliability_bins(p: Floats, y: Floats, bins: int = BINS) -> list[ReliabilityBin]:
    """Equal-mass bins in order of probability; p, y of shape (n,)."""
    order = np.argsort(p, kind="stable")
    return [
        ReliabilityBin(float(p[rows].mean()), float(y[rows].mean()), rows.size)
        for rows in np.array_split(order, min(bins, p.size))
    ]


def ece(p: Floats, y: Floats, bins: int = BINS) -> float:
    """Expected calibration error over equal-mass bins."""
    return float(_ece_rows(np.sort(p), y[np.argsort(p, kind="stable")][None, :], bins)[0])


def ece_excess(p: Floats, y: Floats, bins: int = BINS, draws: int = DRAWS, seed: int = 0) -> float:
    """ECE minus its mean over `draws` label sets drawn from the probabilities themselves."""
    rng = np.random.default_rng(seed)
    ordered = np.sort(p)
    chunk = max(1, 2_000_000 // ordered.size)
    total = 0.0
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        drawn = rng.random((size, ordered.size)) < ordered
        total += float(_ece_rows(ordered, drawn, bins).sum())
    return ece(p, y, bins) - total / draws


def brier(p: Floats, y: Floats) -> float:
    """Mean squared distance of probability and label."""
    return float(np.mean((p - y) ** 2))


def calibration_slope(p: Floats, y: Floats) -> float | None:
    """Slope of a logistic regression of the label on logit p: 1 when right, below 1 when overconfident.

    None where it does not exist (one label only, one probability only, separable labels).
    """
    clipped = np.clip(p, EPSILON, 1.0 - EPSILON)
    x = np.log(clipped / (1.0 - clipped))
    if x.std() < 1e-9 or y.min() == y.max():
        return None
    design = np.stack([x, np.ones_like(x)], axis=1)  # (n, 2)
    beta = np.zeros(2)
    for _ in range(100):
        mu = sigmoid(design @ beta)
        hessian = (design * (mu * (1.0 - mu))[:, None]).T @ design
        if np.linalg.cond(hessian) > 1e12:
            return None
        step = np.linalg.solve(hessian, design.T @ (y - mu))
        step *= min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-300))
        beta = beta + step
        if np.abs(step).max() < 1e-9:
            return float(beta[0])
    return None


def _ece_rows(ordered_p: Floats, labels: np.ndarray, bins: int) -> Floats:
    """ECE of every label set (B, n) against probabilities in rising order (n,)."""
    n = ordered_p.size
    start = np.array([rows[0] for rows in np.array_split(np.arange(n), min(bins, n))])
    gap = np.add.reduceat(labels, start, axis=1, dtype=np.float64) - np.add.reduceat(ordered_p, start)
    error: Floats = np.abs(gap).sum(axis=1) / n
    return error

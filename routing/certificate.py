"""The promise about quality: which operating points keep it, proved on prompts that nothing was fitted on.

The promise is E[q_policy] >= q * E[q_strong], tested without a ratio as E[D] >= 0 with D = q_policy - q *
q_strong per prompt, in [-q, 1]. Operating points come ordered from always-strong downwards (an order fixed on
other prompts); each is tested at the full level and the first failure ends the testing (fixed-sequence
testing, Maurer et al. 1995): all that passed hold together with the stated confidence, so a later move among
them, for load or budget, keeps the promise. `max_worse` adds a second promise, P(weak answer kept and q_weak
< q_strong) <= a, by Clopper-Pearson; the two then share delta equally. Always-strong is no achievement: less
than `min_saved` of the strong calls saved is a refusal that says how many labels would do.

Exploration is counted in: what a row is worth is its expectation over the explored share, and what was kept
is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from routing.bounds import proves_mean_above, rows_for_mean, rows_for_share, share_upper_bound
from routing.errors import PolicyError
from routing.table import Floats

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Promise:
    """What is to be proved. `quality` in (0, 1], `confidence` in (0, 1), `max_worse` in (0, 1) or None (no
    second promise), `min_saved` the least share of strong calls worth a certificate, in [0, 1]."""

    quality: float = 0.95
    confidence: float = 0.95
    max_worse: float | None = None
    min_saved: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 < self.quality <= 1.0:
            raise PolicyError(f"quality must lie in (0, 1]; it is {self.quality}")
        if not 0.0 < self.confidence < 1.0:
            raise PolicyError(f"confidence must lie in (0, 1); it is {self.confidence}")
        if self.max_worse is not None and not 0.0 < self.max_worse < 1.0:
            raise PolicyError(f"max_worse must lie in (0, 1); it is {self.max_worse}")
        if not 0.0 <= self.min_saved <= 1.0:
            raise PolicyError(f"min_saved must lie in [0, 1]; it is {self.min_saved}")

    @property
    def delta(self) -> float:
        """The level of each single promise."""
        return (1.0 - self.confidence) / (1.0 if self.max_worse is None else 2.0)


@dataclass(frozen=True, slots=True)
class TestedPoint:
    """One operating point on the certification prompts."""

    threshold: float
    saved: float  # share of strong calls saved
    quality: float | None  # mean q_policy / mean q_strong; None where strong is never right
    worse: float  # share kept although worse
    worse_bound: float | None  # Clopper-Pearson, only with `max_worse`
    passed: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """A granted promise, or a refusal with its reason; plain data either way.

    `passed` are the thresholds that hold together, from safe to saving; `threshold` is the last of them.
    `labels_needed` is the number of labelled prompts in all that would do with power .8 if the effect is as
    estimated; None where granted, and where no number is enough.
    """

    granted: bool
    strategy: str
    quality: float
    confidence: float
    max_worse: float | None
    min_saved: float
    threshold: float | None
    saved: float | None
    quality_estimate: float | None
    worse_bound: float | None
    passed: tuple[float, ...]
    calibration_rows: int
    certification_rows: int
    explore_share: float
    reason: str
    labels_needed: int | None = None
    scope: str = ""
    policy_version: str = ""
    issued_at: str = ""
    valid_until: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self), "passed": list(self.passed)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        """Read `to_dict`'s data. Raises `PolicyError`."""
        if data.get("schema") != SCHEMA:
            raise PolicyError(f"certificate schema is {data.get('schema')!r}; this version reads {SCHEMA}")
        names = {field.name for field in fields(cls)}
        try:
            known = {name: value for name, value in data.items() if name in names}
            return cls(**{**known, "passed": tuple(data["passed"])})
        except (KeyError, TypeError) as exc:
            raise PolicyError(f"certificate cannot be read: {exc}") from exc


def require_disjoint(used: Collection[str], certification: Collection[str], what: str = "fitted") -> None:
    """Raise `PolicyError` if a certification prompt was also used before."""
    shared = set(used) & set(certification)
    if shared:
        raise PolicyError(
            f"{len(shared)} of {len(set(certification))} prompts were already {what} on, e.g. prompt_id "
            f"{min(shared)!r}; a certificate needs prompts that nothing was fitted on"
        )


def prove_in_sequence(
    thresholds: Floats,
    keep: Floats,
    q_weak: Floats,
    q_strong: Floats,
    promise: Promise,
    *,
    spreads: Floats | None = None,
    seed: int = 0,
) -> list[TestedPoint]:
    """Test operating points in the given order, up to and including the first that fails.

    `thresholds` (K,); `keep` (K, n) is the probability that the weak answer is served; `q_weak`, `q_strong`
    (n,); `spreads` (K,) are guesses of D's standard deviation from other prompts. Rows are shuffled by
    `seed`.
    """
    n = q_weak.size
    rng = np.random.default_rng(seed)
    order, draws = rng.permutation(n), rng.random(n)
    low, worse_rows = -promise.quality, q_weak < q_strong
    tested: list[TestedPoint] = []
    for k, threshold in enumerate(thresholds.tolist()):
        served = keep[k] * q_weak + (1.0 - keep[k]) * q_strong
        differences = (served - promise.quality * q_strong)[order]
        spread = None if spreads is None else float(spreads[k])
        passed = proves_mean_above(differences, low, 0.0, promise.delta, spread)
        worse = int(((draws < keep[k]) & worse_rows).sum())
        bound = None
        if promise.max_worse is not None:
            bound = share_upper_bound(worse, n, promise.delta)
            passed = passed and bound <= promise.max_worse
        ratio = float(served.mean() / q_strong.mean()) if q_strong.any() else None
        saved = float(keep[k].mean())
        tested.append(TestedPoint(threshold, saved, ratio, worse / n, bound, passed))
        if not passed:
            break
    return tested


def labels_needed(
    keep: Floats, q_weak: Floats, q_strong: Floats, promise: Promise, certification_share: float
) -> int | None:
    """Labelled prompts in all (both splits) at which one point passes with power .8 at its estimated effect.

    `keep`, `q_weak`, `q_strong` (n,) at the easiest point worth a certificate; `certification_share` is the
    part of the labels that goes to the test. None: no number is enough.
    """
    served = keep * q_weak + (1.0 - keep) * q_strong
    rows = rows_for_mean(served - promise.quality * q_strong, -promise.quality, 0.0, promise.delta)
    if rows is None:
        return None
    if promise.max_worse is not None:
        worse = float((keep * (q_weak < q_strong)).mean())
        more = rows_for_share(worse, promise.max_worse, promise.delta)
        if more is None:
            return None
        rows = max(rows, more)
    return math.ceil(rows / certification_share)

"""Does the certificate keep its word? Drawn again and again from a population whose truth is known.

The pooled labelled prompts are declared the population. Every draw takes disjoint calibration and
certification prompts from it, fits, certifies, and is then held against the whole population: a draw is a
violation when any operating point that passed breaks the promise there. With confidence .95 that may happen
in 5 % of the draws. Drawing without replacement from a finite population makes the draws less variable than
fresh prompts would be, so the population should be several times as large as a draw.
Cost: about 60 ms a draw of 900 prompts.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from routing.certificate import Promise
from trainer.calibrate import calibrate_scores, fit_policy, strategy_sweeps
from trainer.calibrate_promise import keep_probabilities, promise_quality, split_rows
from trainer.metrics import point_for_quality, trace
from trainer.scored import ScoredPairs


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares over the draws; `allowed` is delta plus two standard errors of a share over that many draws."""

    draws: int
    rows: int
    population: int
    violations: float
    allowed: float
    granted: float
    saved_median: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_coverage(
    population: ScoredPairs,
    promise: Promise,
    *,
    draws: int = 1000,
    rows: int | None = None,
    certification_share: float = 0.5,
    price_ratio: float | None = None,
    seed: int = 0,
) -> Coverage:
    """Certify `draws` times on `rows` prompts (default: half of the population) and count broken promises."""
    size = rows if rows is not None else len(population) // 2
    rng = np.random.default_rng(seed)
    broken = granted = 0
    saved: list[float] = []
    for draw in range(draws):
        picked = rng.choice(len(population), size, replace=False)
        first, second = split_rows(size, certification_share, draw)
        calibration, certification = population.subset(picked[first]), population.subset(picked[second])
        fitted = fit_policy(calibration, quality=promise.quality, price_ratio=price_ratio)
        outcome = promise_quality(fitted, calibration, certification, promise, seed=draw, count_labels=False)
        certificate = outcome.certificate
        granted += certificate.granted
        saved.append(certificate.saved or 0.0)
        if certificate.passed:
            scores = calibrate_scores(population, fitted.maps)
            policy = fitted.policy
            keep = keep_probabilities(
                policy, certificate.strategy, scores, np.array(certificate.passed), policy.explore_share
            )
            served = keep * population.q_weak + (1.0 - keep) * population.q_strong
            false = bool((served.mean(axis=1) < promise.quality * population.q_strong.mean()).any())
            if promise.max_worse is not None:
                worse = (keep * (population.q_weak < population.q_strong)).mean(axis=1)
                false = false or bool((worse > promise.max_worse).any())
            broken += false
    level = 1.0 - promise.confidence
    return Coverage(
        draws=draws,
        rows=size,
        population=len(population),
        violations=broken / draws,
        allowed=level + 2.0 * math.sqrt(level * (1.0 - level) / draws),
        granted=granted / draws,
        saved_median=float(np.median(saved)),
    )


def uncertified_optimum(population: ScoredPairs, quality: float, price_ratio: float | None = None) -> float:
    """Share of strong calls saved by the policy's strategy fitted on the whole population at its own best
    threshold: what these scores could save if nothing had to be proved, in [0, 1]."""
    fitted = fit_policy(population, quality=quality, price_ratio=price_ratio)
    scores = calibrate_scores(population, fitted.maps)
    sweep = strategy_sweeps(population, scores, fitted.policy, price_ratio)[fitted.policy.default_strategy]
    curve = trace(sweep, population.q_weak, population.q_strong)
    best = point_for_quality(curve, quality * float(population.q_strong.mean()))
    return 1.0 - float(curve.strong_share[best])

"""From a fitted policy to an operating point with its certificate, or to a refusal.

Calibration prompts fix everything that could be tuned: maps, tables, the strategy, the list of operating
points and their order. Certification prompts are then looked at once, in that order.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from dataclasses import dataclass

import numpy as np

from routing.certificate import (
    Certificate,
    Promise,
    TestedPoint,
    labels_needed,
    prove_in_sequence,
    require_disjoint,
)
from routing.errors import PolicyError
from routing.policy import Policy
from routing.table import Floats
from trainer.calibrate import (
    CalibratedScores,
    FittedPolicy,
    calibrate_scores,
    highest_threshold,
    mean_costs,
    strategy_sweeps,
)
from trainer.metrics import point_at_threshold, trace
from trainer.scored import ScoredPairs

STEP = 0.02  # operating points lie this far apart in the share of strong calls saved
VALID_DAYS = 90
_LEAST_QUALITY = 0.5  # where the search for a provable quality begins, for a budget or a price
_QUALITY_STEP = 0.005


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The outcome of `calibrate`: the policy at its operating point and what was proved about it.

    Where the certificate is a refusal, `fitted` is still at the threshold it was fitted to, uncertified.
    """

    fitted: FittedPolicy
    certificate: Certificate
    tested: tuple[TestedPoint, ...]


def split_rows(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the calibration and of the certification prompts; `share` goes to certification."""
    if not 0.0 < share < 1.0:
        raise PolicyError(f"the share of prompts for certification must lie in (0, 1); it is {share}")
    order = np.random.default_rng(seed).permutation(n)
    cut = n - round(n * share)
    return np.sort(order[:cut]), np.sort(order[cut:])


def keep_probabilities(
    policy: Policy, strategy: str, scores: CalibratedScores, thresholds: Floats, explore_share: float
) -> Floats:
    """P(the weak answer is served), (K, n), at every threshold, exploration counted.

    The explored share goes half to strong and half to the weak answer with a check, whatever the prompt says.
    """
    released, accepted = _release_scores(policy, strategy, scores)
    ruled = (released < thresholds[:, None]).astype(np.float64)
    checked = (accepted < thresholds[:, None]).astype(np.float64)
    return (1.0 - explore_share) * ruled + 0.5 * explore_share * checked


def operating_points(score: Floats, min_saved: float, highest: float = 1.0) -> Floats:
    """Thresholds from always-strong downwards, `STEP` apart in the share of prompts below them."""
    shares = np.arange(min_saved + STEP, 1.0 + 1e-9, STEP)
    found = np.unique(np.quantile(score, np.clip(shares, 0.0, 1.0)))
    found = np.nextafter(found, np.inf)  # strong iff score >= threshold: the quantile itself is released
    return np.unique(np.clip(found, 1e-6, highest))


def promise_quality(
    fitted: FittedPolicy,
    calibration: ScoredPairs,
    certification: ScoredPairs,
    promise: Promise,
    seed: int = 0,
    count_labels: bool = True,
) -> Calibrated:
    """Find the operating point with the fewest strong calls that provably keeps the promise.

    Raises `PolicyError` when the two sets share a prompt.
    """
    require_disjoint(calibration.prompt_id, certification.prompt_id, "calibrated")
    policy = fitted.policy
    strategy, explore = policy.default_strategy, policy.explore_share
    on_calibration = calibrate_scores(calibration, fitted.maps)
    released, _ = _release_scores(policy, strategy, on_calibration)
    points = operating_points(released, promise.min_saved, highest_threshold(strategy))
    keep_before = keep_probabilities(policy, strategy, on_calibration, points, explore)
    spreads = _spreads(keep_before, calibration, promise.quality)
    scores = calibrate_scores(certification, fitted.maps)
    keep = keep_probabilities(policy, strategy, scores, points, explore)
    tested = prove_in_sequence(
        points, keep, certification.q_weak, certification.q_strong, promise, spreads=spreads, seed=seed
    )
    passed = [point for point in tested if point.passed]
    if passed and passed[-1].saved >= promise.min_saved:
        chosen = passed[-1]
        reason = f"certified: {chosen.saved:.1%} of the strong calls saved"
        certificate = _certificate(fitted, calibration, certification, promise, tested, chosen, reason)
        return Calibrated(_at(fitted, chosen.threshold), certificate, tuple(tested))
    certificate = _certificate(fitted, calibration, certification, promise, tested, None, "")
    if count_labels:
        certificate = _explain(certificate, promise, keep_before, keep, calibration, certification)
    return Calibrated(fitted, certificate, tuple(tested))


def promise_at(
    fitted: FittedPolicy,
    threshold: float,
    calibration: ScoredPairs,
    certification: ScoredPairs,
    promise: Promise,
    seed: int = 0,
) -> Calibrated:
    """Set the policy to a threshold chosen for another reason and find the quality that can be proved there.

    The claims "quality is at least q" are nested, so they are tested upwards without correction.
    """
    require_disjoint(calibration.prompt_id, certification.prompt_id, "calibrated")
    policy = fitted.policy
    points = np.array([threshold])
    scores = calibrate_scores(certification, fitted.maps)
    keep = keep_probabilities(policy, policy.default_strategy, scores, points, policy.explore_share)
    before = keep_probabilities(
        policy,
        policy.default_strategy,
        calibrate_scores(calibration, fitted.maps),
        points,
        policy.explore_share,
    )
    best: tuple[Promise, TestedPoint] | None = None
    last: list[TestedPoint] = []
    for quality in np.arange(_LEAST_QUALITY, 1.0 + 1e-9, _QUALITY_STEP).tolist():
        claim = dataclasses.replace(promise, quality=min(1.0, round(quality, 6)))
        spreads = _spreads(before, calibration, claim.quality)
        last = prove_in_sequence(
            points, keep, certification.q_weak, certification.q_strong, claim, spreads=spreads, seed=seed
        )
        if not last[0].passed:
            break
        best = claim, last[0]
    moved = _at(fitted, threshold)
    if best is not None and best[1].saved >= promise.min_saved:
        reason = f"certified: at least {best[0].quality:.1%} of strong's quality at this operating point"
        proof = _certificate(moved, calibration, certification, best[0], [best[1]], best[1], reason)
        return Calibrated(moved, proof, (best[1],))
    why = (
        f"no quality of at least {_LEAST_QUALITY:.0%} of strong's could be proved at this operating point"
        if best is None
        else f"{last[0].saved:.1%} of the strong calls are saved there, less than {promise.min_saved:.1%}"
    )
    return Calibrated(
        moved, _certificate(moved, calibration, certification, promise, last, None, why), tuple(last)
    )


def threshold_for_budget(
    fitted: FittedPolicy, calibration: ScoredPairs, budget: float, price_ratio: float | None
) -> float:
    """The lowest threshold (best quality) at which the mean cost is at most `budget` x always-strong's.

    Raises `PolicyError` when costs are unknown or no setting is cheap enough.
    """
    if not fitted.costs_known:
        raise PolicyError("a budget needs costs: cost_usd in the examples, prices, or --price-ratio")
    policy = fitted.policy
    scores = calibrate_scores(calibration, fitted.maps)
    sweep = strategy_sweeps(calibration, scores, policy, price_ratio)[policy.default_strategy]
    curve = trace(sweep, calibration.q_weak, calibration.q_strong)
    share = curve.cost / mean_costs(calibration, price_ratio)[0].strong
    fits = np.flatnonzero(share <= budget)
    if not fits.size:
        raise PolicyError(
            f"no setting of {policy.default_strategy!r} costs at most {budget:.1%} of always-strong; "
            f"the cheapest costs {share.min():.1%}"
        )
    return float(
        np.clip(np.nextafter(curve.level[fits[0]], np.inf), 1e-6, highest_threshold(policy.default_strategy))
    )


def expected_saving(
    fitted: FittedPolicy, scored: ScoredPairs, price_ratio: float | None
) -> tuple[float, float]:
    """Share of strong calls and cost relative to always-strong at the policy's threshold on these rows."""
    policy = fitted.policy
    scores = calibrate_scores(scored, fitted.maps)
    sweep = strategy_sweeps(scored, scores, policy, price_ratio)[policy.default_strategy]
    curve = trace(sweep, scored.q_weak, scored.q_strong)
    k = max(0, point_at_threshold(curve, policy.thresholds[policy.default_strategy]))
    return float(curve.strong_share[k]), float(curve.cost[k]) / mean_costs(scored, price_ratio)[0].strong


def _release_scores(policy: Policy, strategy: str, scores: CalibratedScores) -> tuple[Floats, Floats]:
    """Per row: strong answers iff the threshold is at most the first; a checked weak answer is rejected iff
    it is at most the second."""
    if strategy == "cascade":
        assert scores.adequate is not None
        rule = policy.joint[0]
        loss = rule.losses(scores.adequate, scores.mf, scores.difficulty)
        return rule.strong_scores(scores.adequate, scores.mf, scores.difficulty), loss
    if strategy == "evaluator":
        assert scores.adequate is not None
        return 1.0 - scores.adequate, 1.0 - scores.adequate
    score = scores.mf if strategy == "mf" else scores.difficulty
    if score is None:
        raise PolicyError(f"strategy {strategy!r} cannot be certified: nothing scores its prompts")
    return score, np.full(score.size, -np.inf)


def _spreads(keep: Floats, scored: ScoredPairs, quality: float) -> Floats:
    served = keep * scored.q_weak + (1.0 - keep) * scored.q_strong
    spreads: Floats = (served - quality * scored.q_strong).std(axis=1)
    return spreads


def _at(fitted: FittedPolicy, threshold: float) -> FittedPolicy:
    policy = fitted.policy
    moved = Policy(
        version=policy.version,
        default=policy.default_strategy,
        thresholds={**policy.thresholds, policy.default_strategy: threshold},
        tiers=policy.tiers,
        joint=policy.joint,
        explore_share=policy.explore_share,
    )
    return dataclasses.replace(fitted, policy=moved)


def _now() -> dt.datetime:
    """The time of issue, to the second; `SOURCE_DATE_EPOCH` fixes it where bundles must be reproducible."""
    epoch_s = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch_s is not None and epoch_s.isdigit():
        return dt.datetime.fromtimestamp(int(epoch_s), dt.UTC)
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def _certificate(
    fitted: FittedPolicy,
    calibration: ScoredPairs,
    certification: ScoredPairs,
    promise: Promise,
    tested: list[TestedPoint],
    chosen: TestedPoint | None,
    reason: str,
) -> Certificate:
    now = _now()
    judged = f"{calibration.weak} -> {calibration.strong}"
    return Certificate(
        granted=chosen is not None,
        strategy=fitted.policy.default_strategy,
        quality=promise.quality,
        confidence=promise.confidence,
        max_worse=promise.max_worse,
        min_saved=promise.min_saved,
        threshold=None if chosen is None else chosen.threshold,
        saved=None if chosen is None else chosen.saved,
        quality_estimate=None if chosen is None else chosen.quality,
        worse_bound=None if chosen is None else chosen.worse_bound,
        passed=tuple(point.threshold for point in tested if point.passed),
        calibration_rows=len(calibration),
        certification_rows=len(certification),
        explore_share=fitted.policy.explore_share,
        reason=reason,
        scope=(
            "Holds for prompts drawn like the certification prompts, judged by the judge of these examples, "
            f"for the tiers {judged} and this bundle. Pinned, degraded and fail-open answers are outside."
        ),
        policy_version=fitted.policy.version,
        issued_at=now.isoformat(),
        valid_until="" if chosen is None else (now + dt.timedelta(days=VALID_DAYS)).isoformat(),
    )


def _explain(
    refusal: Certificate,
    promise: Promise,
    keep_before: Floats,
    keep: Floats,
    calibration: ScoredPairs,
    certification: ScoredPairs,
) -> Certificate:
    """Say how many labels would do, from all labelled prompts at the easiest point worth a certificate."""
    share = len(certification) / (len(calibration) + len(certification))
    needed = labels_needed(
        np.concatenate([keep_before[0], keep[0]]),
        np.concatenate([calibration.q_weak, certification.q_weak]),
        np.concatenate([calibration.q_strong, certification.q_strong]),
        promise,
        share,
    )
    have = len(calibration) + len(certification)
    what = (
        f"{promise.quality:.0%} of strong's quality while saving {promise.min_saved:.0%} of the strong calls"
    )
    if needed is None:
        reason = (
            f"refused: {what} is not reached on these prompts themselves, so no number of labels is enough"
        )
        return dataclasses.replace(refusal, reason=reason)
    needed = max(needed, have + 1)
    reason = (
        f"refused: {have} labelled prompts do not prove {what}; about {needed} would (power .8 as estimated)"
    )
    return dataclasses.replace(refusal, reason=reason, labels_needed=needed)

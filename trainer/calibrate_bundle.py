"""`calibrate` on a bundle: score the examples, split them by prompt, set the operating point, write it back.

One half of the prompts refits maps, tables and thresholds, the other half is looked at once, to certify. The
split hashes the prompt, so a second run with another target uses the same halves and never tunes on prompts
it certifies on. Prompts that a scorer was fitted on are refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from routing.bundle import SPLITS, Bundle, open_bundle, recover_bundle, rewrite_bundle
from routing.certificate import Promise, require_disjoint
from routing.errors import BundleError, ExamplesError
from scorers.text import TEXT_TEMPLATE
from trainer.artifact import hold
from trainer.calibrate import fit_policy
from trainer.calibrate_early import add_early_bounds
from trainer.calibrate_promise import (
    Calibrated,
    expected_saving,
    promise_at,
    promise_quality,
    threshold_for_budget,
)
from trainer.examples import Example, PairTable, pair_examples, read_examples
from trainer.progress import Progress, no_progress
from trainer.score import score_pairs
from trainer.scored import Floats, ScoredPairs
from trainer.split import split_prompts

CERTIFICATION_SHARE = 0.5
_OWN_SPLITS = ("recalibration", "certification")  # written here; a second run may use them again
_LEAST_PROMPTS = 20


@dataclass(frozen=True, slots=True)
class Target:
    """What the operating point is for, exactly one of three: a quality (share of strong's), a budget (mean
    cost as a share of always-strong's), a price (quality lost that is worth one strong answer: lambda * c_s).
    """

    quality: float | None = None
    budget: float | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("quality", "budget", "price") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ExamplesError(
                f"exactly one of quality, budget and price is needed; given: {given or 'none'}"
            )
        if not 0.0 < getattr(self, given[0]) <= 1.0:
            raise ExamplesError(f"{given[0]} must lie in (0, 1]; it is {getattr(self, given[0])}")


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """US dollars per million tokens."""

    weak_input: float
    weak_output: float
    strong_input: float
    strong_output: float


@dataclass(frozen=True, slots=True)
class BundleCalibration:
    """The outcome; `written` is the new bundle, None where a quality was refused and nothing was changed."""

    outcome: Calibrated
    strong_share: float
    cost_share: float
    costs_known: bool
    written: Bundle | None


def calibrate_bundle(
    bundle_dir: str | Path,
    examples: Sequence[str | Path],
    target: Target,
    *,
    confidence: float = 0.95,
    max_worse: float | None = None,
    min_saved: float = 0.05,
    price_ratio: float | None = None,
    prices: TokenPrices | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> BundleCalibration:
    """Set a bundle's operating point from labelled prompts and certify it.

    Killed and run again, or simply run again, it gives the same bundle but for the time of issue (which
    `SOURCE_DATE_EPOCH` fixes). Raises `BundleError`, `ExamplesError` and, for prompts that were fitted on,
    `PolicyError`; `StageError` while another process writes the bundle.
    """
    if not Path(bundle_dir).absolute().parent.is_dir():
        raise BundleError(f"bundle {str(bundle_dir)!r} does not exist or is not a folder")
    with hold(Path(bundle_dir)):
        recover_bundle(bundle_dir)
        bundle = open_bundle(bundle_dir, TEXT_TEMPLATE)
        told = _Wanted(target, confidence, max_worse, min_saved, price_ratio, prices, seed)
        return _calibrate(bundle, examples, told, progress)


@dataclass(frozen=True, slots=True)
class _Wanted:
    target: Target
    confidence: float
    max_worse: float | None
    min_saved: float
    price_ratio: float | None
    prices: TokenPrices | None
    seed: int


def _calibrate(
    bundle: Bundle, examples: Sequence[str | Path], wanted: _Wanted, progress: Progress
) -> BundleCalibration:
    target, price_ratio, seed = wanted.target, wanted.price_ratio, wanted.seed
    if len(bundle.tiers) > 2:
        raise ExamplesError(
            f"{bundle.path} is a ladder of {len(bundle.tiers)} tiers; certificates are given for two so far. "
            "Its operating point is the one of fit --quality"
        )
    pairs = pair_examples(read_examples(examples), bundle.tiers[0], bundle.tiers[-1])
    if len(pairs) < _LEAST_PROMPTS:
        raise ExamplesError(
            f"calibration needs at least {_LEAST_PROMPTS} prompts; the examples hold {len(pairs)}"
        )
    fitted_on = [p for name, ids in bundle.prompt_ids().items() if name not in _OWN_SPLITS for p in ids]
    require_disjoint(fitted_on, pairs.prompt_ids, "fitted")
    scored = with_token_costs(score_pairs(bundle, pairs, progress), pairs, wanted.prices)
    calibration, certification = _halves(scored, seed)
    quality = target.quality if target.quality is not None else 0.95
    promise = Promise(quality, wanted.confidence, wanted.max_worse, wanted.min_saved)
    fitted = fit_policy(
        calibration,
        version=_origin(bundle),
        quality=quality,
        price_ratio=price_ratio,
        explore_share=_explore_share(bundle),
        seed=seed,
    )
    if target.quality is not None:
        outcome = promise_quality(fitted, calibration, certification, promise, seed)
    else:
        threshold = target.price
        if threshold is None:
            assert target.budget is not None
            threshold = threshold_for_budget(fitted, calibration, target.budget, price_ratio)
        outcome = promise_at(fitted, threshold, calibration, certification, promise, seed)
    share, cost = expected_saving(outcome.fitted, scored, price_ratio)
    written = None
    if outcome.certificate.granted or target.quality is None:
        add_early_bounds(outcome.fitted, calibration, bundle, pairs, progress)
        written = _write(bundle, outcome, calibration, certification)
    return BundleCalibration(outcome, share, cost, fitted.costs_known, written)


def with_token_costs(scored: ScoredPairs, pairs: PairTable, prices: TokenPrices | None) -> ScoredPairs:
    """Costs from tokens where not all rows carry one. Raises `ExamplesError` for a row without tokens."""
    if prices is None or scored.cost_weak is not None:
        return scored
    weak = _token_costs(pairs.weak, prices.weak_input, prices.weak_output)
    strong = _token_costs(pairs.strong, prices.strong_input, prices.strong_output)
    return dataclasses.replace(scored, cost_weak=weak, cost_strong=strong)


def _token_costs(rows: Sequence[Example], input_usd_per_mtok: float, output_usd_per_mtok: float) -> Floats:
    costs = np.empty(len(rows))
    for i, row in enumerate(rows):
        if row.cost_usd is not None:
            costs[i] = row.cost_usd
        elif row.prompt_tokens is None or row.completion_tokens is None:
            raise ExamplesError(
                f"prompt_id {row.prompt_id!r}, model {row.model!r}: prices are given, but the row has "
                "neither cost_usd nor both prompt_tokens and completion_tokens; give --price-ratio instead"
            )
        else:
            tokens = row.prompt_tokens * input_usd_per_mtok + row.completion_tokens * output_usd_per_mtok
            costs[i] = tokens / 1e6
    return costs


def _halves(scored: ScoredPairs, seed: int) -> tuple[ScoredPairs, ScoredPairs]:
    sides = split_prompts(
        scored.prompt_id,
        {"calibration": 1.0 - CERTIFICATION_SHARE, "certification": CERTIFICATION_SHARE},
        seed,
    )
    wanted = set(sides["certification"])
    mask = np.array([prompt in wanted for prompt in scored.prompt_id])
    if mask.all() or not mask.any():
        raise ExamplesError(f"{len(scored)} prompts are too few to split into calibration and certification")
    return scored.subset(~mask), scored.subset(mask)


def _explore_share(bundle: Bundle) -> float:
    """As the bundle has it: an operator's choice, not a fitted number."""
    policy: Mapping[str, Any] = bundle.read_json("policy.json") if bundle.has("policy.json") else {}
    return float(policy.get("explore_share", 0.01))


def _write(
    bundle: Bundle, outcome: Calibrated, calibration: ScoredPairs, certification: ScoredPairs
) -> Bundle:
    splits = {name: ids for name, ids in bundle.prompt_ids().items() if name not in _OWN_SPLITS}
    splits["recalibration"] = sorted(calibration.prompt_id)
    splits["certification"] = sorted(certification.prompt_id)
    files = {
        "policy.json": outcome.fitted.policy_dict(),
        "calibration.json": outcome.fitted.calibration_dict(),
        "certificate.json": outcome.certificate.to_dict(),
        SPLITS: splits,
    }
    changes = {"calibrated_from": _origin(bundle)}
    return rewrite_bundle(bundle, {name: encode_json(data) for name, data in files.items()}, changes)


def _origin(bundle: Bundle) -> str:
    """The version that `fit` wrote, however often it was calibrated since: so that a second run with the same
    target gives the same bytes."""
    return str(bundle.manifest.get("calibrated_from", bundle.version))


def encode_json(data: Any) -> bytes:
    """JSON as bundles and reports hold it; NaN is an error, not a word."""
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

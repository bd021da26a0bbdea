"""May the encoders run in int8? Measured on the bundle's own prompts, score by score.

Calibration prompts come first; where they are few, those of the fit stand beside them: a hundred prompts
cannot tell half a percent, and what int8 moves has little to do with who was learnt from.

Kept only if the 99th percentile of the change of every calibrated score is under .02 and at least 99.5 % of
the decisions at the operating point stay as they were; the query vectors' encoder and the two text models
are taken together, since a decision needs all of them. Costs two passes over the prompts.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from routing.bundle import Bundle
from routing.errors import BundleError, ExamplesError
from routing.table import Floats
from scorers.errors import ScoringError
from scorers.runtime.scorers import load_scorers
from trainer.calibrate import CalibratedScores, FittedPolicy, calibrate_scores
from trainer.calibrate_promise import keep_probabilities
from trainer.examples import PairTable, pair_examples, read_examples
from trainer.progress import Progress
from trainer.score import score_table

MOST_CHANGE, LEAST_SAME, PERCENTILE = 0.02, 0.995, 99.0
LEAST_PROMPTS, MOST_PROMPTS = 20, 1500
SPLITS = ("calibration", "recalibration", "validation", "train")  # in this order


@dataclass(frozen=True, slots=True)
class Int8Verdict:
    """`change`: the largest of the scores' 99th percentiles of |int8 - fp32|; `same`: share of decisions."""

    kept: bool
    change: float
    same: float
    prompts: int

    def __str__(self) -> str:
        told = (
            f"p99 of the change of a score {self.change:.4f} (at most {MOST_CHANGE}), same decisions "
            f"{self.same:.2%} (at least {LEAST_SAME:.1%}), {self.prompts} prompts"
        )
        return f"{'int8' if self.kept else 'fp32: int8 moves the scores'}; {told}"


def as_int8(scorers: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's `scorers` section with every local encoder in int8."""
    changed: dict[str, Any] = copy.deepcopy(dict(scorers))
    for entry in changed.values():
        if isinstance(entry, dict) and entry.get("encoder", {}).get("sha256") not in (None, "remote"):
            entry["encoder"]["int8"] = True
    return changed


def try_int8(bundle: Bundle, examples: Sequence[str | Path], progress: Progress) -> Int8Verdict:
    """Score the bundle's prompts both ways. Raises `ExamplesError` when their text is not there."""
    pairs = _own_pairs(bundle, examples)
    fitted = FittedPolicy.from_dicts(bundle.read_json("policy.json"), bundle.read_json("calibration.json"))
    both: list[CalibratedScores] = []
    for section in (bundle.scorers, as_int8(bundle.scorers)):
        try:
            scorers = load_scorers(bundle.path, section, threads=1)
            both.append(calibrate_scores(score_table(scorers, pairs, progress), fitted.maps))
        except ScoringError as exc:
            raise BundleError(f"{bundle.path}: {exc}") from exc
    change = max(_changes(*both), default=0.0)
    before, after = (_decisions(fitted, scores) for scores in both)
    same = float((before == after).mean())
    return Int8Verdict(change < MOST_CHANGE and same >= LEAST_SAME, change, same, len(pairs))


def _own_pairs(bundle: Bundle, examples: Sequence[str | Path]) -> PairTable:
    """At most `MOST_PROMPTS` of the bundle's own, in the order of `SPLITS`."""
    splits = bundle.prompt_ids()
    own = dict.fromkeys(prompt for name in SPLITS for prompt in splits.get(name, ()))
    rank = {prompt: at for at, prompt in enumerate(own)}
    table = read_examples(examples).of_prompts(set(own))
    if not table.rows:
        raise ExamplesError(f"the examples hold none of the {len(own)} prompts of {bundle.path}")
    pairs = pair_examples(table, bundle.tiers[0], bundle.tiers[-1])
    if len(pairs) < LEAST_PROMPTS:
        raise ExamplesError(
            f"int8 is judged on at least {LEAST_PROMPTS} prompts of the bundle; the examples hold "
            f"{len(pairs)} of {len(own)}"
        )
    first = np.argsort([rank[prompt] for prompt in pairs.prompt_ids], kind="stable")[:MOST_PROMPTS]
    return pairs.subset(np.sort(first))


def _changes(before: CalibratedScores, after: CalibratedScores) -> list[float]:
    found = []
    for name in ("mf", "difficulty", "adequate"):
        old, new = getattr(before, name), getattr(after, name)
        if old is not None and new is not None:
            found.append(float(np.percentile(np.abs(new - old), PERCENTILE)))
    return found


def _decisions(fitted: FittedPolicy, scores: CalibratedScores) -> Floats:
    """1 where the weak answer is kept at the operating point, exploration left out, (n,)."""
    policy = fitted.policy
    name = policy.default_strategy
    if name == "random":
        return np.zeros(1)
    threshold = np.array([policy.thresholds[name]])
    kept: Floats = keep_probabilities(policy, name, scores, threshold, 0.0)[0]
    return kept

"""What another policy over the same scorers would have done on logged traffic, with an interval.

Each logged row has scores, the first action that was taken and the probability of it. A policy makes of the
scores a distribution over first actions. Two of them need no evidence: *strong* is a strong call, *unchecked*
is none. *Checked* is a strong call iff the evaluator rejects the weak answer, which is known only of rows
that were checked. Of the others it is estimated from those, each weighted by one over its propensity (Horvitz
& Thompson 1952, normalised after Hajek): exploration checks a known share of all prompts, so every prompt is
stood for by some that look like it. A row that could not have been checked (no exploration) has no support:
it is counted, and enters the interval as anything between never and always rejected. The rest of the interval
is a bootstrap over rows.

Cost: a thousand draws over ten thousand rows take about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from routing.errors import PolicyError
from routing.policy import Policy
from routing.rules import Rule
from routing.signals import Entry, Signals
from routing.table import Floats

DRAWS = 1_000
_CHUNK = 50  # draws at a time: a bound on memory
_REJECTED = frozenset({"inadequate", "hard_check", "weak_failed"})
_ACCEPTED = frozenset({"adequate"})
_HARD = frozenset({"hard_check", "weak_failed"})  # no score is needed to know how it ends
# Not the policy's doing: another one would have met the same, so what happened is kept.
_OUTSIDE = frozenset({
    "capability", "context_window", "out_of_distribution", "sticky", "load", "deadline", "budget", "canary",
    "scorer_failed",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """One routed request as the decision log holds it; scores calibrated, costs in US dollars.

    `entry` is the first action (`strong`, `checked`, `unchecked`), `propensity` its probability,
    `explore_share` that of the policy then in force. `baseline_usd` is what the strong answer cost or would
    have cost.
    """

    entry: str
    reason: str
    strong_ran: bool
    propensity: float
    explore_share: float
    route_score: float | None
    difficulty: float | None
    answer_score: float | None
    cost_usd: float
    baseline_usd: float

    @property
    def outside(self) -> bool:
        """Whether something other than the policy decided; no score is needed to replay it."""
        return self.reason in _OUTSIDE

    @property
    def weak_usd(self) -> float | None:
        """What the weak answer cost; None where there was none."""
        if self.entry == "strong":
            return None
        return max(self.cost_usd - (self.baseline_usd if self.strong_ran else 0.0), 0.0)

    def rejects(self, rule: Rule) -> bool | None:
        """Whether `rule` rejects the weak answer that this row checked; None where the row cannot tell."""
        if self.entry != "checked":
            return None
        if self.reason in _HARD:
            return True
        if self.reason not in _REJECTED | _ACCEPTED or self.answer_score is None:
            return None  # an early or a hedged verdict is not one about the whole answer
        return not rule.accept(0, self.signals(self.answer_score))

    def signals(self, answer_score: float | None = None) -> Signals:
        return Signals(self.route_score, self.difficulty, answer_score)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean a request with its interval; `low` and `high` include what has no support."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"estimate": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Replay:
    """What a policy would have done on `rows` requests.

    `checked` of them it would have (in expectation) judged; of these `unsupported` had no chance to be judged
    in the log. `evidence` is the effective number of judged rows behind the estimate (Kish 1965).
    """

    rows: int
    checked: float
    unsupported: float
    evidence: float
    strong_calls: Estimate
    cost_usd: Estimate
    logged_strong_calls: float
    logged_cost_usd: float
    always_strong_usd: float

    def to_dict(self) -> dict[str, Any]:
        names = ("rows", "checked", "unsupported", "evidence", "logged_strong_calls", "logged_cost_usd",
                 "always_strong_usd")  # fmt: skip
        plain = {name: getattr(self, name) for name in names}
        return {**plain, "strong_calls": self.strong_calls.to_dict(), "cost_usd": self.cost_usd.to_dict()}


@dataclass(frozen=True, slots=True)
class _Columns:
    """The rows as arrays (n,): `sure` is the part of the mean that needs no evidence, `need` the probability
    that the policy checks; `seen` marks rows whose verdict is known, `weight` is one over its propensity."""

    sure_strong: Floats
    sure_cost: Floats
    need: Floats
    verdict: Floats
    weight: Floats
    seen: Floats
    supported: Floats
    baseline: Floats


def replay(
    rows: Sequence[LoggedRow],
    policy: Policy,
    rule: Rule | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Replay:
    """Replay `policy` (at `rule`, by default its own) on logged rows of a ladder of two.

    Raises `PolicyError` without rows, for a longer ladder, and where a row lacks a score the rule needs.
    """
    rule = policy.default if rule is None else rule
    if not rows:
        raise PolicyError("there is no row to replay on")
    if policy.tiers != 2:
        raise PolicyError(f"replay reads ladders of two tiers; this policy has {policy.tiers}")
    columns = _columns(rows, policy, rule)
    checked = columns.need
    return Replay(
        rows=len(rows),
        checked=float(checked.sum()),
        unsupported=float((checked * (1.0 - columns.supported)).sum()),
        evidence=_effective(columns),
        strong_calls=_estimate(columns, 1.0, confidence, seed),
        cost_usd=_estimate(columns, columns.baseline, confidence, seed),
        logged_strong_calls=float(np.mean([row.strong_ran for row in rows])),
        logged_cost_usd=float(np.mean([row.cost_usd for row in rows])),
        always_strong_usd=float(np.mean([row.baseline_usd for row in rows])),
    )


def _columns(rows: Sequence[LoggedRow], policy: Policy, rule: Rule) -> _Columns:
    weak_share = _weak_share(rows)
    table = np.array([_row(row, policy, rule, weak_share) for row in rows], dtype=np.float64)
    return _Columns(*table.T)


def _row(row: LoggedRow, policy: Policy, rule: Rule, weak_share: float) -> tuple[float, ...]:
    if row.outside:
        return (float(row.strong_ran), row.cost_usd, 0.0, 0.0, 0.0, 0.0, 1.0, row.baseline_usd)
    strong, checked = _actions(row, policy, rule)
    weak_usd = row.weak_usd
    if weak_usd is None:
        weak_usd = weak_share * row.baseline_usd
    rejects = row.rejects(rule)
    seen = rejects is not None
    return (
        strong,
        strong * row.baseline_usd + (1.0 - strong) * weak_usd,
        checked,
        float(bool(rejects)),
        1.0 / max(row.propensity, 1e-9) if seen else 0.0,
        float(seen),
        float(seen or row.explore_share > 0.0),
        row.baseline_usd,
    )


def _actions(row: LoggedRow, policy: Policy, rule: Rule) -> tuple[float, float]:
    """Probabilities of (strong, checked) as the first action, exploration included."""
    share, last = policy.explore_share, policy.tiers - 1
    signals = row.signals()
    strong = rule.entry_probability(Entry(last, False), signals)
    checked = rule.entry_probability(Entry(0, True), signals)
    return (1.0 - share) * strong + 0.5 * share, (1.0 - share) * checked + 0.5 * share


def _weak_share(rows: Sequence[LoggedRow]) -> float:
    """Cost of a weak answer over that of a strong one, from rows that had a weak answer."""
    pairs = [(row.weak_usd, row.baseline_usd) for row in rows if row.weak_usd is not None]
    strong = sum(baseline for _, baseline in pairs)
    return sum(weak for weak, _ in pairs) / strong if strong > 0.0 else 0.0


def _sums(c: _Columns, size: Floats | float) -> Floats:
    """What a row adds to the five sums a mean is made of, (n, 5); `size` is what a strong call counts."""
    sure = c.sure_strong if isinstance(size, float) else c.sure_cost
    stake = c.need * size  # what the checked part is worth if all are rejected
    evidence = stake * c.weight * c.seen
    return np.stack([sure, stake, stake * c.supported, evidence, evidence * c.verdict], axis=1)


def _means(sums: Floats, rows: float) -> Floats:
    """(value, low, high) in the last axis, of sums (..., 5). Low and high differ from the value only by what
    has no support: never rejected, always rejected."""
    sure, stake, supported, evidence, rejected = np.moveaxis(sums, -1, 0)
    known = evidence > 0.0
    rate = np.where(known, rejected / np.where(known, evidence, 1.0), 0.5)
    backed = np.where(known, supported, 0.0)
    base, unbacked = sure + rate * backed, stake - backed
    means: Floats = np.stack([base + rate * unbacked, base, base + unbacked], axis=-1) / rows
    return means


def _estimate(c: _Columns, size: Floats | float, confidence: float, seed: int) -> Estimate:
    """A mean over the rows with its bootstrap interval (percentiles)."""
    table, rng = _sums(c, size), np.random.default_rng(seed)
    n = len(table)
    value, low, high = _means(table.sum(0), n).tolist()
    chunks = [_means(_resampled(rng, n) @ table, n) for _ in range(DRAWS // _CHUNK)]
    draws = np.concatenate(chunks)  # (DRAWS, 3)
    tail = 0.5 * (1.0 - confidence)
    lowest, highest = np.quantile(draws[:, 1], tail), np.quantile(draws[:, 2], 1.0 - tail)
    return Estimate(value, min(float(lowest), low), max(float(highest), high))


def _resampled(rng: np.random.Generator, n: int) -> Floats:
    """How often each row is drawn, (_CHUNK, n): n draws with replacement in every line."""
    drawn = rng.integers(0, n, (_CHUNK, n)) + n * np.arange(_CHUNK)[:, None]
    counts: Floats = np.bincount(drawn.ravel(), minlength=_CHUNK * n).reshape(_CHUNK, n).astype(np.float64)
    return counts


def _effective(c: _Columns) -> float:
    """Kish's effective size of the weighted evidence."""
    weight = c.need * c.weight * c.seen
    square = float((weight**2).sum())
    return float(weight.sum()) ** 2 / square if square > 0.0 else 0.0

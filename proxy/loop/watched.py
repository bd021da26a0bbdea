"""What live traffic of a bundle is compared with, also after an operator has moved its operating point.

The share of strong answers and the scores of checked answers depend on the threshold that decides. A point
moved at runtime therefore has a plan and a reference of its own, and requests are counted apart from the
move on: neither the move nor what was answered before it is drift. Costs one pass over the calibration rows
a move.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.loop.reference import EVALUATOR, STRONG, Reference, reference_of
from proxy.operating_point import OperatingPoint
from proxy.plan import Plan, plan_of
from proxy.scoring import Scorers


@dataclass(frozen=True, slots=True)
class Watched:
    """What the loop knows of a version from its bundle. Its requests are counted under `key`."""

    version: str
    key: str
    reference: Reference
    plan: Plan | None
    valid_until: float  # 0: no certificate


class Watcher:
    """One a loop. `strategy` is the configuration's; empty: the bundle's own."""

    def __init__(self, point: OperatingPoint, strategy: str | None) -> None:
        self._point = point
        self._strategy = strategy
        self._last: Watched | None = None

    def watch(self, scorers: Scorers) -> Watched:
        """As it decides now."""
        policy = scorers.policy
        strategy = self._strategy or policy.default_strategy
        moved = self._point.read(policy.version, strategy)
        if moved is None:
            return Watched(
                policy.version, policy.version, scorers.reference, scorers.plan, scorers.valid_until
            )
        key = f"{policy.version} since {moved.since}"
        if self._last is None or self._last.key != key:
            rule = policy.rule(strategy, moved.threshold)
            plan = plan_of(scorers.rows, rule, policy.explore_share)
            reference = reference_of(scorers.rows, rule, policy.explore_share, plan)
            if not reference:  # no rows: what does not depend on the threshold still holds
                reference = {
                    name: found
                    for name, found in scorers.reference.items()
                    if name not in (EVALUATOR, STRONG)
                }
            self._last = Watched(policy.version, key, reference, plan, scorers.valid_until)
        return self._last

"""When the strong tier is deep in work, fewer prompts are sent there: by a higher threshold, and only by one
that the certificate has proved.

All operating points that passed certification hold together (`routing.certificate`), so a move among them
keeps the promise. How far: from the first point at `load_shift_from_requests` running requests to the last at
twice as many. Without a certificate, or beyond its last point, nothing is shifted: a full queue then sheds
instead.
"""

from __future__ import annotations

from proxy.backends.retry import TierBackend
from routing.errors import MissingSignal
from routing.policy import Policy
from routing.protocols import Backend
from routing.rules import Rule
from routing.signals import Signals


class LoadShift:
    """For one policy in front of one last tier."""

    def __init__(self, policy: Policy, strong: Backend, from_requests: int) -> None:
        """`from_requests` 0: never."""
        self._policy = policy
        self._strong = strong if from_requests and isinstance(strong, TierBackend) else None
        self._from = from_requests

    def rule(self, base: Rule) -> Rule:
        """The rule for a request that comes now; `base` itself where nothing is to be shifted."""
        if self._strong is None or base.strategy != self._policy.default_strategy:
            return base
        running = self._strong.replicas.outstanding
        if running < self._from:
            return base
        points = sorted(point for point in self._policy.certified if base.threshold < point <= 1.0)
        if not points:
            return base
        depth = min(1.0, (running - self._from) / self._from)  # 0: just deep enough, 1: twice as deep
        return self._policy.rule(base.strategy, points[round(depth * (len(points) - 1))])

    def spared(self, base: Rule, signals: Signals) -> bool:
        """Whether `base` would have asked the last tier for a request that was answered without it."""
        try:
            entry = base.enter(signals)
            if entry.tier == base.tiers - 1:
                return True
            return entry.check and signals.answer_score is not None and not base.accept(entry.tier, signals)
        except MissingSignal:
            return False

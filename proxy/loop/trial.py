"""Why a bundle on trial is sent back: what it did in the window against the bundle in force and its own plan.

Each reason needs enough requests, and a difference that chance would hardly make: a trial is small, and one
that ends over noise is repeated by hand until it passes.
"""

from __future__ import annotations

import math

from proxy.loop.counts import Tally
from proxy.loop.snapshot import QualityState, SignalState
from proxy.loop_settings import CanarySettings
from proxy.plan import Plan

_Z = 3.0


def find_reason(
    settings: CanarySettings,
    stable: Tally,
    canary: Tally,
    plan: Plan | None,
    drift: tuple[SignalState, ...],
    stable_drift: tuple[SignalState, ...],
    quality: QualityState,
) -> str:
    """Why the trial must end; '' while it may go on."""
    if canary.requests < settings.least_rows:
        return ""
    errors = canary.bad / canary.requests
    usual = stable.bad / stable.requests if stable.requests else 0.0
    if errors > usual + settings.error_margin and _differ(stable, canary):
        return f"errors: {errors:.1%} of its requests failed or degraded, {usual:.1%} of the others"
    if plan is not None and canary.answered >= settings.least_rows:
        share, margin = canary.strong / canary.answered, settings.strong_margin
        noise = _Z * math.sqrt(plan.expected * (1.0 - plan.expected) / canary.answered)
        if not plan.low - margin - noise <= share <= plan.high + margin + noise:
            return f"strong_share: {share:.1%} of its answers were strong, planned were {plan.expected:.1%}"
    # Traffic that has drifted from both bundles is no fault of the new one.
    usual_drift = {signal.name for signal in stable_drift if signal.alarmed}
    moved = [signal.name for signal in drift if signal.alarmed and signal.name not in usual_drift]
    if moved:
        return f"drift: {', '.join(moved)}"
    least = settings.least_quality
    if least and quality.high is not None and quality.high < least:
        return f"live_quality: at most {quality.high:.3f} of strong's, {least:.3f} is the least"
    return ""


def _differ(stable: Tally, canary: Tally) -> bool:
    """Whether the two shares of errors differ by more than chance (two-proportion z-test)."""
    if not stable.requests:
        return True
    both = (stable.bad + canary.bad) / (stable.requests + canary.requests)
    spread = math.sqrt(both * (1.0 - both) * (1.0 / stable.requests + 1.0 / canary.requests))
    difference = canary.bad / canary.requests - stable.bad / stable.requests
    return spread > 0.0 and difference > _Z * spread

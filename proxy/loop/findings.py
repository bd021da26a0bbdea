"""From what all workers counted to a snapshot: drift, savings, quality, the trial. Plain functions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.loop.counts import Tally, total
from proxy.loop.snapshot import (
    ArmState,
    CanaryReport,
    CanaryState,
    CertificateState,
    DriftState,
    QualityState,
    SavingsState,
    ShadowState,
    SignalState,
    Snapshot,
)
from proxy.loop.watched import Watched
from proxy.loop_settings import DriftSettings, LoopSettings
from routing.drift import measure_shift
from routing.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a snapshot is made of. `tallies` are by key of what is watched; `verdicts` by
    version are as `LoopFolder` keeps them."""

    settings: LoopSettings
    stable: Watched
    canary: Watched | None
    refused: str  # why a bundle that should be on trial is not
    tallies: Mapping[str, Tally]
    quality: Mapping[str, QualityState]
    verdicts: Mapping[str, Mapping[str, Any]]
    workers: int
    shadow_usd_today: float


def find_drift(settings: DriftSettings, watched: Watched, tally: Tally) -> tuple[SignalState, ...]:
    """Every signal that this version can be compared by."""
    out = []
    for name, histogram in watched.reference.items():
        counts = tally.bins.get(name, [])
        try:
            shift = measure_shift(counts or [0] * len(histogram.shares), histogram)
        except PolicyError:  # counted by a worker with another idea of the bins, for as long as it is there
            continue
        enough = shift.rows >= settings.least_rows
        alarmed = enough and shift.exceeds(settings.alarm_above)
        index = shift.index if enough else None
        out.append(SignalState(name, index, settings.alarm_above, shift.rows, alarmed))
    return tuple(out)


def make_snapshot(evidence: Evidence) -> Snapshot:
    """Pure; the verdicts are in it already."""
    settings, stable = evidence.settings, evidence.stable
    window_s = settings.drift.window_s
    everything = total(list(evidence.tallies.values()))
    verdict = evidence.verdicts.get(stable.version, {})
    drift = find_drift(settings.drift, stable, _tally(evidence, stable))
    shadow = settings.shadow
    return Snapshot(
        at=time.time(),
        policy=stable.version,
        workers=evidence.workers,
        certificate=certificate_state(stable.valid_until, verdict),
        quality=evidence.quality.get(stable.version, QualityState()),
        savings=SavingsState(
            window_s, everything.requests, everything.cost_usd, everything.baseline_usd, everything.shadow_usd
        ),
        drift=DriftState(window_s, drift, verdict.get("drift_since")),
        canary=_canary(evidence),
        shadow=ShadowState(
            shadow.share, window_s, everything.shadows, evidence.shadow_usd_today, shadow.usd_per_day
        ),
    )


def certificate_state(valid_until: float, verdict: Mapping[str, Any]) -> CertificateState:
    """Whether the promise of a version holds now; `valid_until` 0: there is none."""
    if not valid_until:
        return CertificateState()
    ended_at, by = verdict.get("ended_at"), tuple(verdict.get("ended_by", ()))
    if ended_at is None and valid_until <= time.time():
        ended_at, by = valid_until, ("expired",)
    state = "valid" if ended_at is None else "ended"
    return CertificateState(state, valid_until, ended_at, by)  # type: ignore[arg-type]


def _canary(evidence: Evidence) -> CanaryReport:
    share = evidence.settings.canary.share
    if evidence.canary is None:
        if evidence.refused:
            return CanaryReport("refused", 0.0, None, evidence.refused)
        verdict = evidence.verdicts.get(evidence.stable.version, {})
        if verdict.get("trial") == "promoted":
            return CanaryReport("promoted", 0.0, verdict.get("trial_at"), verdict.get("trial_reason", ""))
        return CanaryReport()
    verdict = evidence.verdicts.get(evidence.canary.version, {})
    state: CanaryState = "rolled_back" if verdict.get("trial") == "rolled_back" else "running"
    return CanaryReport(
        state, share if state == "running" else 0.0, verdict.get("trial_at"), verdict.get("trial_reason", ""),
        _arm(evidence, evidence.stable), _arm(evidence, evidence.canary),
    )  # fmt: skip


def _arm(evidence: Evidence, watched: Watched) -> ArmState:
    tally = _tally(evidence, watched)
    return ArmState(
        watched.version,
        tally.requests,
        tally.strong / tally.answered if tally.answered else None,
        None if watched.plan is None else watched.plan.expected,
        tally.bad / tally.requests if tally.requests else None,
        evidence.quality.get(watched.version, QualityState()),
        find_drift(evidence.settings.drift, watched, tally),
    )


def _tally(evidence: Evidence, watched: Watched) -> Tally:
    return evidence.tallies.get(watched.key, Tally())

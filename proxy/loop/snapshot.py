"""What the loop knows at one moment, as plain data: for the console, `/admin/loop`, and whoever asks "is it
still good?".

One worker computes it from what all of them counted, and every worker shows the same; it is as old as
`at`. Numbers that are not known yet are None, never 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

T = TypeVar("T")
CanaryState = Literal["none", "running", "promoted", "rolled_back", "refused"]


@dataclass(frozen=True, slots=True)
class CertificateState:
    """The promise of the policy in force. `ended_by`: drift signals, or `expired`; empty while it holds."""

    state: Literal["none", "valid", "ended"] = "none"
    valid_until: float | None = None  # seconds since the epoch
    ended_at: float | None = None
    ended_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QualityState:
    """Quality of the answers given, as a share of what always-strong would have had, with its interval.

    `judged` sampled requests stand for all routed ones of the last `window_s` seconds; `waiting` were sampled
    and are not judged yet. `feedback` are ratings by clients, who choose what they rate: told apart.
    """

    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    judged: int = 0
    waiting: int = 0
    judge: str = ""
    window_s: float = 0.0
    feedback: int = 0
    feedback_mean: float | None = None


@dataclass(frozen=True, slots=True)
class SavingsState:
    """Money of the last `window_s` seconds, US dollars: paid (rejected answers included), what always-strong
    would have cost, and what shadow answers cost on top."""

    window_s: float = 0.0
    requests: int = 0
    cost_usd: float = 0.0
    baseline_usd: float = 0.0
    shadow_usd: float = 0.0

    @property
    def saved_usd(self) -> float:
        """After what the loop itself costs."""
        return self.baseline_usd - self.cost_usd - self.shadow_usd


@dataclass(frozen=True, slots=True)
class SignalState:
    """One drift signal. `value` is a population stability index, None below the least number of rows."""

    name: str
    value: float | None
    threshold: float
    rows: int
    alarmed: bool = False


@dataclass(frozen=True, slots=True)
class DriftState:
    """All signals over the last `window_s` seconds; `since` is when the first alarm rose."""

    window_s: float = 0.0
    signals: tuple[SignalState, ...] = ()
    since: float | None = None

    @property
    def alarmed(self) -> tuple[str, ...]:
        return tuple(signal.name for signal in self.signals if signal.alarmed)


@dataclass(frozen=True, slots=True)
class ArmState:
    """What one version did in the window, routed requests only; shares of `requests`."""

    version: str
    requests: int = 0
    strong_share: float | None = None
    planned_share: float | None = None
    error_share: float | None = None
    quality: QualityState = field(default_factory=QualityState)
    drift: tuple[SignalState, ...] = ()


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """A new bundle on trial. `reason` says why it was rolled back or refused."""

    state: CanaryState = "none"
    share: float = 0.0
    since: float | None = None
    reason: str = ""
    stable: ArmState | None = None
    canary: ArmState | None = None


@dataclass(frozen=True, slots=True)
class ShadowState:
    """Samples of the last `window_s` seconds by outcome, and today's budget (0: none)."""

    share: float = 0.0
    window_s: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    spent_usd_today: float = 0.0
    usd_per_day: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it. `at` is seconds since the epoch; 0: nothing was counted yet."""

    at: float = 0.0
    policy: str = "none"
    workers: int = 1
    certificate: CertificateState = field(default_factory=CertificateState)
    quality: QualityState = field(default_factory=QualityState)
    savings: SavingsState = field(default_factory=SavingsState)
    drift: DriftState = field(default_factory=DriftState)
    canary: CanaryReport = field(default_factory=CanaryReport)
    shadow: ShadowState = field(default_factory=ShadowState)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `savings.saved_usd` and `drift.alarmed` are in it."""
        data = asdict(self)
        data["savings"]["saved_usd"] = self.savings.saved_usd
        data["drift"]["alarmed"] = list(self.drift.alarmed)
        return data


def snapshot_from_dict(data: dict[str, Any]) -> Snapshot:
    """`Snapshot.to_dict` undone; what another version of this program does not say keeps its default."""

    def arm(found: dict[str, Any] | None) -> ArmState | None:
        if found is None:
            return None
        quality = _read(QualityState, found["quality"])
        drift = tuple(_read(SignalState, one) for one in found["drift"])
        return _read(ArmState, {**found, "quality": quality, "drift": drift})

    certificate = data.get("certificate", {})
    drift, canary = data.get("drift", {}), data.get("canary", {})
    signals = tuple(_read(SignalState, one) for one in drift.get("signals", ()))
    arms = {name: arm(canary.get(name)) for name in ("stable", "canary")}
    return _read(
        Snapshot,
        {
            **data,
            "certificate": _read(
                CertificateState, {**certificate, "ended_by": tuple(certificate.get("ended_by", ()))}
            ),
            "quality": _read(QualityState, data.get("quality", {})),
            "savings": _read(SavingsState, data.get("savings", {})),
            "drift": _read(DriftState, {**drift, "signals": signals}),
            "canary": _read(CanaryReport, {**canary, **arms}),
            "shadow": _read(ShadowState, data.get("shadow", {})),
        },
    )


def _read(kind: type[T], data: dict[str, Any]) -> T:
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in data.items() if name in names})

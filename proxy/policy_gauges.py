"""Gauges about the policy in force: its version, what it promised, and how it does since.

They say what dashboards compare traffic with: the share of strong calls that the calibration foresaw, until
when the certificate holds, and what the loop that watches quality has found. With several workers each shows
the same; the most careful value is the one that counts (`livemin` for a date, `livemax` for drift).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from proxy.plan import Plan


class PolicyGauges:
    """One of each a server; a reload shows the next policy on the same ones."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._info = Gauge(
            "upshift_policy_info", "The policy in force.", ["version"],
            multiprocess_mode="livemax", registry=registry,
        )  # fmt: skip
        self._planned = Gauge(
            "upshift_planned_strong_share",
            "Share of strong answers on the calibration prompts, exploration included.",
            ["bound"], multiprocess_mode="livemostrecent", registry=registry,
        )  # fmt: skip
        self._valid_until = Gauge(
            "upshift_certificate_valid_until_seconds",
            "When the certificate ends, seconds since the epoch; 0: there is none.",
            multiprocess_mode="livemin", registry=registry,
        )  # fmt: skip
        self.shadow = Counter(
            "upshift_shadow",
            "Accepted answers also asked of the strong tier.",
            ["outcome"],
            registry=registry,
        )
        self.live_quality = Gauge(
            "upshift_live_quality", "Quality as a share of always-strong's, from judged shadow answers.",
            ["bound"], multiprocess_mode="livemin", registry=registry,
        )  # fmt: skip
        self.drift = Gauge(
            "upshift_drift", "Distance of live traffic from the calibration prompts; 0: none.",
            ["signal"], multiprocess_mode="livemax", registry=registry,
        )  # fmt: skip
        self.canary_requests = Counter(
            "upshift_canary_requests", "Routed requests while a bundle is on trial.", ["arm", "result"],
            registry=registry,
        )  # fmt: skip
        self._canary_share = Gauge(
            "upshift_canary_share", "Share of sessions that a bundle on trial decides for; 0: none.",
            multiprocess_mode="livemax", registry=registry,
        )  # fmt: skip
        self._canary_rolled_back = Gauge(
            "upshift_canary_rolled_back", "1: the configured bundle on trial was sent back.",
            multiprocess_mode="livemax", registry=registry,
        )  # fmt: skip
        self._version = ""
        self._canary = ""

    def show(self, version: str, plan: Plan | None, valid_until: float) -> None:
        """The policy that decides from now on; the one before stands at 0.

        `valid_until` is seconds since the epoch, 0 without a certificate. Without a plan all shares are 0.
        """
        if self._version and self._version != version:
            self._info.labels(self._version).set(0)
        if self._canary == version:
            self._canary = ""
        self._version = version
        self._info.labels(version).set(1)
        self._valid_until.set(valid_until)
        self.show_plan(plan)

    def show_plan(self, plan: Plan | None) -> None:
        """What is foreseen from now on, where the operating point has moved."""
        for bound in ("low", "expected", "high"):
            self._planned.labels(bound).set(getattr(plan, bound) if plan is not None else 0.0)

    def show_canary(self, version: str, share: float, rolled_back: bool) -> None:
        """The bundle on trial, '' for none; `share` 0 once it decides nothing any more."""
        if self._canary and self._canary != version:
            self._info.labels(self._canary).set(0)
        self._canary = version
        if version:
            self._info.labels(version).set(1.0 if share else 0.0)
        self._canary_share.set(share)
        self._canary_rolled_back.set(float(rolled_back))

    def show_certificate(self, until: float) -> None:
        """When it ends, or has ended before its time; seconds since the epoch."""
        self._valid_until.set(until)

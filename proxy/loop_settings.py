"""The settings of the loop that watches a policy: shadow answers, drift, canary."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from proxy.section import Seconds, Section, Share


class ShadowSettings(Section):
    """A sampled share of routed answers, each beside the strong tier's; judged later by `upshift label`."""

    share: Share = Field(0.0, description="share of routed answers sampled; 0: none")
    requests_per_minute: float = Field(
        30.0, ge=0, description="calls of the strong tier for it, all workers of a host together; 0: no bound"
    )
    usd_per_day: float = Field(1.0, ge=0, description="US dollars in a day (UTC) for it; 0: no bound")
    max_running: int = Field(4, ge=1, description="such calls at a time, for each worker; more are dropped")
    skip_above_requests: int = Field(
        100, ge=0, description="with more requests running in the worker, samples are dropped; 0: never"
    )
    timeout_s: float = Field(60.0, gt=0, description="a call later than this has failed")


class DriftSettings(Section):
    """Scores and inputs against those of the calibration prompts."""

    window_s: float = Field(3600.0, gt=0, description="traffic that is compared")
    least_rows: int = Field(300, ge=1, description="fewer requests in the window tell nothing")
    alarm_above: float = Field(0.25, gt=0, description="population stability index that is an alarm")
    action: Literal["report", "end_certificate", "strong"] = Field(
        "end_certificate",
        description="on an alarm: show it, end the certificate, or also send all routed prompts to strong",
    )


class CanarySettings(Section):
    """A new bundle on trial beside the one in force."""

    bundle: Path | None = Field(None, description="folder of the bundle on trial; empty: none")
    share: Share = Field(0.05, description="share of sessions that it decides for")
    rollback: bool = Field(True, description="false: what would end the trial is only shown")
    least_rows: int = Field(200, ge=1, description="fewer of its requests in the window end nothing")
    error_margin: Share = Field(0.05, description="its errors may exceed the other bundle's by this share")
    strong_margin: Share = Field(
        0.1, description="its share of strong answers may leave its plan's band by this"
    )
    least_quality: Share = Field(
        0.0, description="it ends when its live quality is surely below this; 0: not looked at"
    )


class LoopSettings(Section):
    """What the server finds out about its own policy while it runs."""

    interval_s: float = Field(5.0, gt=0, description="how often workers compare notes")
    state_dir: Path | None = Field(
        None, description="folder of counts and verdicts; empty: forgotten when the server stops"
    )
    quality_interval_s: Seconds = Field(60.0, description="how often judged samples are read; 0: never")
    quality_window_days: float = Field(7.0, gt=0, description="judged samples that live quality is made of")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the interval of live quality")
    shadow: ShadowSettings = ShadowSettings()
    drift: DriftSettings = DriftSettings()
    canary: CanarySettings = CanarySettings()

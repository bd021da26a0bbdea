"""What the console asks for, as JSON.

Shares lie in [0, 1], money is US dollars, times are seconds, moments are seconds since the epoch; null means
not known, never 0.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from routing.certificate import Certificate


class Point(BaseModel):
    """The operating point in force. `calibrated` is the configuration's or the bundle's own; `moved_at` says
    since when an operator's stands instead of it. `certified`: the certificate holds for it."""

    version: str
    strategy: str
    threshold: float
    calibrated: float
    moved_at: float | None
    certified: bool


class Promise(BaseModel):
    """The bundle's certificate, or why there is none. `state` `other`: it is about another strategy."""

    state: Literal["none", "refused", "valid", "ended", "other"]
    reason: str
    quality: float | None = None
    confidence: float | None = None
    max_worse: float | None = None
    saved: float | None = None
    prompts: int | None = None
    labels_needed: int | None = None
    scope: str = ""
    valid_until: float | None = None

    @classmethod
    def of(cls, certificate: Certificate, state: Literal["refused", "valid", "ended", "other"],
           valid_until: float, reason: str) -> Promise:  # fmt: skip
        return cls(
            state=state,
            reason=reason,
            quality=certificate.quality,
            confidence=certificate.confidence,
            max_worse=certificate.max_worse,
            saved=certificate.saved,
            prompts=certificate.certification_rows,
            labels_needed=certificate.labels_needed,
            scope=certificate.scope,
            valid_until=valid_until or None,
        )


class Band(BaseModel):
    """What the calibration foresaw."""

    expected: float
    low: float
    high: float


class Money(BaseModel):
    """`upshift_cost_usd_total` against `upshift_baseline_cost_usd_total`; `estimated_usd` is the part of the
    baseline where strong did not run."""

    cost_usd: float
    baseline_usd: float
    estimated_usd: float
    saved_usd: float
    saved_share: float | None


class TierHealth(BaseModel):
    """One tier since the server began; `p50_s` and `p95_s` of a call, within a histogram's bucket."""

    name: str
    model: str
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    up: bool
    open_circuits: int
    in_flight: int
    calls: int
    failed: int
    cost_usd: float
    p50_s: float | None
    p95_s: float | None


class Overview(BaseModel):
    """Everything at a glance, over all workers, since the server began: sums of `/metrics`.

    `loop` is what `/admin/loop` says: live quality, drift, canary, shadow samples.
    """

    at: float
    since: float
    point: Point
    strategies: list[str]
    promise: Promise
    planned_strong_share: Band | None
    strong_share: float | None = Field(description="of routed answers, the share that the last tier gave")
    routed: int
    requests: dict[str, int] = Field(description="by outcome")
    decisions: dict[str, int]
    reasons: dict[str, int] = Field(description="DECISION/REASON: count")
    request_p50_s: float | None
    request_p95_s: float | None
    in_flight: int
    money: Money
    tiers: list[TierHealth]
    scorer_failures: dict[str, int]
    log: bool = Field(description="a decision log is kept")
    text: bool = Field(description="prompts and answers are kept: log.store_text")
    rows_dropped: int
    loop: dict[str, Any]


class Decision(BaseModel):
    """One answered request, as in the decision log. `prompt` is its beginning, only with log.store_text."""

    id: str
    request_id: str
    at: float
    api: str
    stream: bool
    strategy: str
    threshold: float | None
    policy: str
    decision: str
    reason: str
    tier: str
    route_score: float | None
    difficulty: float | None
    answer_score: float | None
    outcome: str
    status: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    baseline_usd: float | None
    total_s: float | None
    first_byte_s: float | None
    prompt: str | None = None


class Decisions(BaseModel):
    """The last ones of all workers, newest first."""

    decisions: list[Decision]
    text: bool


class CurvePointOut(BaseModel):
    """One operating point on the calibration prompts. `quality` and `cost` are shares of always-strong's;
    `low` and `high` bound `quality` at 95 % on these prompts. `allowed`: it may be put in force for all."""

    threshold: float
    strong_share: float
    quality: float | None
    low: float | None
    high: float | None
    cost: float | None
    certified: bool
    allowed: bool
    in_force: bool
    calibrated: bool


class CurveOut(BaseModel):
    """The curve of one strategy, from always-strong downwards; `missing` says why there is none."""

    strategy: str
    version: str
    tiers: list[str]
    prompts: int
    weak_quality: float | None = Field(description="of always-weak, as a share of always-strong's")
    weak_cost: float | None
    points: list[CurvePointOut]
    promise: Promise
    missing: str


class MovePoint(BaseModel):
    """The threshold that is to decide from now on; null: the calibrated one. `version`: the policy meant."""

    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None
    version: str = Field(max_length=100)

"""Everything at a glance: sums of the server's own metrics beside what the policy in force foresaw."""

from __future__ import annotations

import time
from typing import Any

from proxy.board import Board
from proxy.console.figures import Figures
from proxy.console.promise import certified_points, promise_of
from proxy.console.schemas import Band, Money, Overview, Point, TierHealth
from proxy.gateway import Gateway
from proxy.plan import plan_of
from routing.tier import Tier


def point_in_force(gateway: Gateway, board: Board) -> Point:
    """Which threshold decides requests that say nothing themselves, and whether it is certified."""
    policy, routing = gateway.scorers.policy, gateway.settings.routing
    strategy = routing.strategy or policy.default_strategy
    calibrated = policy.rule(routing.strategy, routing.threshold).threshold
    moved = board.point.read(policy.version, strategy)
    threshold = calibrated if moved is None else moved.threshold
    return Point(
        version=policy.version,
        strategy=strategy,
        threshold=threshold,
        calibrated=calibrated,
        moved_at=None if moved is None else moved.since,
        certified=threshold in certified_points(gateway.scorers, strategy),
    )


def overview_of(gateway: Gateway, board: Board, loop: dict[str, Any]) -> Overview:
    """One reading of all metrics. Costs milliseconds: for a thread, not for the event loop."""
    figures = Figures(gateway.metrics.collect())
    scorers, log = gateway.scorers, gateway.settings.log
    point = point_in_force(gateway, board)
    rule = scorers.policy.rule(point.strategy, None if point.moved_at is None else point.threshold)
    plan = (
        scorers.plan if point.moved_at is None else plan_of(scorers.rows, rule, scorers.policy.explore_share)
    )
    decisions = figures.by("upshift_decisions_total", "decision")
    routed = sum(count for name, count in decisions.items() if name != "pinned")
    strong = decisions.get("strong", 0) + decisions.get("escalated", 0)
    return Overview(
        at=time.time(),
        since=board.recent.since(),
        point=point,
        strategies=list(scorers.policy.strategies),
        promise=promise_of(scorers, point.strategy),
        planned_strong_share=(
            None if plan is None else Band(expected=plan.expected, low=plan.low, high=plan.high)
        ),
        strong_share=strong / routed if routed else None,
        routed=routed,
        requests=figures.by("upshift_requests_total", "outcome"),
        decisions=decisions,
        reasons=figures.by("upshift_decisions_total", "decision", "reason"),
        request_p50_s=figures.quantile("upshift_request_seconds", 0.5),
        request_p95_s=figures.quantile("upshift_request_seconds", 0.95),
        in_flight=_count(figures, "upshift_in_flight_requests"),
        money=_money(figures),
        tiers=[_tier(figures, tier) for tier in gateway.ladder.tiers],
        scorer_failures=figures.by("upshift_fail_open_total", "scorer"),
        log=bool(log.url),
        text=log.store_text,
        rows_dropped=_count(figures, "upshift_log_rows_dropped_total"),
        loop=loop,
    )


def _money(figures: Figures) -> Money:
    cost = figures.total("upshift_cost_usd_total")
    baseline = figures.total("upshift_baseline_cost_usd_total")
    return Money(
        cost_usd=cost,
        baseline_usd=baseline,
        estimated_usd=figures.total("upshift_baseline_cost_usd_total", estimated="true"),
        saved_usd=baseline - cost,
        saved_share=1.0 - cost / baseline if baseline > 0.0 else None,
    )


def _tier(figures: Figures, tier: Tier) -> TierHealth:
    name = tier.name
    calls = _count(figures, "upshift_backend_requests_total", tier=name)
    up = figures.total("upshift_backend_up", tier=name)
    known = any(True for _ in figures.samples("upshift_backend_up", tier=name))
    return TierHealth(
        name=name,
        model=tier.model,
        input_usd_per_mtok=tier.input_usd_per_mtok,
        output_usd_per_mtok=tier.output_usd_per_mtok,
        up=up > 0 or not known,  # a backend inside this process has no health to tell
        open_circuits=_count(figures, "upshift_circuit_open", tier=name),
        in_flight=_count(figures, "upshift_backend_in_flight_requests", tier=name),
        calls=calls,
        failed=calls
        - _count(figures, "upshift_backend_requests_total", tier=name, outcome="ok")
        - _count(figures, "upshift_backend_requests_total", tier=name, outcome="cancelled"),
        cost_usd=figures.total("upshift_cost_usd_total", tier=name),
        p50_s=figures.quantile("upshift_backend_seconds", 0.5, tier=name),
        p95_s=figures.quantile("upshift_backend_seconds", 0.95, tier=name),
    )


def _count(figures: Figures, name: str, **labels: str) -> int:
    return max(0, round(figures.total(name, **labels)))

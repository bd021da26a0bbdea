"""Prometheus metrics of the contract, with bounded labels; right with any number of workers.

With several workers `PROMETHEUS_MULTIPROC_DIR` is set before this module is imported (`proxy.server` does
it): prometheus_client then keeps every value in memory-mapped files that one scrape adds up.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from proxy.policy_gauges import PolicyGauges
from proxy.record import Record, TierUse
from proxy.scorer_metrics import ScorerMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_FAST_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_SCORES = tuple(i / 20 for i in range(1, 21))


class Metrics:
    """All metrics of one server. Children are looked up once and kept: a request pays only increments."""

    def __init__(self, tier_names: Sequence[str]) -> None:
        self.registry = CollectorRegistry()
        self._tiers = list(tier_names)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        seconds = partial(Histogram, buckets=_SECONDS, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self._requests = counter("upshift_requests", "Requests answered.", ["api", "strategy", "outcome"])
        self._decisions = counter("upshift_decisions", "How answers came about.", ["decision", "reason"])
        self._seconds = seconds("upshift_request_seconds", "Whole request.", ["api", "decision"])
        self._first = seconds("upshift_time_to_first_token_seconds", "First byte of a stream.", ["decision"])
        self.overhead = histogram(
            "upshift_overhead_seconds", "Time that is Upshift's own.", ["stage"], buckets=_FAST_SECONDS
        )
        self._score = histogram(
            "upshift_score", "Scores as the policy saw them.", ["scorer"], buckets=_SCORES
        )
        self.scoring = ScorerMetrics(self.registry)
        self._backend = counter("upshift_backend_requests", "Calls to backends.", ["tier", "outcome"])
        self._backend_seconds = seconds("upshift_backend_seconds", "Calls to backends.", ["tier"])
        self._tokens = counter("upshift_tokens", "Tokens paid for.", ["tier", "kind", "served"])
        self._cost = counter("upshift_cost_usd", "Cost of all calls, rejected answers included.", ["tier"])
        self._baseline = counter(
            "upshift_baseline_cost_usd", "Cost had the strongest tier answered.", ["estimated"]
        )
        self._fail_open = counter("upshift_fail_open", "Scorer failures.", ["scorer", "reason"])
        self._hedges = counter("upshift_hedges", "Races of two tiers.", ["outcome"])
        self.feedback = counter("upshift_feedback", "Ratings by clients.", ["decision", "rating"])
        self.rows_dropped = counter("upshift_log_rows_dropped", "Decision log rows lost.")
        self.in_flight = gauge(
            "upshift_in_flight_requests", "Requests being answered.", multiprocess_mode="livesum"
        )
        self.policy = PolicyGauges(self.registry)
        self._up = gauge(
            "upshift_backend_up", "Whether any replica of the tier takes requests.", ["tier"],
            multiprocess_mode="livemin",
        )  # fmt: skip
        self._circuit_open = gauge(
            "upshift_circuit_open", "Replicas of the tier whose circuit is open or half open.", ["tier"],
            multiprocess_mode="livemax",
        )  # fmt: skip
        self._tier_in_flight = gauge(
            "upshift_backend_in_flight_requests", "Calls that the tier is working on.", ["tier"],
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.retries = counter("upshift_backend_retries", "Calls to backends that were repeats.", ["tier"])
        self._children: dict[tuple[object, ...], object] = {}

    def for_tiers(self, tier_names: Sequence[str]) -> Metrics:
        """The same metrics seen by a configuration with other tiers: a reload counts on."""
        view = copy.copy(self)
        view._tiers = list(tier_names)
        for gone in set(self._tiers) - set(tier_names):
            view.show_backend(gone, up=True, open_circuits=0)  # nothing to be alarmed about any more
        return view

    def show_backend(self, tier: str, up: bool, open_circuits: int) -> None:
        """The health of a tier's replicas."""
        self._up.labels(tier).set(1.0 if up else 0.0)
        self._circuit_open.labels(tier).set(open_circuits)

    def enter_tier(self, tier: int) -> None:
        """A call to a tier begins."""
        self._gauge(self._tier_in_flight, self._tiers[tier]).inc()

    def leave_tier(self, tier: int) -> None:
        """It has ended."""
        self._gauge(self._tier_in_flight, self._tiers[tier]).dec()

    def observe(self, record: Record) -> None:
        """Count one finished request."""
        decision = record.route.decision if record.route is not None else "none"
        self._counter(self._requests, record.api, record.strategy, record.outcome).inc()
        self._histogram(self._seconds, record.api, decision).observe(record.total_s)
        if record.first_byte_s is not None:
            self._histogram(self._first, decision).observe(record.first_byte_s)
        route = record.route
        if route is not None:
            self._counter(self._decisions, decision, route.reason).inc()
            if route.route_score is not None:
                self._histogram(self._score, "mf").observe(route.route_score)
            if route.difficulty is not None:
                self._histogram(self._score, "difficulty").observe(route.difficulty)
            if route.answer_score is not None:
                self._histogram(self._score, "evaluator").observe(route.answer_score)
        self._observe_events(record, decision)
        for stage, seconds in record.stages.items():
            self._histogram(self.overhead, stage).observe(seconds)
        if record.uses:
            self._histogram(self.overhead, "total").observe(max(0.0, record.total_s - record.backend_s))
        self._observe_uses(record)

    def _observe_events(self, record: Record, decision: str) -> None:
        """What happens to some requests only."""
        if record.arm:
            result = decision if record.outcome == "ok" else record.outcome
            self._counter(self.policy.canary_requests, record.arm, result).inc()
        if record.race is not None:
            self._counter(self._hedges, record.race).inc()
        if record.scorer_failed is not None:
            scorer, _, why = record.scorer_failed.partition("/")
            self._counter(self._fail_open, scorer, why).inc()

    def render(self) -> bytes:
        """The exposition text, summed over workers where there are several."""
        return generate_latest(self._whole())

    def collect(self) -> Iterable[Metric]:
        """The same as values."""
        return self._whole().collect()

    def _whole(self) -> CollectorRegistry:
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    def _observe_uses(self, record: Record) -> None:
        for use in record.uses:
            self.observe_use(use)
        if record.baseline_usd:
            self._counter(self._baseline, "true" if record.baseline_estimated else "false").inc(
                record.baseline_usd
            )

    def observe_use(self, use: TierUse) -> None:
        """Count one call of a tier."""
        tier, served = self._tiers[use.tier], "true" if use.served else "false"
        self._counter(self._backend, tier, use.outcome).inc()
        self._histogram(self._backend_seconds, tier).observe(use.seconds)
        if use.prompt_tokens:
            self._counter(self._tokens, tier, "prompt", served).inc(use.prompt_tokens)
        if use.completion_tokens:
            self._counter(self._tokens, tier, "completion", served).inc(use.completion_tokens)
        if use.cost_usd:
            self._counter(self._cost, tier).inc(use.cost_usd)

    def _gauge(self, metric: Gauge, *labels: str) -> Gauge:
        key = (metric, *labels)
        child = self._children.get(key)
        if not isinstance(child, Gauge):
            child = self._children[key] = metric.labels(*labels)
        return child

    def _counter(self, metric: Counter, *labels: str) -> Counter:
        key = (metric, *labels)
        child = self._children.get(key)
        if not isinstance(child, Counter):
            child = self._children[key] = metric.labels(*labels)
        return child

    def _histogram(self, metric: Histogram, *labels: str) -> Histogram:
        key = (metric, *labels)
        child = self._children.get(key)
        if not isinstance(child, Histogram):
            child = self._children[key] = metric.labels(*labels)
        return child

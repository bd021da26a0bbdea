"""Keeps a request's account while it runs, and hands it to the metrics and the decision log at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping

import orjson

from proxy.attempt import TierAttempt
from proxy.baseline import Baseline
from proxy.completion import Usage
from proxy.log_lines import RequestLines
from proxy.loop.counts import LoopCounts
from proxy.metrics import Metrics
from proxy.record import Record, TierUse
from proxy.tracing import Tracing
from proxy.wire import Scope
from routing.errors import BackendError, BackendTimeout, BackendUnavailable
from routing.protocols import Answer, DecisionLog
from routing.tier import Ladder, Tier
from scorers.text import prompt_id


def failure_outcome(error: BackendError) -> str:
    """What a call that gave no reply counts as."""
    if isinstance(error, BackendTimeout):
        return "timeout"
    return "unavailable" if isinstance(error, BackendUnavailable) else "error"


class Recorder:
    """The accounts of all requests. `store_text` keeps prompts and answers in the log, off by default."""

    def __init__(
        self,
        metrics: Metrics,
        log: DecisionLog,
        ladder: Ladder,
        store_text: bool,
        lines: RequestLines | None = None,
        tracing: Tracing | None = None,
        counts: LoopCounts | None = None,
    ) -> None:
        self._metrics = metrics
        self._lines = lines or RequestLines("none")
        self._tracing = tracing
        self._baseline = Baseline(ladder)
        self._log = log
        self._ladder = ladder
        self.store_text = store_text
        self._counts = counts

    def open(self, record: Record, scope: Scope) -> None:
        """A request begins: with traces on, it gets its ids."""
        if self._tracing is not None:
            record.trace = self._tracing.begin(scope, record.started)

    def onward(self, record: Record, use: TierUse | None, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers of a call: with traces on, under the span of its attempt (None: of the request)."""
        if record.trace is None:
            return headers
        return {**headers, "traceparent": record.trace.onward(use)}

    def note_prompt(self, record: Record, prompt: str) -> None:
        """Its hash always, its text only where text is kept."""
        record.prompt_id = prompt_id(prompt)
        record.prompt_chars = len(prompt)
        if self.store_text:
            record.prompt = prompt

    def begin(self, record: Record, tier: int) -> TierUse:
        """A call to a tier starts."""
        now = time.perf_counter()
        use = TierUse(tier, "pending", now, began=now)
        record.uses.append(use)
        self._metrics.enter_tier(tier)
        return use

    def end(self, use: TierUse, outcome: str, usage: Usage | None = None, tier: Tier | None = None) -> None:
        """It has ended; tokens are priced where they are known."""
        if use.outcome == "pending" and outcome != "pending":
            use.outcome = outcome
            use.seconds = time.perf_counter() - use.seconds
            self._metrics.leave_tier(use.tier)
        if usage is not None and tier is not None:
            use.prompt_tokens, use.completion_tokens = usage.prompt_tokens, usage.completion_tokens
            use.cost_usd = tier.cost_usd(usage.prompt_tokens, usage.completion_tokens)

    def settle(self, record: Record, attempt: TierAttempt, served: bool = False) -> None:
        """Note what an attempt used, rejected or served. Safe to call again when more is known."""
        use = attempt.use
        if use is not None:
            broken = attempt.standing != "ok"
            outcome = "error" if broken else "ok" if attempt.whole else "pending"
            self.end(use, outcome, attempt.usage, self._ladder[attempt.tier])
            use.served = served and not broken
            use.model = attempt.model or use.model
        if self.store_text and (answers := attempt.answers()):
            if served:
                record.answer = answers[0].text
            if attempt.tier < self._ladder.last:
                record.judged = answers[0]

    def finish(self, record: Record) -> None:
        """The request is over: count it and log it."""
        for use in record.uses:
            self.end(use, "cancelled" if record.outcome == "cancelled" else "error")
        record.baseline_usd, record.baseline_estimated = self._baseline.price(record.uses)
        self._metrics.observe(record)
        if self._counts is not None and record.explore_share is not None:
            self._counts.observe(record)
        if record.account is not None:
            record.account.charge(record.tokens, record.cost_usd)
        if record.route is not None:
            self._log.record(self._row(record))
        self._lines.write(record, self._ladder[record.route.tier].name if record.route is not None else "")
        if self._tracing is not None:
            self._tracing.finish(record)

    def finish_shadow(self, use: TierUse) -> None:
        """A call for a sample is over: its tier, tokens and cost count like any other's."""
        self._metrics.observe_use(use)

    def shadow(self, row: Mapping[str, object], outcome: str, usd: float) -> None:
        """A sample is settled: count it and log it."""
        self._metrics.policy.shadow.labels(outcome).inc()
        if self._counts is not None:
            self._counts.shadow(str(row["policy"]), outcome, usd)
        self._log.record(row, "shadows")

    def _row(self, record: Record) -> dict[str, object]:
        route = record.route
        assert route is not None
        return {
            "request_id": record.request_id,
            "at": time.time(),
            "api": record.api,
            "stream": record.stream,
            "strategy": record.strategy,
            "threshold": route.threshold,
            "policy": route.policy_version,
            "prompt_id": record.prompt_id,
            "decision": route.decision,
            "reason": route.reason,
            "tier": self._ladder[route.tier].name,
            "propensity": route.propensity,
            "route_score": route.route_score,
            "difficulty": route.difficulty,
            "answer_score": route.answer_score,
            "outcome": record.outcome,
            "status": record.status,
            "prompt_tokens": sum(use.prompt_tokens for use in record.uses),
            "completion_tokens": sum(use.completion_tokens for use in record.uses),
            "cost_usd": record.cost_usd,
            "baseline_usd": record.baseline_usd,
            "total_s": record.total_s,
            "first_byte_s": record.first_byte_s,
            "prompt": record.prompt,
            "answer": record.answer,
            "entry": route.entry or None,
            "explore_share": record.explore_share,
            "scorers": record.scorers or None,
            **_judged_columns(record.judged),
        }


def _judged_columns(answer: Answer | None) -> dict[str, object]:
    if answer is None:
        return {}
    logprobs = None if answer.logprobs is None else [round(value, 4) for value in answer.logprobs]
    return {
        "judged": answer.text,
        "judged_finish": answer.finish_reason,
        "judged_logprobs": None if logprobs is None else orjson.dumps(logprobs).decode(),
    }

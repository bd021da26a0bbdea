"""Shadow samples: a share of routed answers, each beside the strong tier's answer to the same prompt.

Whether a request is sampled is drawn when the policy has committed to an answer; the strong tier is asked
when the client has its last byte, in a task of its own, so a sample neither delays nor fails a request.
Pinned requests never come here. Where the strong tier answered anyway its answer is the sample, at no cost:
without those the estimate would speak only of what the weak tier was trusted with.

A call is dropped, and counted as dropped, when the worker is busy, when too many run, or when a minute's or a
day's budget is spent. A shutdown cancels what runs. The row goes to the table `shadows` with the probability
of being drawn; with text only where the log keeps text (then a judge can compare the two later), else hashes,
tokens and scores.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import orjson

from proxy.admission import Admission
from proxy.attempt import TierAttempt, begin_attempt
from proxy.call import Call
from proxy.exchange import Exchange
from proxy.loop_settings import ShadowSettings
from proxy.record import Record
from proxy.recorder import Recorder, failure_outcome
from routing.decision import Route
from routing.errors import BackendError
from routing.protocols import Answer, Backend
from routing.tier import Ladder

_log = logging.getLogger("upshift.shadow")
_OUTSIDE = frozenset({"scorer_failed", "weak_failed", "strong_failed"})  # answers the promise is not about


@dataclass(slots=True)
class Budget:
    """Calls a minute, as a bucket that fills at that rate, and dollars a day; 0: no bound."""

    per_minute: float
    usd_per_day: float
    spent_elsewhere: Callable[[], float]  # today by the other workers, US dollars
    calls: float = 1.0
    filled_at: float = 0.0
    day: int = 0
    spent_usd: float = 0.0

    def take(self, now: float) -> bool:
        """Whether a call may be made now (`now` in seconds since the epoch); counted if so."""
        if self.usd_per_day and self.today_usd(now) + self.spent_elsewhere() >= self.usd_per_day:
            return False
        if self.per_minute:
            passed_s = max(0.0, now - self.filled_at)
            self.calls = min(max(1.0, self.per_minute / 6), self.calls + passed_s * self.per_minute / 60)
            self.filled_at = now
            if self.calls < 1.0:
                return False
            self.calls -= 1.0
        return True

    def spend(self, usd: float, now: float) -> None:
        self.today_usd(now)
        self.spent_usd += usd

    def today_usd(self, now: float) -> float:
        """What this worker has spent since midnight UTC."""
        if (day := int(now // 86_400)) != self.day:
            self.day, self.spent_usd = day, 0.0
        return self.spent_usd


class Shadows:
    """One an application. `budget` outlives a reload."""

    def __init__(
        self,
        settings: ShadowSettings,
        ladder: Ladder,
        backends: Sequence[Backend],
        recorder: Recorder,
        admission: Admission,
        budget: Budget,
    ) -> None:
        self._settings = settings
        self._ladder = ladder
        self._strong = backends[ladder.last]
        self._recorder = recorder
        self._admission = admission
        self._budget = budget
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """Calls on their way."""
        return len(self._tasks)

    def draw(self, exchange: Exchange, attempt: TierAttempt, route: Route) -> bool:
        """Whether this answer is sampled; its text is then kept while it passes."""
        if random.random() >= self._settings.share:
            return False
        one = exchange.call.choices == 1 and (
            exchange.call.api == "chat" or isinstance(exchange.call.prompt, str)
        )
        if not one or route.reason in _OUTSIDE or route.decision == "degraded":
            return False
        attempt.keep_text = True
        return True

    def take(self, exchange: Exchange, attempt: TierAttempt, route: Route) -> None:
        """The answer has been sent: ask the strong tier, or take its answer as it is. Never raises."""
        record = exchange.record
        answers = attempt.kept_answers()
        if record.outcome != "ok" or len(answers) != 1:
            return
        row = self._row(record, route)
        if attempt.tier == self._ladder.last:
            self._note_strong(row, answers[0], attempt.model, attempt.usage.completion_tokens)
            self._store(row, "strong_answered", 0.0)
            return
        row |= {
            "weak_model": attempt.model or self._ladder[attempt.tier].model,
            "weak_sha256": _sha256(answers[0].text),
            "weak_tokens": attempt.usage.completion_tokens,
        }
        if self._recorder.store_text:
            row |= {"weak_answer": answers[0].text, "weak_finish": answers[0].finish_reason}
        if self._busy():
            self._store(row, "load", 0.0)
        elif not self._budget.take(time.time()):
            self._store(row, "budget", 0.0)
        else:
            task = asyncio.get_running_loop().create_task(self._ask(exchange.call, row))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel what runs; each leaves its row."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _busy(self) -> bool:
        most = self._settings.skip_above_requests
        return bool(
            len(self._tasks) >= self._settings.max_running
            or self._admission.waiting
            or (most and self._admission.running > most)
        )

    async def _ask(self, call: Call, row: dict[str, object]) -> None:
        """The strong tier's answer in the background."""
        last = self._ladder.last
        tier = self._ladder[last]
        record = Record("shadow", str(row["request_id"]))
        use = self._recorder.begin(record, last)
        outcome, attempt = "error", None
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                attempt = await begin_attempt(
                    self._strong, last, tier, _in_one_piece(call), judged=False, headers={},
                    timeout_s=self._settings.timeout_s,
                )  # fmt: skip
                if attempt.standing == "ok":
                    await attempt.complete()
                    (answer,) = attempt.answers()
                    self._note_strong(
                        row, answer, attempt.model or tier.model, attempt.usage.completion_tokens
                    )
                    outcome = "ok"
        except (BackendError, TimeoutError, ValueError) as error:  # ValueError: not one answer, but some
            outcome = failure_outcome(error) if isinstance(error, BackendError) else "error"
            if isinstance(error, TimeoutError):
                outcome = "timeout"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._recorder.end(use, outcome, attempt.usage if attempt is not None else None, tier)
            self._recorder.finish_shadow(use)
            row["cost_usd"] = use.cost_usd
            self._budget.spend(use.cost_usd, time.time())
            self._store(row, outcome, use.cost_usd)
            if attempt is not None:
                await attempt.close()

    def _row(self, record: Record, route: Route) -> dict[str, object]:
        return {
            "request_id": record.request_id,
            "at": time.time(),
            "policy": route.policy_version,
            "prompt_id": record.prompt_id,
            "served": "weak",
            "propensity": self._settings.share,
            "route_score": route.route_score,
            "answer_score": route.answer_score,
            "prompt": record.prompt,  # there only where text is kept
        }

    def _note_strong(self, row: dict[str, object], answer: Answer, model: str, tokens: int) -> None:
        row |= {"strong_model": model, "strong_sha256": _sha256(answer.text), "strong_tokens": tokens}
        if self._recorder.store_text:
            row["strong_answer"] = answer.text

    def _store(self, row: dict[str, object], outcome: str, usd: float) -> None:
        strong = outcome == "strong_answered"
        row |= {"outcome": "ok" if strong else outcome, "served": "strong" if strong else "weak"}
        self._recorder.shadow(row, outcome, usd)


def _in_one_piece(call: Call) -> Call:
    """The same call, not streamed."""
    fields = {name: raw for name, raw in call.fields.items() if name not in ("stream", "stream_options")}
    body = b"{" + b",".join(orjson.dumps(name) + b":" + raw for name, raw in fields.items()) + b"}"
    return replace(call, body=body, fields=fields, stream=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

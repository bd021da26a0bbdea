"""What is remembered of one request: the source of its metrics and of its row in the decision log."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from proxy.limits import Account
from routing.decision import Route
from routing.protocols import Answer

if TYPE_CHECKING:
    from proxy.tracing import Trace

Outcome = Literal["ok", "client_error", "upstream_error", "timeout", "shed", "cancelled", "degraded"]


@dataclass(slots=True)
class TierUse:
    """One tier's part in a request."""

    tier: int
    outcome: str  # ok, error, timeout, unavailable, cancelled
    seconds: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    served: bool = False
    began: float = 0.0  # on the record's clock
    model: str = ""  # as the backend named itself
    span_id: int = 0  # where traces are exported


@dataclass(slots=True)
class Record:
    """Filled while the request runs; times are monotonic seconds."""

    api: str
    request_id: str
    started: float = field(default_factory=time.perf_counter)
    strategy: str = "none"
    outcome: Outcome = "ok"
    status: int = 0
    stream: bool = False
    route: Route | None = None
    prompt_id: str = ""
    prompt: str | None = None  # only where text is kept
    answer: str | None = None
    judged: Answer | None = None  # what the evaluator read; only where text is kept
    scorers: str = ""  # fingerprint of what its scores come from
    arm: str = ""  # stable or canary, while a bundle is on trial
    prompt_chars: int | None = None  # of a routed prompt as it is rendered
    unfamiliar: bool | None = None  # unlike the fitted prompts; None: nobody looked
    explore_share: float | None = None  # None: the client chose, nothing was left to explore
    first_byte_s: float | None = None
    total_s: float = 0.0
    uses: list[TierUse] = field(default_factory=list)
    scorer_error: str | None = None
    scorer_failed: str | None = None  # SCORER/REASON of a closed list
    error: str | None = None  # the code of the error the client was told
    hard_check: str | None = None
    race: str | None = None  # won, lost, denied
    baseline_usd: float = 0.0
    baseline_estimated: bool = False
    account: Account | None = None  # of a key with limits
    other_tokens: int = 0  # of a backend that is no tier
    trace: Trace | None = None  # only where traces are exported
    stages: dict[str, float] = field(default_factory=dict)  # seconds of our own work, by stage

    @property
    def backend_s(self) -> float:
        """Seconds in which at least one tier was at work; races overlap."""
        busy, until = 0.0, self.started
        for use in self.uses:  # in the order they began
            end = use.began + use.seconds
            busy += max(0.0, end - max(until, use.began))
            until = max(until, end)
        return busy

    @property
    def cost_usd(self) -> float:
        """All that the request cost, rejected answers included; US dollars."""
        return sum(use.cost_usd for use in self.uses)

    @property
    def tokens(self) -> int:
        """All that were paid for, prompts included."""
        return self.other_tokens + sum(use.prompt_tokens + use.completion_tokens for use in self.uses)

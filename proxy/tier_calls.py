"""Calls of a tier on behalf of one request: within its deadline, and on its account."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.attempt import TierAttempt, begin_attempt
from proxy.exchange import Exchange
from proxy.recorder import Recorder, failure_outcome
from proxy.token_counts import TokenCount
from proxy.wire_error import from_backend_reply
from routing.errors import BackendError
from routing.protocols import Backend
from routing.tier import Ladder


class TierCalls:
    """The ladder's backends. `held_time_share` of the time left is what a tier below the last may use up
    before anything of its answer is shown."""

    def __init__(
        self,
        ladder: Ladder,
        backends: Sequence[Backend],
        recorder: Recorder,
        held_time_share: float,
        counts: Sequence[TokenCount],
    ) -> None:
        self._ladder = ladder
        self._backends = backends
        self._recorder = recorder
        self._counts = counts
        self._held_time_share = held_time_share

    async def begin(
        self, exchange: Exchange, tier: int, *, judged: bool, pinned: bool = False
    ) -> TierAttempt:
        """Ask a tier. Raises `BackendError` when there was no reply at all."""
        left_s, stage = exchange.deadline.left_s(), "total"
        held = judged or not exchange.call.stream  # nothing reaches the client before it is complete
        if left_s is not None and held and tier < self._ladder.last and not pinned:
            left_s, stage = left_s * self._held_time_share, "share"
        use = self._recorder.begin(exchange.record, tier)
        headers = self._recorder.onward(exchange.record, use, exchange.forwarded)
        try:
            attempt = await begin_attempt(
                self._backends[tier], tier, self._ladder[tier], exchange.call, judged=judged, pinned=pinned,
                headers=headers, timeout_s=left_s, timeout_stage=stage,
                hold=exchange.hold,
            )  # fmt: skip
        except BackendError as error:
            self._recorder.end(use, failure_outcome(error))
            raise
        attempt.use, attempt.count = use, self._counts[tier]
        if attempt.standing != "ok" and not pinned:
            self._recorder.end(use, "error")
        return attempt

    async def relay_error(self, exchange: Exchange, attempt: TierAttempt) -> None:
        """A backend's error reply, in OpenAI's shape."""
        tier = self._ladder[attempt.tier]
        error = from_backend_reply(attempt.status, attempt.body, attempt.headers, tier.name)
        await exchange.fail(error, upstream=attempt.standing == "failed")

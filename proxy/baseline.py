"""What always-strong would have cost: the money that the savings are measured against.

Where the strongest tier ran, its own tokens are the answer. Where it did not, its tokens are expected from
those of the tier that answered, by the ratio of lengths seen on prompts that both answered (a ratio of sums,
started at 1 with the weight of a few answers). Those prompts are the rejected and the explored ones, so the
ratio leans towards harder prompts; the metric keeps the estimated part apart for that reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.record import TierUse
from routing.tier import Ladder

_PRIOR_TOKENS = 2_000.0  # about ten answers


class _Ratio:
    """Strong's tokens for one of another tier's, from sums."""

    __slots__ = ("_other", "_strong")

    def __init__(self) -> None:
        self._strong = self._other = _PRIOR_TOKENS

    @property
    def value(self) -> float:
        return self._strong / self._other

    def learn(self, strong_tokens: int, other_tokens: int) -> None:
        self._strong += strong_tokens
        self._other += other_tokens


class Baseline:
    """One a server; learns from every request that two tiers answered."""

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder
        self._prompt = {tier: _Ratio() for tier in range(ladder.last)}  # tokenizers differ too
        self._completion = {tier: _Ratio() for tier in range(ladder.last)}

    def price(self, uses: Sequence[TierUse]) -> tuple[float, bool]:
        """US dollars, and whether they are an estimate; 0 where nothing was answered."""
        strong = next((use for use in reversed(uses) if self._is_last(use) and _complete(use)), None)
        others = [use for use in uses if not self._is_last(use) and _complete(use)]
        if strong is not None:
            for use in others:
                self._prompt[use.tier].learn(strong.prompt_tokens, use.prompt_tokens)
                self._completion[use.tier].learn(strong.completion_tokens, use.completion_tokens)
            return strong.cost_usd, False
        served = next((use for use in others if use.served), None)
        if served is None:
            return 0.0, False
        tier = self._ladder[self._ladder.last]
        prompt = served.prompt_tokens * self._prompt[served.tier].value
        completion = served.completion_tokens * self._completion[served.tier].value
        return (prompt * tier.input_usd_per_mtok + completion * tier.output_usd_per_mtok) / 1e6, True

    def _is_last(self, use: TierUse) -> bool:
        return use.tier == self._ladder.last


def _complete(use: TierUse) -> bool:
    return use.outcome == "ok" and use.completion_tokens > 0

"""A tier of the ladder: one model (or several replicas of it) with its price, window and abilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CAPABILITIES = frozenset(
    {"tools", "images", "audio", "json_schema", "logprobs", "stream_usage", "n", "responses"}
)


@dataclass(frozen=True, slots=True)
class Tier:
    """One rung, cheap to dear.

    Prices are US dollars per million tokens; `context_window_tokens` 0 means unknown, so never checked;
    `capabilities` is a subset of `CAPABILITIES`; `languages` are ISO 639-1 codes, empty for any.
    `tokenizer` is a path, '' for none; the last two map requests to what the backend takes.
    """

    name: str
    model: str
    input_usd_per_mtok: float = 0.0
    output_usd_per_mtok: float = 0.0
    context_window_tokens: int = 0
    capabilities: frozenset[str] = CAPABILITIES
    languages: frozenset[str] = field(default_factory=frozenset)
    tokenizer: str = ""
    drop_parameters: frozenset[str] = field(default_factory=frozenset)
    rename_parameters: Mapping[str, str] = field(default_factory=dict)

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of one call, US dollars."""
        return (prompt_tokens * self.input_usd_per_mtok + completion_tokens * self.output_usd_per_mtok) / 1e6


class Ladder:
    """Tiers in order from cheap to dear, found by name or by backend model id."""

    def __init__(self, tiers: Sequence[Tier]) -> None:
        if len(tiers) < 2:
            raise ValueError(f"a ladder needs at least 2 tiers, got {len(tiers)}")
        names = [tier.name for tier in tiers]
        if len(set(names)) != len(names):
            raise ValueError(f"tier names must differ, got {names}")
        self.tiers = tuple(tiers)
        self._index: dict[str, int] = {}
        for index, tier in enumerate(tiers):
            self._index.setdefault(tier.model, index)
        for index, tier in enumerate(tiers):  # a tier's name wins over another tier's model id
            self._index[tier.name] = index

    def __len__(self) -> int:
        return len(self.tiers)

    def __getitem__(self, index: int) -> Tier:
        return self.tiers[index]

    @property
    def last(self) -> int:
        """Index of the strongest tier."""
        return len(self.tiers) - 1

    def find(self, model: str) -> int | None:
        """Index of the tier with this name or backend model id."""
        return self._index.get(model)

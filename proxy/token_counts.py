"""How many tokens a prompt has for a tier: counted by its tokenizer, else bounded by what it counted before.

The bound is bytes over bytes-per-token, and that ratio is the 5 % quantile of the last 256 answers' own usage
numbers, so it errs towards the larger window on this traffic, whatever its language. Before the first 20 it
is 3 bytes, fewer than any common tokenizer averages on English. A count costs a millisecond for 4,000 tokens,
the bound nothing; the tokenizer adds no chat template, which `MESSAGE_TOKENS` stands for.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from tokenizers import Tokenizer

from routing.errors import SettingsError
from routing.tier import Ladder, Tier

MESSAGE_TOKENS = 4  # what a chat template adds around a message
_FIRST_BYTES_PER_TOKEN = 3.0
_KEPT = 256
_ENOUGH = 20
_REFRESH_EVERY = 16
_LOW_QUANTILE = 0.05


class TokenCount:
    """One tier's. Raises `SettingsError` for a tokenizer that cannot be read."""

    def __init__(self, tier: Tier) -> None:
        self._tokenizer = _open(tier) if tier.tokenizer else None
        self._ratios: deque[float] = deque(maxlen=_KEPT)
        self._seen = 0
        self.low, self.middle = _FIRST_BYTES_PER_TOKEN, 4.0  # bytes per token: a bound, and what is usual

    def at_most(self, prompt: str, messages: int) -> int:
        """Prompt tokens: counted, or from above."""
        template = MESSAGE_TOKENS * max(1, messages)
        if self._tokenizer is not None:
            return len(self._tokenizer.encode(prompt, add_special_tokens=False).ids) + template
        return int(len(prompt.encode("utf-8", "surrogatepass")) / self.low) + template

    def about(self, prompt_bytes: int) -> int:
        """Prompt tokens of a call whose usage will never be known."""
        return round(prompt_bytes / self.middle)

    def learn(self, prompt_bytes: int, prompt_tokens: int) -> None:
        """What a backend counted. Prompts of a few words say more of the template than of the text."""
        if prompt_tokens < 8 or not prompt_bytes:
            return
        self._ratios.append(prompt_bytes / prompt_tokens)
        self._seen += 1
        if self._seen == _ENOUGH or (self._seen > _ENOUGH and self._seen % _REFRESH_EVERY == 0):
            ordered = sorted(self._ratios)
            self.low = ordered[int(_LOW_QUANTILE * len(ordered))]
            self.middle = ordered[len(ordered) // 2]


def token_counts(ladder: Ladder) -> list[TokenCount]:
    """One for each tier. Raises `SettingsError`."""
    return [TokenCount(tier) for tier in ladder.tiers]


def _open(tier: Tier) -> Tokenizer:
    path = Path(tier.tokenizer)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise SettingsError(f"tiers: {tier.name}: tokenizer {str(path)!r} cannot be read: {error}") from error

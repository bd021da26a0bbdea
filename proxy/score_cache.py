"""What was scored before, by hash of its text: clients repeat prompts (retries, templates, health checks).

A look-up costs a microsecond against milliseconds of an encoder. The text itself is not kept.
"""

from __future__ import annotations

from collections import OrderedDict

from scorers.text import text_key

# Calibrated route score and difficulty; unlike the fitted prompts; unlike those with answers.
PromptPair = tuple[float, float | None, bool, bool]


class ScoreCache:
    """The scores of the `most` prompts used last."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, PromptPair] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @staticmethod
    def key_of(text: str, difficulty: bool = True) -> bytes:
        """What stands here for a text whose difficulty was, or was not, scored too."""
        return text_key(text) + (b"d" if difficulty else b"")

    def find(self, key: bytes) -> PromptPair | None:
        """The scores kept under a key."""
        pair = self._kept.get(key)
        if pair is not None:
            self._kept.move_to_end(key)
        return pair

    def keep(self, key: bytes, pair: PromptPair) -> None:
        """Remember; the one not used for longest is forgotten when there are too many."""
        self._kept[key] = pair
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

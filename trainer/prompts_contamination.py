"""Contamination: prompts to learn from that give away prompts to be tested on.

Word 8-grams, lower case. A prompt is contaminated by a held-out one when they share at least half of the
8-grams of either. An 8-gram that stands in more than ten held-out prompts is a template ("answer with the
letter of the right choice") and tells nothing. Prompts of fewer than 8 words are compared whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

GRAM_WORDS = 8
MIN_SHARE = 0.5
TEMPLATE_PROMPTS = 10
_WORD = re.compile(r"\w+")


def find_contaminated(
    texts: Sequence[str], held_out: Sequence[str], min_share: float = MIN_SHARE
) -> dict[int, int]:
    """Number of each contaminated text -> number of the held-out one it shares most with."""
    holders: dict[str, list[int]] = {}
    sizes: list[int] = []
    for number, text in enumerate(held_out):
        grams = word_grams(text)
        sizes.append(len(grams))
        for gram in grams:
            holders.setdefault(gram, []).append(number)
    found: dict[int, int] = {}
    for number, text in enumerate(texts):
        grams = word_grams(text)
        telling = [
            holders[gram] for gram in grams if len(holders.get(gram, ())) in range(1, TEMPLATE_PROMPTS + 1)
        ]
        shared = Counter(other for others in telling for other in others)
        for other, count in shared.most_common(1):
            if count >= min_share * min(len(grams), sizes[other]):
                found[number] = other
    return found


def word_grams(text: str) -> set[str]:
    """The distinct 8-grams of a text; of a shorter one, all of it."""
    words = _WORD.findall(text.lower())
    last = max(1, len(words) - GRAM_WORDS + 1)
    return {" ".join(words[start : start + GRAM_WORDS]) for start in range(last)}

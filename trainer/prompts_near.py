"""Near duplicates: prompts that are the same but for a word, a typo or a full stop.

Jaccard similarity of the sets of 5-character shingles (lower case, whitespace as one space), at least 0.9.
Candidates come from MinHash signatures of 128 values in 16 bands of 8 (Broder, 1997; banding as in Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4), which finds a pair at 0.9 with probability
.9999, and are then compared exactly. Two prompts whose numbers differ are never the same: "What is 12 + 7?"
and "What is 12 + 9?" have different answers. 100,000 prompts of 500 characters take about half a minute.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from scorers.text import normalise_whitespace

THRESHOLD = 0.9
SHINGLE_CHARS = 5
MAX_CHARS = 20_000  # of a prompt that is looked at
_BANDS, _ROWS = 16, 8
_DIGITS = re.compile(r"\d+")
_SEED = 20_240_611  # of the hash functions; another one finds the same pairs


def find_near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD) -> dict[int, int]:
    """Which texts repeat an earlier one: number of the later -> number of the earlier, which is kept."""
    random = np.random.default_rng(_SEED)
    multiply = random.integers(1, 2**63, _BANDS * _ROWS, dtype=np.uint64) * 2 + 1
    add = random.integers(0, 2**63, _BANDS * _ROWS, dtype=np.uint64)
    buckets: dict[tuple[int, bytes], list[int]] = {}
    repeats: dict[int, int] = {}
    for number, text in enumerate(texts):
        shingles = shingle_hashes(text)
        signature = (shingles[:, None] * multiply + add).min(axis=0)  # (S, 128) -> (128,), modulo 2^64
        keys = [(band, signature[band * _ROWS : (band + 1) * _ROWS].tobytes()) for band in range(_BANDS)]
        candidates = sorted({other for key in keys for other in buckets.get(key, ())})
        earlier = _first_near(text, shingles, candidates, texts, threshold)
        if earlier is not None:
            repeats[number] = earlier
            continue
        for key in keys:
            buckets.setdefault(key, []).append(number)
    return repeats


def _first_near(
    text: str, shingles: np.ndarray, candidates: Sequence[int], texts: Sequence[str], threshold: float
) -> int | None:
    numbers = _DIGITS.findall(text)
    for other in candidates:
        if _DIGITS.findall(texts[other]) != numbers:
            continue
        if jaccard(shingles, shingle_hashes(texts[other])) >= threshold:
            return other
    return None


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sets given as sorted distinct hashes."""
    both = np.intersect1d(a, b, assume_unique=True).size
    return both / (a.size + b.size - both)


def shingle_hashes(text: str) -> np.ndarray:
    """Hashes of the distinct 5-character windows, sorted, (S,) uint64 with S >= 1."""
    normal = normalise_whitespace(text[:MAX_CHARS]).lower().ljust(SHINGLE_CHARS)
    points = np.frombuffer(normal.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    hashed = np.zeros(points.size - SHINGLE_CHARS + 1, dtype=np.uint64)
    for offset in range(SHINGLE_CHARS):
        hashed = hashed * np.uint64(0x100000001B3) + points[offset : offset + hashed.size]
    # splitmix64's finish (Steele, Lea, Flood, 2014): neighbouring windows must not have neighbouring hashes
    hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.unique(hashed ^ (hashed >> np.uint64(31)))

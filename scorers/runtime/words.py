"""The linear reading of a prompt's words that a factorisation of thousands of prompts has beside its probes.

    log-odds = (1 - share) * those of the vectors + share * those of the words

One reading serves the factorisation and the difficulty classifier, each with its own share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scorers.ngrams import COLUMNS, read_ngrams
from scorers.runtime.heads import ScorerFile

PREFIX = "ngrams."
SHARE = f"{PREFIX}share"


@dataclass(frozen=True, slots=True)
class WordReading:
    """`idf` (COLUMNS,), `weight` (tiers, COLUMNS), `bias` (tiers,); its `share` of the factorisation's
    log-odds."""

    idf: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    share: float

    @classmethod
    def read(cls, file: ScorerFile, tiers: int) -> WordReading | None:
        """From a factorisation's file; None where it has none. Raises `ScorerFileError`."""
        if SHARE not in file.head:
            return None
        return cls(
            idf=file.tensor(f"{PREFIX}idf", COLUMNS),
            weight=file.tensor(f"{PREFIX}weight", tiers, COLUMNS),
            bias=file.tensor(f"{PREFIX}bias", tiers),
            share=float(file.tensor(SHARE, 1)[0]),
        )

    def blend(self, logits: np.ndarray, prompts: Sequence[str], share: float | None = None) -> np.ndarray:
        """The log-odds (N, tiers) of vectors with those of the N prompts' words; `share` None: its own."""
        own = self.share if share is None else share
        return (1.0 - own) * logits + own * read_ngrams(prompts, self.idf, self.weight, self.bias)

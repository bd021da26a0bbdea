"""The linear reading of a prompt's words that a factorisation of thousands of prompts has beside its probes.

    log-odds = (1 - share) * those of the vectors + share * those of the words

One reading serves the factorisation and the difficulty classifier, each with its own share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scorers.errors import ScorerFileError
from scorers.ngrams import COLUMNS, read_ngrams

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
    def read(cls, tensors: Mapping[str, np.ndarray], tiers: int) -> WordReading | None:
        """From a factorisation's tensors; None where it has none. Raises `ScorerFileError`."""
        if SHARE not in tensors:
            return None
        wanted = {"idf": (COLUMNS,), "weight": (tiers, COLUMNS), "bias": (tiers,), "share": (1,)}
        found = {name: tensors.get(f"{PREFIX}{name}") for name in wanted}
        for name, shape in wanted.items():
            value = found[name]
            if value is None or value.shape != shape:
                got = "is missing" if value is None else f"has shape {value.shape}"
                raise ScorerFileError(f"mf: tensor {PREFIX + name!r} {got}, {shape} was expected")
        idf, weight, bias, share = (np.asarray(found[name], dtype=np.float32) for name in wanted)
        return cls(idf, weight, bias, float(share[0]))

    def blend(self, logits: np.ndarray, prompts: Sequence[str], share: float | None = None) -> np.ndarray:
        """The log-odds (N, tiers) of vectors with those of the N prompts' words; `share` None: its own."""
        own = self.share if share is None else share
        return (1.0 - own) * logits + own * read_ngrams(prompts, self.idf, self.weight, self.bias)

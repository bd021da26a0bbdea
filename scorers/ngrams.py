"""Words of a prompt as hashed counts: what a sentence vector forgets and a bag of words keeps.

A mean of hidden states says what a question is about; which words, names, digits and signs stand in it is
mostly gone, and some of its difficulty is there. Words and pairs of neighbouring words, single digits and
punctuation among them, are hashed into 32,768 columns (crc32: the same on every machine); a text is a set of
columns, each with its own weight, scaled to unit length. A linear reading of them errs differently from one
of vectors, so the two together rank better than either (see trainer/LOG.md).

Pure standard library and numpy; about 0.2 ms a prompt of a hundred words. Training and serving call the same
code.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

BITS = 15
COLUMNS = 1 << BITS
_MAX_CHARS = 20_000  # the head and the tail of a longer text; a bound on time, not on meaning
_TOKEN = re.compile(r"[a-z]+|\d|[^\sa-z\d]")


def ngram_columns(text: str) -> np.ndarray:
    """The columns of a text, sorted and each once, shape (n,), int64."""
    if len(text) > _MAX_CHARS:
        text = text[: _MAX_CHARS // 2] + text[-_MAX_CHARS // 2 :]
    tokens = _TOKEN.findall(text.lower())
    grams = {*tokens, *map(" ".join, pairwise(tokens))}
    found = {zlib.crc32(gram.encode("utf-8", "replace")) & (COLUMNS - 1) for gram in grams}
    return np.array(sorted(found), dtype=np.int64)


def read_ngrams(texts: Sequence[str], idf: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Log-odds (N, outputs) of a linear reading: `idf` (COLUMNS,), `weight` (outputs, COLUMNS), `bias`
    (outputs,)."""
    out = np.empty((len(texts), len(bias)))
    for row, text in enumerate(texts):
        columns = ngram_columns(text)
        values = idf[columns]
        length = float(np.sqrt(values @ values))
        out[row] = bias + weight[:, columns] @ values / max(length, 1e-9)
    return out

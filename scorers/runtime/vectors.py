"""Vectors of texts, kept by hash of the text: an encoder's pass costs milliseconds, a look-up microseconds.

Several threads use one cache: the prompts' and the answers' scorers run beside each other.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from scorers.text import text_key

Embed = Callable[[Sequence[str]], np.ndarray]


class VectorCache:
    """The vectors of the `most` texts used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def fill(self, texts: Sequence[str], embed: Embed) -> np.ndarray:
        """Vectors of `texts` (N, d) in order; `embed` is asked once for each that is not kept."""
        keys = [text_key(text) for text in texts]
        with self._lock:
            found = {key: self._kept[key] for key in keys if key in self._kept}
            for key in found:
                self._kept.move_to_end(key)
        if len(found) < len(set(keys)) or not texts:
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
            fresh = embed(list(missing.values()))
            if len(missing) == len(texts):  # all of them, in order: nothing to put together
                self._keep(dict(zip(missing, fresh, strict=True)))
                return fresh
            new = dict(zip(missing, fresh, strict=True))
            self._keep(new)
            found |= new
        return np.stack([found[key] for key in keys])

    def _keep(self, vectors: dict[bytes, np.ndarray]) -> None:
        with self._lock:
            for key, vector in vectors.items():
                self._kept[key] = vector.copy()  # a row alone, not a view that holds its whole batch
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

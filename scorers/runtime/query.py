"""Query vectors: what a prompt is to the linear heads, put together from up to three parts.

    last       the encoder's own vector: the unit-length mean of its last hidden states
    middle     the same of its middle layer (local encoders only)
    features   `scorers/prompt_features.py`

The last layer of a sentence encoder is trained to tell topics apart; the middle layer still knows the
words, the numbers and the form, and a linear probe on it ranks difficulty better (MMLU: .689 APGR against
.663 with the last layer, both with features). It costs nothing: the forward pass has it on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scorers.embedders import Embedder
from scorers.errors import ScorerFileError
from scorers.prompt_features import N_PROMPT_FEATURES, features_of_prompts
from scorers.runtime.session import EncoderSession

PARTS = ("last", "middle", "features")
LOCAL_PARTS, REMOTE_PARTS = PARTS, ("last", "features")


@dataclass(frozen=True, slots=True)
class SessionEmbedder:
    """Vectors from a local session: (N, d), or (N, 2 d) with the middle layer's behind the last's."""

    session: EncoderSession
    middle: bool = False

    @property
    def dimension(self) -> int:
        return self.session.folder.dimension * (2 if self.middle else 1)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = self.session.embed_layers(texts)  # the middle layer costs nothing, and one cache serves all
        return vectors if self.middle else vectors[:, : self.dimension]


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """Prompts to query vectors (N, dimension): the embedder's vectors and, where asked, the features."""

    embedder: Embedder
    parts: tuple[str, ...] = ("last",)

    @property
    def dimension(self) -> int:
        return self.embedder.dimension + (N_PROMPT_FEATURES if "features" in self.parts else 0)

    @property
    def encoder_dimension(self) -> int:
        """d, the width of one layer's vector; of a remote encoder known once it has embedded something."""
        return self.embedder.dimension // (2 if "middle" in self.parts else 1)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.join(self.embedder.embed(texts), texts)

    def join(self, vectors: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """The embedder's vectors of these texts (N, d) with the other parts behind them."""
        if "features" not in self.parts:
            return vectors
        return np.concatenate([vectors, features_of_prompts(texts)], axis=1)


def check_parts(parts: Sequence[str], remote: bool = False) -> tuple[str, ...]:
    """The parts as a tuple in their order. Raises `ScorerFileError` naming one that is unknown or not to be
    had."""
    allowed = REMOTE_PARTS if remote else LOCAL_PARTS
    wrong = [part for part in parts if part not in allowed]
    if wrong or "last" not in parts:
        raise ScorerFileError(
            f"query vector parts {list(parts)}: {wrong[0] if wrong else 'last'!r} is "
            f"{'unknown' if wrong else 'missing'}; there are: {', '.join(allowed)} (last always)"
        )
    return tuple(part for part in PARTS if part in parts)

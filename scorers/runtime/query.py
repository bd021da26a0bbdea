"""Query vectors: what a prompt is to the linear heads, put together from up to three parts.

    last       the encoder's own vector: the unit-length mean of its last hidden states
    middle     the same of its middle layer (local encoders only)
    features   `scorers/prompt_features.py`

The last layer of a sentence encoder is trained to tell topics apart; the middle layer still knows the
words, the numbers and the form, and a linear probe on it ranks difficulty better (MMLU: .690 APGR against
.671 with the last layer, both with features; both layers together .688). So `fit` takes the middle layer, and
a prompt is routed at half of the encoder's price: the upper layers are never run.
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
LAYERS = PARTS[:2]
FITTED_PARTS, REMOTE_PARTS = ("middle", "features"), ("last", "features")


@dataclass(frozen=True, slots=True)
class SessionEmbedder:
    """The vectors of these layers from a local session, side by side: (N, d) or (N, 2 d)."""

    session: EncoderSession
    layers: tuple[str, ...] = ("last",)

    @property
    def dimension(self) -> int:
        return self.session.folder.dimension * len(self.layers)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        if self.layers == ("middle",):
            return self.session.embed_middle(texts)
        return self.session.embed_layers(texts)[:, : self.dimension]  # one cache serves both


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """Prompts to query vectors (N, dimension): the embedder's vectors and, where asked, the features."""

    embedder: Embedder
    parts: tuple[str, ...] = ("last",)

    @property
    def layers(self) -> tuple[str, ...]:
        return layers_of(self.parts)

    @property
    def dimension(self) -> int:
        return self.embedder.dimension + (N_PROMPT_FEATURES if "features" in self.parts else 0)

    @property
    def encoder_dimension(self) -> int:
        """d, the width of one layer's vector; of a remote encoder known once it has embedded something."""
        return self.embedder.dimension // len(self.layers)

    def layer(self, vectors: np.ndarray, name: str) -> np.ndarray:
        """One layer's own columns (N, d) of query vectors, or of the embedder's alone."""
        start = self.layers.index(name) * self.encoder_dimension
        return vectors[:, start : start + self.encoder_dimension]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.join(self.embedder.embed(texts), texts)

    def join(self, vectors: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """The embedder's vectors of these texts (N, d) with the other parts behind them."""
        if "features" not in self.parts:
            return vectors
        return np.concatenate([vectors, features_of_prompts(texts)], axis=1)


def layers_of(parts: Sequence[str]) -> tuple[str, ...]:
    """The encoder layers among the parts of a query vector, in their order."""
    return tuple(layer for layer in LAYERS if layer in parts)


def check_parts(parts: Sequence[str], remote: bool = False) -> tuple[str, ...]:
    """The parts as a tuple in their order. Raises `ScorerFileError` naming one that is unknown or not to be
    had."""
    allowed = REMOTE_PARTS if remote else PARTS
    wrong = [part for part in parts if part not in allowed]
    if wrong or not layers_of(parts):
        told = f"{wrong[0]!r} is unknown" if wrong else "no layer is named"
        raise ScorerFileError(
            f"query vector parts {list(parts)}: {told}; there are: {', '.join(allowed)} (a layer always)"
        )
    return tuple(part for part in PARTS if part in parts)

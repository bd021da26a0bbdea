"""The encoders of a fit: query vectors, cached on disk, and how an encoder is named in a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scorers.embedders import HttpEmbedder, is_remote
from scorers.encoders import EncoderFolder, resolve_encoder
from scorers.runtime.query import FITTED_PARTS, REMOTE_PARTS, QueryVectors, SessionEmbedder
from scorers.runtime.session import EncoderSession, cache_folder
from scorers.text import TEXT_TEMPLATE
from trainer.embeddings import CachedEmbedder
from trainer.progress import Progress

QUERY_TOKENS = 256


class LocalEmbedder:
    """An ONNX session as an embedder of the middle layer, one text at a time.

    In a batch a vector's last digits depend on its neighbours (padding, and the order in which a matrix
    product adds up), so what a killed run had left to embed would show in the bundle. One by one a vector is
    a function of its text alone; on a CPU that costs about as much as batches of 16.
    """

    def __init__(self, folder: EncoderFolder) -> None:
        session = EncoderSession(folder, QUERY_TOKENS, lower_half=True)
        self._embedder = SessionEmbedder(session, ("middle",))
        self.dimension = self._embedder.dimension

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.concatenate([self._embedder.embed([text]) for text in texts])


def open_query(name: str, progress: Progress) -> tuple[QueryVectors, dict[str, Any]]:
    """Query vectors of an encoder's name, the encoder's part cached, and its entry for the manifest."""
    cache = cache_folder() / "embeddings"
    if is_remote(name):
        remote = CachedEmbedder(HttpEmbedder.from_name(name), cache, name, progress)
        return QueryVectors(remote, REMOTE_PARTS), describe_remote(name)
    folder = resolve_encoder(name)
    entry = describe_encoder(folder, QUERY_TOKENS)
    key = f"{entry['sha256']} {entry['max_tokens']} {TEXT_TEMPLATE} middle, one by one"
    return QueryVectors(CachedEmbedder(LocalEmbedder(folder), cache, key, progress), FITTED_PARTS), entry


def describe_remote(name: str) -> dict[str, Any]:
    """A server's entry in the manifest, where an encoder's would stand."""
    return {"name": name, "sha256": "remote", "max_tokens": 0}


def describe_encoder(folder: EncoderFolder, max_tokens: int) -> dict[str, Any]:
    return {
        "name": folder.name,
        "sha256": folder.sha256(),
        "dimension": folder.dimension,
        "max_tokens": min(max_tokens, folder.max_tokens),
    }

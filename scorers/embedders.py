"""Query vectors from a server: OpenAI's embedding models, or any `/v1/embeddings` URL.

    openai:text-embedding-3-large              api.openai.com (OPENAI_BASE_URL), key OPENAI_API_KEY
    http://host:8001/v1#bge-small              any compatible server; key UPSHIFT_EMBEDDINGS_API_KEY

A bundle names its encoder, so a key that happens to be set changes nothing. Vectors come back in the order
asked, normalised to unit length.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from scorers.errors import EncoderError
from scorers.server import MAX_INPUT_CHARS, ScorerServer

_OPENAI_PREFIX = "openai:"


class Embedder(Protocol):
    """Texts -> vectors of one dimension."""

    dimension: int

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, shape (N, dimension), float32. Raises `EncoderError`."""
        ...


def is_remote(name: str) -> bool:
    """Whether an encoder's name means a server and not a folder."""
    return name.startswith((_OPENAI_PREFIX, "http://", "https://"))


class HttpEmbedder:
    """POST /embeddings in batches."""

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None,
        dimension: int = 0,
        batch_rows: int = 64,
        timeout_s: float = 20.0,
        attempts: int = 4,
    ) -> None:
        """`dimension` 0: learnt from the first reply; else a reply of another one is refused."""
        self.model = model
        self.dimension = dimension
        self._batch_rows = batch_rows
        self._server = ScorerServer(base_url, api_key, timeout_s, attempts)

    @property
    def base_url(self) -> str:
        return self._server.base_url

    @classmethod
    def from_name(cls, name: str, dimension: int = 0, **settings: Any) -> HttpEmbedder:
        """`openai:MODEL` or `URL#MODEL`. Raises `EncoderError` on another form or without the key."""
        if name.startswith(_OPENAI_PREFIX):
            key = os.environ.get("OPENAI_API_KEY")
            if not key:
                raise EncoderError(f"encoder {name!r} needs OPENAI_API_KEY, which is not set")
            base = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
            return cls(base, name[len(_OPENAI_PREFIX) :], key, dimension, **settings)
        url, _, model = name.partition("#")
        if not model:
            raise EncoderError(f"encoder {name!r} names no model; expected URL#MODEL, the URL ending in /v1")
        url = url.removesuffix("/").removesuffix("/embeddings")
        return cls(url, model, os.environ.get("UPSHIFT_EMBEDDINGS_API_KEY"), dimension, **settings)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        parts = [
            self._embed_batch(texts[i : i + self._batch_rows]) for i in range(0, len(texts), self._batch_rows)
        ]
        if not parts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors = np.concatenate(parts)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def _embed_batch(self, texts: Sequence[str]) -> np.ndarray:
        inputs = [text[:MAX_INPUT_CHARS] or " " for text in texts]  # an empty input is a 400
        body = {"model": self.model, "input": inputs, "encoding_format": "float"}
        rows = self._parse(self._server.ask("/embeddings", body), len(texts))
        if not self.dimension:
            self.dimension = rows.shape[1]
        if rows.shape[1] != self.dimension:
            raise EncoderError(
                f"{self.model!r} at {self.base_url} gives {rows.shape[1]} dimensions, "
                f"expected {self.dimension}"
            )
        return rows

    def _parse(self, reply: bytes, n: int) -> np.ndarray:
        try:
            data = sorted(json.loads(reply)["data"], key=lambda item: item["index"])
            rows = np.stack([_vector(item["embedding"]) for item in data])
        except (ValueError, KeyError, TypeError) as exc:
            raise EncoderError(f"{self.base_url}/embeddings: not an embeddings reply ({exc})") from exc
        if rows.shape[0] != n or not np.isfinite(rows).all():
            raise EncoderError(f"{self.base_url}/embeddings: {rows.shape[0]} finite vectors for {n} inputs")
        return rows


def _vector(value: list[float] | str) -> np.ndarray:
    if isinstance(value, str):  # some servers send base64 whatever was asked
        return np.frombuffer(base64.b64decode(value), dtype="<f4").astype(np.float32)
    return np.asarray(value, dtype=np.float32)

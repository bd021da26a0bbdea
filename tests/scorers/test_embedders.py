"""Remote query vectors, against a small embeddings server on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from scorers.embedders import HttpEmbedder, is_remote
from scorers.errors import EncoderError
from tests.scorers.json_server import JsonServer, json_server


def vectors_of(body: dict[str, Any]) -> object:
    """Four dimensions, in reverse order with index fields."""
    return {"data": [
        {"index": i, "embedding": [float(len(text)), 1.0, 1.0, 1.0]} for i, text in enumerate(body["input"])
    ][::-1]}  # fmt: skip


@pytest.fixture
def server() -> Iterator[JsonServer]:
    with json_server(vectors_of) as running:
        yield running


def test_batches_come_back_in_order_at_unit_length(server: JsonServer) -> None:
    embedder = HttpEmbedder(server.base_url, "m", "sk-1", batch_rows=2)
    vectors = embedder.embed(["a", "bb", "ccc"])
    assert [len(call["input"]) for call in server.calls] == [2, 1]
    assert server.keys == ["Bearer sk-1"] * 2
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert vectors[0, 0] < vectors[1, 0] < vectors[2, 0]
    assert embedder.dimension == 4


def test_busy_server_is_asked_again(server: JsonServer) -> None:
    server.failures = 1
    assert HttpEmbedder(server.base_url, "m", None).embed(["a"]).shape == (1, 4)
    assert len(server.calls) == 2


def test_refusal_is_told_with_status_and_not_repeated(server: JsonServer) -> None:
    server.failures, server.status = 9, 401
    with pytest.raises(EncoderError, match="answered 401"):
        HttpEmbedder(server.base_url, "m", None).embed(["a"])
    assert len(server.calls) == 1


def test_other_dimension_names_both(server: JsonServer) -> None:
    with pytest.raises(EncoderError, match="gives 4 dimensions, expected 384"):
        HttpEmbedder(server.base_url, "m", None, dimension=384).embed(["a"])


def test_empty_text_is_never_sent(server: JsonServer) -> None:
    HttpEmbedder(server.base_url, "m", None).embed([""])
    assert server.calls[0]["input"] == [" "]


def test_nobody_there_is_an_encoder_error() -> None:
    with pytest.raises(EncoderError, match="cannot be reached"):
        HttpEmbedder("http://127.0.0.1:9/v1", "m", None, attempts=1).embed(["a"])


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert is_remote("openai:text-embedding-3-large")
    assert is_remote("http://host/v1#m")
    assert not is_remote("minilm")
    with pytest.raises(EncoderError, match="needs OPENAI_API_KEY"):
        HttpEmbedder.from_name("openai:text-embedding-3-large")
    with pytest.raises(EncoderError, match="names no model"):
        HttpEmbedder.from_name("http://host/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-2")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gateway/v1")
    embedder = HttpEmbedder.from_name("openai:text-embedding-3-large")
    assert (embedder.base_url, embedder.model) == ("http://gateway/v1", "text-embedding-3-large")
    assert HttpEmbedder.from_name("http://host/v1/embeddings#bge").base_url == "http://host/v1"

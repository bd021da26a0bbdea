"""Remote query vectors, against a small embeddings server on a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from scorers.embedders import HttpEmbedder, is_remote
from scorers.errors import EncoderError


class EmbeddingServer(ThreadingHTTPServer):
    """Answers in reverse order with index fields; the first `failures` calls get 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.failures = 0
        self.status = 503
        self.dimension = 4
        self.base_url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.calls.append(body)
        self.server.keys.append(self.headers.get("authorization"))
        if self.server.failures > 0:
            self.server.failures -= 1
            return self._reply(self.server.status, {"error": {"message": "later"}})
        data = [
            {"index": i, "embedding": [float(len(text))] + [1.0] * (self.server.dimension - 1)}
            for i, text in enumerate(body["input"])
        ]
        return self._reply(200, {"data": data[::-1]})

    def _reply(self, status: int, value: object) -> None:
        payload = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_batches_come_back_in_order_at_unit_length(server: EmbeddingServer) -> None:
    embedder = HttpEmbedder(server.base_url, "m", "sk-1", batch_rows=2)
    vectors = embedder.embed(["a", "bb", "ccc"])
    assert [len(call["input"]) for call in server.calls] == [2, 1]
    assert server.keys == ["Bearer sk-1"] * 2
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert vectors[0, 0] < vectors[1, 0] < vectors[2, 0]
    assert embedder.dimension == 4


def test_busy_server_is_asked_again(server: EmbeddingServer) -> None:
    server.failures = 1
    assert HttpEmbedder(server.base_url, "m", None).embed(["a"]).shape == (1, 4)
    assert len(server.calls) == 2


def test_refusal_is_told_with_status_and_not_repeated(server: EmbeddingServer) -> None:
    server.failures, server.status = 9, 401
    with pytest.raises(EncoderError, match="answered 401"):
        HttpEmbedder(server.base_url, "m", None).embed(["a"])
    assert len(server.calls) == 1


def test_other_dimension_names_both(server: EmbeddingServer) -> None:
    with pytest.raises(EncoderError, match="gives 4 dimensions, expected 384"):
        HttpEmbedder(server.base_url, "m", None, dimension=384).embed(["a"])


def test_empty_text_is_never_sent(server: EmbeddingServer) -> None:
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

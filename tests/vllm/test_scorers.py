"""Scorers that real vLLM serves: MiniLM behind `/v1/embeddings`, a BERT classifier behind `/classify`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from scorers.answer import RecordedAnswer
from scorers.classifier import HttpClassifier
from scorers.embedders import HttpEmbedder
from scorers.encoders import resolve_encoder
from scorers.runtime.session import EncoderSession
from tests.server_process import ServerProcess
from tests.vllm.conftest import VLLM_READY_TIMEOUT_S
from tests.vllm.environment import ensure_vllm_python
from tests.vllm.process import vllm_process

pytestmark = pytest.mark.long
TEXTS = ["What is two plus two?", "The mitochondrion is the powerhouse of the cell.", "Hm."]


@contextlib.contextmanager
def pooling_server(repository: Path, folder: Path, model: str, log: Path) -> Iterator[ServerProcess]:
    options = ("--runner", "pooling", "--dtype", "float32", "--max-model-len", "256")  # what MiniLM can read
    server = vllm_process(ensure_vllm_python(repository), folder, model, log, options)
    try:
        server.wait_ready("/health", VLLM_READY_TIMEOUT_S)
        yield server
    finally:
        server.stop()


@pytest.fixture
def minilm(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with pooling_server(repository, resolve_encoder("minilm").path, "minilm", tmp_path / "log") as server:
        yield server


@pytest.fixture
def classifier_folder(tmp_path: Path) -> Path:
    """MiniLM's encoder under a head of two classes that nobody trained."""
    encoder, folder = resolve_encoder("minilm").path, tmp_path / "classifier"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    with torch.no_grad():
        model.classifier.weight.normal_(std=2.0)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(encoder / name, folder / name)
    return folder


@pytest.fixture
def judge(repository: Path, classifier_folder: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with pooling_server(repository, classifier_folder, "judge", tmp_path / "log") as server:
        yield server


def test_vectors_are_those_of_the_local_encoder(minilm: ServerProcess) -> None:
    served = HttpEmbedder.from_name(minilm.pair).embed(TEXTS)
    local = EncoderSession(resolve_encoder("minilm"), 256, threads=1).embed_prompts(TEXTS)
    np.testing.assert_allclose((served * local).sum(axis=1), 1.0, atol=1e-3)


def test_chances_are_those_of_the_classifier(judge: ServerProcess, classifier_folder: Path) -> None:
    classifier = HttpClassifier.from_name(judge.pair)
    pairs = [(text, RecordedAnswer(f"Answer {at}.", "stop", None, None)) for at, text in enumerate(TEXTS)]
    served = classifier.adequacy(pairs)
    model = AutoModelForSequenceClassification.from_pretrained(classifier_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifier_folder)
    texts = [f"{prompt}\n\nAssistant: {answer.text}" for prompt, answer in pairs]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = torch.softmax(model(**batch).logits, dim=-1)[:, -1].numpy()
    np.testing.assert_allclose(served, wanted, atol=5e-3)
    assert np.ptp(wanted) > 0.01
    long_answer = RecordedAnswer("It is four. " * 400, "stop", None, None)  # above the model's window
    (cut,) = classifier.adequacy([(TEXTS[0], long_answer)])
    assert 0.0 < cut < 1.0

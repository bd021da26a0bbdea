"""An evaluator behind `/classify`, against a small server on a real socket (and vLLM: `tests/vllm`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from scorers.answer import RecordedAnswer
from scorers.classifier import BATCH_ROWS, HttpClassifier
from scorers.errors import EncoderError
from tests.scorers.json_server import JsonServer, json_server


def chances_of(body: dict[str, Any]) -> object:
    """The longer the text, the better; in reverse order."""
    return {"data": [
        {"index": i, "label": "LABEL_1", "probs": [1 - len(text) / 1000, len(text) / 1000], "num_classes": 2}
        for i, text in enumerate(body["input"])
    ][::-1]}  # fmt: skip


@pytest.fixture
def server() -> Iterator[JsonServer]:
    with json_server(chances_of) as running:
        yield running


def answer(text: str) -> RecordedAnswer:
    return RecordedAnswer(text, "stop", None, None)


def test_the_last_class_is_adequate_and_the_order_is_kept(
    server: JsonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSHIFT_CLASSIFIER_API_KEY", "sk-1")
    classifier = HttpClassifier.from_name(f"{server.base_url}#judge")
    found = classifier.adequacy([("Two?", answer("2")), ("Two?", answer("It is 2."))])
    texts = ["Two?\n\nAssistant: 2", "Two?\n\nAssistant: It is 2."]
    np.testing.assert_allclose(found, [len(text) / 1000 for text in texts])
    assert server.paths == ["/classify"]
    assert server.keys == ["Bearer sk-1"]
    assert server.calls[0] == {
        "model": "judge", "input": texts, "truncate_prompt_tokens": -1, "truncation_side": "left",
    }  # fmt: skip


def test_many_go_in_batches(server: JsonServer) -> None:
    pairs = [("Why?", answer("x" * at)) for at in range(BATCH_ROWS + 3)]
    found = HttpClassifier.from_name(f"{server.origin}#judge").adequacy(pairs)
    assert (np.diff(found) > 0).all()
    assert [len(call["input"]) for call in server.calls] == [BATCH_ROWS, 3]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ({"data": []}, "1 chances in 0..1 were asked for"),
        ({"data": [{"index": 0, "probs": [-4.2, 3.1]}]}, "1 chances in 0..1 were asked for"),
        ({"data": [{"index": 0, "probs": []}]}, "not a classification reply"),
        ({"error": "no"}, "not a classification reply"),
    ],
)
def test_an_odd_reply_is_an_error(reply: object, told: str) -> None:
    with json_server(lambda _: reply) as server, pytest.raises(EncoderError, match=told):
        HttpClassifier.from_name(f"{server.origin}#judge").adequacy([("a", answer("b"))])


@pytest.mark.parametrize("name", ["openai:gpt", "http://host:1", "minilm#x"])
def test_a_name_that_is_no_server_is_refused(name: str) -> None:
    with pytest.raises(EncoderError, match="expected URL#MODEL"):
        HttpClassifier.from_name(name)

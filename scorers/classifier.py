"""An evaluator that is served elsewhere: any text classifier behind vLLM's `/classify`.

    http://host:8001#reward-model              key UPSHIFT_CLASSIFIER_API_KEY

It reads `PROMPT`, an empty line, `Assistant: ANSWER`, as a conversation renders; what is too long loses its
beginning. P(adequate) is the last class's, or the only one's. Whatever its scale, `fit` calibrates it on the
table's labels as it does an evaluator of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from scorers.answer import AnswerLike
from scorers.errors import EncoderError
from scorers.server import MAX_INPUT_CHARS, ScorerServer

BATCH_ROWS = 32


class HttpClassifier:
    """P(adequate) of answers from a server."""

    lengths: tuple[int, ...] = ()  # of beginnings: there are no heads for any

    def __init__(self, server: ScorerServer, model: str) -> None:
        self.server = server
        self.model = model

    @classmethod
    def from_name(cls, name: str, **settings: Any) -> HttpClassifier:
        """`URL#MODEL`, with or without `/v1` or `/classify`. Raises `EncoderError` on another form."""
        url, _, model = name.partition("#")
        if not model or not url.startswith(("http://", "https://")):
            raise EncoderError(f"evaluator {name!r} is served nowhere; expected URL#MODEL")
        base = url.removesuffix("/").removesuffix("/classify").removesuffix("/v1")
        return cls(ScorerServer(base, os.environ.get("UPSHIFT_CLASSIFIER_API_KEY"), **settings), model)

    def adequacy(self, pairs: Sequence[tuple[str, AnswerLike]]) -> np.ndarray:
        """Raw P(adequate) of each answer, (N,), in [0, 1]. Raises `EncoderError`."""
        texts = [f"{prompt}\n\nAssistant: {answer.text}"[-MAX_INPUT_CHARS:] for prompt, answer in pairs]
        parts = [self._classify(texts[at : at + BATCH_ROWS]) for at in range(0, len(texts), BATCH_ROWS)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _classify(self, texts: Sequence[str]) -> np.ndarray:
        body = {
            "model": self.model, "input": list(texts),
            "truncate_prompt_tokens": -1, "truncation_side": "left",
        }  # fmt: skip
        reply = self.server.ask("/classify", body)
        where = f"{self.server.base_url}/classify"
        try:
            data = sorted(json.loads(reply)["data"], key=lambda item: item["index"])
            chances = np.array([float(item["probs"][-1]) for item in data])
        except (ValueError, KeyError, TypeError, IndexError) as exc:
            raise EncoderError(f"{where}: not a classification reply ({exc})") from exc
        if len(chances) != len(texts) or not ((chances >= 0.0) & (chances <= 1.0)).all():
            raise EncoderError(f"{where}: {len(texts)} chances in 0..1 were asked for, it gave {chances}")
        return chances

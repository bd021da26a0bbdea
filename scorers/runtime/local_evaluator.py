"""A bundle's evaluator that runs here: stack, network and the heads that read beginnings.

Without a stack the network judges alone; a network that the stack does not hear is not even opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorers.answer import AnswerLike
from scorers.errors import ScoringFailed
from scorers.features import FEATURE_NAMES, features_of
from scorers.prompt_features import PROMPT_FEATURES, features_of_prompts
from scorers.runtime.evaluator import EvaluatorHead
from scorers.runtime.manifest_entry import check_names, field
from scorers.runtime.mf import sigmoid
from scorers.runtime.prefix_reader import PrefixHeads, PrefixReader
from scorers.runtime.session import EncoderSession
from scorers.runtime.sessions import Sessions, read_entry_file
from scorers.runtime.stack import PREFIX as STACK_PREFIX
from scorers.runtime.stack import AnswerStack

Pair = tuple[str, AnswerLike]


@dataclass(frozen=True, slots=True)
class LocalEvaluator:
    """`network` judges alone without `stack`, and not at all where the stack is deaf to it; `prefixes` reads
    answers that have not ended."""

    network: tuple[EncoderSession, EvaluatorHead] | None
    stack: tuple[EncoderSession, AnswerStack] | None = None
    prefixes: PrefixReader | None = None

    @classmethod
    def open(cls, folder: Path, entry: Mapping[str, Any], sessions: Sessions) -> LocalEvaluator:
        """As the manifest's entry says. Raises `ScorerFileError`, `EncoderError`."""
        check_names(entry, "evaluator", "features", FEATURE_NAMES)
        if entry.get("prompt_features") is not None:  # of a stack
            check_names(entry, "evaluator", "prompt_features", PROMPT_FEATURES)
        file = read_entry_file(folder, entry, "evaluator")

        def network() -> tuple[EncoderSession, EvaluatorHead]:
            tuned = sessions.open_tuned(folder, entry, "evaluator", file)
            return tuned, EvaluatorHead.read(file, tuned.folder.dimension)

        if not any(name.startswith(STACK_PREFIX) for name in file.head):
            return cls(network())
        plain = sessions.open(field(entry, "evaluator", "encoder"), {}, None, lower_half=True)
        stack = AnswerStack.read(file, plain.folder.dimension)
        heads = PrefixHeads.read(file)
        return cls(
            network() if stack.reads_network else None,
            (plain, stack),
            None if heads is None else PrefixReader(plain, stack, heads),
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens at which beginnings have heads of their own, increasing; none without heads."""
        return () if self.prefixes is None else self.prefixes.lengths

    def adequacy(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Raw P(adequate) of each answer, (N,); without a finish reason, of the whole that is to come.

        Raises `ScoringFailed` when a number is not finite.
        """
        features = features_of(pairs)
        begun = np.array([answer.finish_reason is None for _, answer in pairs], dtype=bool)
        if self.prefixes is None or not begun.any():
            logits = self._whole(pairs, features)
        else:
            logits = np.empty(len(pairs))
            logits[begun] = self.prefixes.logits(_chosen(pairs, begun), features[begun])
            if not begun.all():
                logits[~begun] = self._whole(_chosen(pairs, ~begun), features[~begun])
        if not np.isfinite(logits).all():
            raise ScoringFailed("an answer score is not a finite number")
        return sigmoid(logits)

    def _whole(self, pairs: Sequence[Pair], features: np.ndarray) -> np.ndarray:
        """Log-odds by stack and network."""
        if self.stack is None:
            return self._heard(pairs, features)
        session, stack = self.stack
        network = self._heard(pairs, features) if stack.reads_network else np.zeros(len(pairs))
        query = session.embed_middle([prompt for prompt, _ in pairs])
        vectors = session.embed_middle([answer.text for _, answer in pairs])
        asked = features_of_prompts([prompt for prompt, _ in pairs])
        return stack.logits(query, vectors, features, asked, network)

    def _heard(self, pairs: Sequence[Pair], features: np.ndarray) -> np.ndarray:
        """The network's log-odds."""
        assert self.network is not None
        session, head = self.network
        tokens = session.tokenizer.encode_pairs([(prompt, answer.text) for prompt, answer in pairs])
        return head.logits(session.pool(tokens), features)


def _chosen(pairs: Sequence[Pair], mask: np.ndarray) -> list[Pair]:
    return [pair for pair, taken in zip(pairs, mask, strict=True) if taken]

"""Reading the beginning of an answer: what the stack will say of the whole, guessed from what is there.

    logit = w_k . clip((columns - center_k) / scale_k) + b_k        at the last length k that is reached

A stack is fitted on whole answers; asked about a beginning it takes "not finished yet" for a fault. These
heads are fitted to its verdict on the whole instead (`trainer/fit_prefixes.py`), one for each of some
lengths, on features and on what the prompt tells. They read no vector of the answer: a prompt is embedded
once and kept, and a beginning costs features alone, about 1 ms where the stack takes an encoder's run of 30
and more. So a stream can be looked at every few tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from scorers.answer import AnswerLike
from scorers.pieces import count_pieces
from scorers.runtime.heads import ScorerFile
from scorers.runtime.session import EncoderSession
from scorers.runtime.stack import N_COLUMNS, AnswerStack, stack_columns

PREFIX = "prefixes."
HEAD_BOUND = 4.0  # standard deviations of a column; beyond it a column says no more
_KEPT_PROMPTS = 512  # of streams that are being written


@dataclass(frozen=True, slots=True)
class PrefixHeads:
    """K linear readings of C = `N_COLUMNS` columns. `tokens` (K,) increases; `weight`, `center`, `scale`
    (K, C); `bias` (K,)."""

    tokens: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def read(cls, file: ScorerFile) -> PrefixHeads | None:
        """From tensors `prefixes.tokens` and so on; None in a file without them. Raises `ScorerFileError`."""
        if f"{PREFIX}tokens" not in file.head:
            return None
        tokens = file.tensor(f"{PREFIX}tokens", None)
        shape = (len(tokens), N_COLUMNS)
        center, scale, weight = (file.tensor(f"{PREFIX}{n}", *shape) for n in ("center", "scale", "weight"))
        return cls(tokens, center, scale, weight, file.tensor(f"{PREFIX}bias", len(tokens)))

    def tensors(self) -> dict[str, np.ndarray]:
        """What `read` reads, float32."""
        names = ("tokens", "center", "scale", "weight", "bias")
        return {f"{PREFIX}{name}": np.asarray(getattr(self, name), dtype=np.float32) for name in names}

    def logits(self, columns: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Log-odds that the whole will be adequate, (N,), from columns (N, C) at `tokens` (N,) tokens."""
        at = np.maximum(np.searchsorted(self.tokens, tokens, side="right") - 1, 0)
        read = np.clip((columns - self.center[at]) / self.scale[at], -HEAD_BOUND, HEAD_BOUND)
        return np.asarray((read * self.weight[at]).sum(axis=1) + self.bias[at])


class PrefixReader:
    """The heads with the stack's prompt readings. Thread-safe."""

    def __init__(self, session: EncoderSession, stack: AnswerStack, heads: PrefixHeads) -> None:
        self.heads = heads
        self._session = session
        self._stack = stack
        self._told: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = Lock()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens at which there are heads, increasing."""
        return tuple(int(tokens) for tokens in self.heads.tokens)

    def logits(self, pairs: Sequence[tuple[str, AnswerLike]], features: np.ndarray) -> np.ndarray:
        """Log-odds, (N,), of beginnings with their features (N, N_FEATURES)."""
        told = self._prompts([prompt for prompt, _ in pairs])
        tokens = np.array([token_count(answer) for _, answer in pairs])
        return self.heads.logits(stack_columns(features, told), tokens)

    def _prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """What the stack's heads say of each prompt, (N, heads); embedded where it is not kept."""
        with self._lock:
            found = {prompt: self._told[prompt] for prompt in prompts if prompt in self._told}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        if new:
            told = self._session.embed_middle(new) @ self._stack.prompt_weight.T + self._stack.prompt_bias
            found |= dict(zip(new, told, strict=True))
        with self._lock:
            for prompt in dict.fromkeys(prompts):
                self._told[prompt] = found[prompt]
                self._told.move_to_end(prompt)
            while len(self._told) > _KEPT_PROMPTS:
                self._told.popitem(last=False)
        return np.stack([found[prompt] for prompt in prompts])


def token_count(answer: AnswerLike) -> int:
    """Tokens of a beginning: as it was told, by its log-probabilities, else about."""
    if answer.completion_tokens is not None:
        return answer.completion_tokens
    return len(answer.logprobs) if answer.logprobs else count_pieces(answer.text)

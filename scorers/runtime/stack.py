"""Several readings of one answer, summed: what the evaluator's network cannot learn from few labels.

    prompt   three linear heads on the prompt's vector: how long an answer this prompt draws, how often
             models (and models as good as this one) get it right
    trees    boosted trees on the answer's features and those three; fitted on every model's answers
    features a linear reading of the same features, fitted on the weak model's answers alone
    kernel   a kernel machine on vectors and features of prompt and answer (`scorers/runtime/kernel.py`),
             likewise
    network  the fine-tuned encoder's log-odds (`scorers/runtime/evaluator.py`)
    logit = mix . [trees, features, kernel, network] + bias

A vector is the encoder's middle layer's, the mean on the unit sphere: the last layer beside it added nothing
(`trainer/LOG.md`), it costs the other half of the encoder, and a prompt's is the one that it was routed by.
Readings of one model's few hundred labels and of all models' thousands err differently, so
their sum is better than each; the weights come from predictions on prompts that the readings had not seen
(`trainer/fit_stack.py`). A network of weight 0 is not run at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scorers.features import FEATURE_NAMES, N_FEATURES
from scorers.prompt_features import N_PROMPT_FEATURES
from scorers.runtime.heads import ScorerFile
from scorers.runtime.kernel import KernelReading
from scorers.runtime.trees import BoostedTrees

PREFIX = "stack."
PROMPT_HEADS = ("answer_chars_log", "adequate", "adequate_alike")
N_COLUMNS = N_FEATURES + len(PROMPT_HEADS) + 1
READINGS = ("trees", "features", "kernel", "network")
COLUMN_BOUND = 5.0  # standard deviations, for the linear readings
_LENGTH = FEATURE_NAMES.index("answer_chars_log")


@dataclass(frozen=True, slots=True)
class AnswerStack:
    """Tensors of the stack; v is the encoder's dimension, C = `N_COLUMNS`."""

    prompt_weight: np.ndarray  # (3, v)
    prompt_bias: np.ndarray  # (3,)
    trees: BoostedTrees
    center: np.ndarray  # (C,)
    scale: np.ndarray  # (C,)
    feature_weight: np.ndarray  # (C,)
    kernel: KernelReading
    mix: np.ndarray  # (4,)
    bias: float

    @classmethod
    def read(cls, file: ScorerFile, dimension: int) -> AnswerStack:
        heads = len(PROMPT_HEADS)
        return cls(
            prompt_weight=file.tensor(f"{PREFIX}prompt.weight", heads, dimension),
            prompt_bias=file.tensor(f"{PREFIX}prompt.bias", heads),
            trees=BoostedTrees.read(file, f"{PREFIX}trees", N_COLUMNS),
            center=file.tensor(f"{PREFIX}center", N_COLUMNS),
            scale=file.tensor(f"{PREFIX}scale", N_COLUMNS),
            feature_weight=file.tensor(f"{PREFIX}feature.weight", N_COLUMNS),
            kernel=KernelReading.read(file, f"{PREFIX}kernel", 2 * dimension, N_COLUMNS + N_PROMPT_FEATURES),
            mix=file.tensor(f"{PREFIX}mix", len(READINGS)),
            bias=float(file.tensor(f"{PREFIX}bias", 1)[0]),
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """What `read` reads, float32."""
        plain = {
            "prompt.weight": self.prompt_weight,
            "prompt.bias": self.prompt_bias,
            "center": self.center,
            "scale": self.scale,
            "feature.weight": self.feature_weight,
            "mix": self.mix,
            "bias": np.array([self.bias]),
        }
        named = {f"{PREFIX}{name}": np.asarray(array, dtype=np.float32) for name, array in plain.items()}
        return {**named, **self.trees.tensors(f"{PREFIX}trees"), **self.kernel.tensors(f"{PREFIX}kernel")}

    @property
    def reads_network(self) -> bool:
        return bool(self.mix[READINGS.index("network")] != 0.0)

    def readings(
        self, query: np.ndarray, answer: np.ndarray, features: np.ndarray, asked: np.ndarray
    ) -> np.ndarray:
        """All readings but the network's, (N, 3), from vectors of prompt and answer (N, v), features of the
        answer (N, N_FEATURES) and of the prompt (N, N_PROMPT_FEATURES)."""
        columns = stack_columns(features, query @ self.prompt_weight.T + self.prompt_bias)
        bounded = np.clip((columns - self.center) / self.scale, -COLUMN_BOUND, COLUMN_BOUND)
        kernel = self.kernel.read_answers(kernel_inputs(query, answer, columns, asked))
        return np.stack([self.trees.logits(columns), bounded @ self.feature_weight, kernel], axis=1)

    def logits(
        self,
        query: np.ndarray,
        answer: np.ndarray,
        features: np.ndarray,
        asked: np.ndarray,
        network: np.ndarray,
    ) -> np.ndarray:
        """Log-odds of adequate, shape (N,); `network` (N,) is anything where its weight is 0."""
        read = self.readings(query, answer, features, asked)
        return np.asarray(np.concatenate([read, network[:, None]], axis=1) @ self.mix + self.bias)


def stack_columns(features: np.ndarray, told: np.ndarray) -> np.ndarray:
    """(N, N_COLUMNS) from features (N, N_FEATURES) and what the prompt tells (N, 3): both, and how much
    longer than usual for such a prompt the answer is."""
    longer = features[:, _LENGTH] - told[:, 0]
    return np.concatenate([features, told, longer[:, None]], axis=1).astype(np.float32)


def kernel_inputs(
    query: np.ndarray, answer: np.ndarray, columns: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    """(N, D) of the kernel: vectors of prompt and answer, then `stack_columns` and the prompt's features."""
    return np.concatenate([query, answer, columns, asked], axis=1)

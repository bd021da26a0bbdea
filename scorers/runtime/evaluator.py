"""The evaluator's head in numpy: pooled (prompt, answer) and features -> P(adequate).

    text  = gelu(T [ln(mean) ; ln(first)] + t)      (N, h)
    other = gelu(F standardised features + f)       (N, h)
    logit = o . [text ; other] + o0

The two halves meet only in the last layer, so the text cannot hide what the features say and either
half can be read alone. Same numbers as `scorers/torch/evaluator.py`, which trains it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from scorers.features import LOGPROB_BLOCK, N_FEATURES
from scorers.runtime.heads import ScorerFile
from scorers.runtime.mf import sigmoid
from scorers.runtime.session import Pooled

FEATURE_BOUND = 5.0  # standard deviations; beyond it a feature says no more
_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class EvaluatorHead:
    """Tensors of the head; shapes in `read`."""

    center: np.ndarray
    scale: np.ndarray
    text_weight: np.ndarray
    text_bias: np.ndarray
    feature_weight: np.ndarray
    feature_bias: np.ndarray
    out_weight: np.ndarray
    out_bias: np.ndarray

    @classmethod
    def read(cls, file: ScorerFile, dimension: int) -> EvaluatorHead:
        text = file.tensor("text.weight", None, 2 * dimension)
        feature = file.tensor("feature.weight", None, N_FEATURES)
        out = file.tensor("out.weight", None, text.shape[0] + feature.shape[0])
        return cls(
            center=file.tensor("feature.center", N_FEATURES),
            scale=file.tensor("feature.scale", N_FEATURES),
            text_weight=text,
            text_bias=file.tensor("text.bias", text.shape[0]),
            feature_weight=feature,
            feature_bias=file.tensor("feature.bias", feature.shape[0]),
            out_weight=out,
            out_bias=file.tensor("out.bias", out.shape[0]),
        )

    def logits(self, pooled: Pooled, features: np.ndarray) -> np.ndarray:
        """Log-odds of adequate, shape (N,). A 2-class head's log-odds are the difference of its outputs."""
        both = np.concatenate([_layer_norm(pooled.mean), _layer_norm(pooled.first)], axis=1)
        text = _gelu(both @ self.text_weight.T + self.text_bias)
        other = _gelu(
            standardise(features, self.center, self.scale) @ self.feature_weight.T + self.feature_bias
        )
        out = np.concatenate([text, other], axis=1) @ self.out_weight.T + self.out_bias
        return out[:, 0] if out.shape[1] == 1 else out[:, 1] - out[:, 0]

    def adequacy(self, pooled: Pooled, features: np.ndarray) -> np.ndarray:
        """P(adequate), uncalibrated, shape (N,), in (0, 1)."""
        return sigmoid(self.logits(pooled, features))


def standardise(features: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(x - center) / scale within bounds; a missing log-probability block is zero, its indicator aside."""
    values = np.clip((features - center) / scale, -FEATURE_BOUND, FEATURE_BOUND)
    indicator = LOGPROB_BLOCK.start
    missing = features[:, indicator] > 0.5
    values[missing, LOGPROB_BLOCK] = 0.0
    values[:, indicator] = missing
    return values.astype(np.float32)


def _layer_norm(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + _EPSILON)


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + _erf(x / sqrt(2.0)))


def _erf(x: np.ndarray) -> np.ndarray:
    """Abramowitz and Stegun 7.1.26, error below 1.5e-7: numpy has no erf, and scipy is not in the core
    install."""
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return np.sign(x) * (1.0 - series * np.exp(-x * x))

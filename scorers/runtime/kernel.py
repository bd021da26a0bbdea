"""A kernel machine over what is known of a prompt and an answer: few hundred labels, no fine-tuning.

    x       = [prompt's vector, answer's vector, columns, prompt features], centred and scaled by block
    reading = sum_i alpha_i exp(-gamma |x - row_i|^2)

`row_i` are the weak model's answers that it was fitted on. A linear reading adds up what prompt and answer
say; here an answer is judged by those that are like it *to prompts that are like this one*. The scales make
the features (lengths, form) count as much as the vectors do. An answer costs one product with the rows,
under a millisecond for a thousand of them, beside two runs of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scorers.runtime.heads import ScorerFile

FEATURE_BOUND = 20.0  # of a scaled feature: 5 standard deviations at the weight that training gives them


@dataclass(frozen=True, slots=True)
class KernelReading:
    """`center`, `scale` (D,); `rows` (n, D) scaled; `alpha` (n,); n is 0 where the stack does not hear it.

    Of the D columns the last ones, from `vectors` on, are features and are kept within bounds.
    """

    center: np.ndarray
    scale: np.ndarray
    rows: np.ndarray
    alpha: np.ndarray
    gamma: float
    vectors: int

    @classmethod
    def read(cls, file: ScorerFile, prefix: str, vectors: int, features: int) -> KernelReading:
        """From tensors `PREFIX.center` and so on, for this many columns of vectors and of features."""
        columns = vectors + features
        alpha = file.tensor(f"{prefix}.alpha", None)
        return cls(
            center=file.tensor(f"{prefix}.center", columns),
            scale=file.tensor(f"{prefix}.scale", columns),
            rows=file.tensor(f"{prefix}.rows", len(alpha), columns),
            alpha=alpha,
            gamma=float(file.tensor(f"{prefix}.gamma", 1)[0]),
            vectors=vectors,
        )

    def tensors(self, prefix: str) -> dict[str, np.ndarray]:
        """What `read` reads; the rows, by far the largest, in half precision."""
        plain = {"center": self.center, "scale": self.scale, "alpha": self.alpha}
        named = {f"{prefix}.{name}": np.asarray(array, dtype=np.float32) for name, array in plain.items()}
        named[f"{prefix}.gamma"] = np.array([self.gamma], dtype=np.float32)
        named[f"{prefix}.rows"] = np.asarray(self.rows, dtype=np.float16)
        return named

    def silenced(self) -> KernelReading:
        """Without its rows: for a stack that gives it no weight."""
        return KernelReading(self.center, self.scale, self.rows[:0], self.alpha[:0], self.gamma, self.vectors)

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Inputs (N, D) centred, scaled and bounded, float32."""
        return scale_inputs(x, self.center, self.scale, self.vectors)

    def read_answers(self, x: np.ndarray) -> np.ndarray:
        """The reading of inputs (N, D) as they come, shape (N,)."""
        if not len(self.alpha):
            return np.zeros(len(x))
        return np.asarray(similarity(self.scaled(x), self.rows, self.gamma) @ self.alpha)


def scale_inputs(x: np.ndarray, center: np.ndarray, scale: np.ndarray, vectors: int) -> np.ndarray:
    values = ((x - center) * scale).astype(np.float32)
    values[:, vectors:] = np.clip(values[:, vectors:], -FEATURE_BOUND, FEATURE_BOUND)
    return values


def similarity(a: np.ndarray, b: np.ndarray, gamma: float) -> np.ndarray:
    """exp(-gamma |a_i - b_j|^2) of scaled inputs (N, D) and (n, D), shape (N, n), float64."""
    first, second = a.astype(np.float64), b.astype(np.float64)
    distance = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2.0 * first @ second.T
    return np.asarray(np.exp(-gamma * np.maximum(distance, 0.0)))

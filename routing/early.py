"""Judging a stream before its end: at which prefixes to ask, and what their scores say.

A prefix is scored by the evaluator like an answer. The rule turns the score into a margin (below zero: it
would be accepted), and each checkpoint holds two bounds on it: commit at or below the one, abandon at or
above the other, read on between them. The bounds are fitted on answers whose final verdict is known
(`trainer/calibrate_early.py`), so they speak of that verdict and hold for the threshold they were fitted at
only; a rule at another threshold has no bounds and holds its streams to the end.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from routing.errors import PolicyError

EarlyVerdict = Literal["commit", "abandon", "wait"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Bounds on the margin of a prefix of `tokens` tokens; infinite: never."""

    tokens: int
    commit: float = -math.inf
    abandon: float = math.inf

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise PolicyError(f"a checkpoint stands at 1 token or more, not at {self.tokens}")
        if not self.commit < self.abandon:
            raise PolicyError(
                f"checkpoint {self.tokens}: commit ({self.commit}) must lie below abandon ({self.abandon})"
            )


class EarlyRule:
    """The checkpoints of one strategy at one threshold, in order of tokens."""

    def __init__(self, threshold: float, checkpoints: Sequence[Checkpoint]) -> None:
        self.threshold = threshold
        self.checkpoints = tuple(checkpoints)
        self._tokens = [checkpoint.tokens for checkpoint in self.checkpoints]
        if not self.checkpoints or any(b <= a for a, b in zip(self._tokens, self._tokens[1:], strict=False)):
            raise PolicyError(f"checkpoints must be in increasing order of tokens; they are {self._tokens}")

    def fits(self, threshold: float) -> bool:
        """Whether the bounds were fitted at this threshold."""
        return math.isclose(threshold, self.threshold, rel_tol=1e-9, abs_tol=1e-12)

    def reached(self, tokens: int) -> int:
        """Index of the last checkpoint that a prefix of `tokens` has reached, -1 for none."""
        return bisect_right(self._tokens, tokens) - 1

    def decide(self, checkpoint: int, margin: float) -> EarlyVerdict:
        """What the margin of a prefix says at the checkpoint of that index. NaN says nothing."""
        bounds = self.checkpoints[checkpoint]
        if margin <= bounds.commit:
            return "commit"
        return "abandon" if margin >= bounds.abandon else "wait"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for policy.json; a bound that never applies is null."""
        return {
            "threshold": self.threshold,
            "checkpoints": [
                {"tokens": point.tokens, "commit": _finite(point.commit), "abandon": _finite(point.abandon)}
                for point in self.checkpoints
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EarlyRule:
        """Read `to_dict`'s data. Raises `PolicyError`, `KeyError`, `TypeError`, `ValueError`."""
        points = [
            Checkpoint(
                int(point["tokens"]),
                -math.inf if point["commit"] is None else float(point["commit"]),
                math.inf if point["abandon"] is None else float(point["abandon"]),
            )
            for point in data["checkpoints"]
        ]
        return cls(float(data["threshold"]), points)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

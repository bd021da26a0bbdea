"""A non-decreasing piecewise-linear function of one variable, as two lists of numbers.

Every fitted map of the policy (calibration by isotonic fit, expected loss, boundaries of the joint rule) is
such a table, so serving needs one look-up and the bundle needs one JSON shape. Vectors go through `numpy`,
single numbers through `bisect`, which is ten times faster there.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.errors import PolicyError

Floats = NDArray[np.float64]


class Table:
    """y(x), constant outside the knots. `x` is strictly increasing, `y` non-decreasing; both shape (k,)."""

    __slots__ = ("x", "y")

    def __init__(self, x: Sequence[float], y: Sequence[float]) -> None:
        if len(x) != len(y) or not x:
            raise PolicyError(f"a table needs as many y as x, and at least one; it got {len(x)} and {len(y)}")
        if any(not math.isfinite(value) for value in (*x, *y)):
            raise PolicyError("a table holds a value that is not finite")
        if any(b <= a for a, b in pairwise(x)):
            raise PolicyError("the x of a table must increase strictly")
        if any(b < a for a, b in pairwise(y)):
            raise PolicyError("the y of a table must not decrease")
        self.x = tuple(float(value) for value in x)
        self.y = tuple(float(value) for value in y)

    def __call__(self, x: float) -> float:
        """y at one x."""
        right = bisect_right(self.x, x)
        if right == 0:
            return self.y[0]
        if right == len(self.x):
            return self.y[-1]
        x0, x1 = self.x[right - 1], self.x[right]
        y0, y1 = self.y[right - 1], self.y[right]
        return y0 + (y1 - y0) * ((x - x0) / (x1 - x0))

    def apply(self, x: ArrayLike) -> Floats:
        """y at every x, same shape."""
        return np.interp(np.asarray(x, dtype=np.float64), self.x, self.y)

    def first_at_least(self, level: float) -> float:
        """The smallest x with y(x) >= level; -inf if all of them, +inf if none."""
        if self.y[0] >= level:
            return -math.inf
        right = bisect_left(self.y, level)
        if right == len(self.y):
            return math.inf
        x0, x1 = self.x[right - 1], self.x[right]
        y0, y1 = self.y[right - 1], self.y[right]
        return x0 + (x1 - x0) * ((level - y0) / (y1 - y0))

    def to_dict(self) -> dict[str, list[float]]:
        return {"x": list(self.x), "y": list(self.y)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Table:
        return cls(data["x"], data["y"])

"""The joint rule of a cascade: strong at once, weak unchecked, or weak first and judged.

With g1 = E[q_s - q_w | prompt], g2 = E[q_s - q_w | prompt, answer] and the price t = lambda * c_s, the rule
takes the least of

    strong          t
    weak unchecked  t * c_w / c_s + g1
    weak checked    t * (c_w + c_e) / c_s + E[min(g2, t) | g1]

and keeps a checked answer iff g2 < t. E[min(g2, t) | g1] is concave in t with a slope in [0, 1], hence for
one prompt the three actions are best on three successive intervals of t: strong up to `t1`, checked up to
`t2`, unchecked beyond. (One exception is left out on purpose: where weak is sometimes the better one, paying
for both can beat strong at prices near 0, below the interval of strong. Strong is kept there, so that a
higher t never means more strong calls and t = 0 is always-strong.) Both bounds grow with g1. So the whole
rule is two increasing tables t1 and t2 over the prompt's index and one table g2 over the answer's index, and
a prompt with its answer goes to strong iff t <= min(max(t1, g2), t2): one number a row, which makes the
cost-quality curve over all prices a ranking.
Serving inverts the tables once per t and compares floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.cost import Costs
from routing.errors import PolicyError
from routing.table import Floats, Table

HIGHEST_PRICE = (
    64.0  # of the tables' range; prices above 1 matter where weak is not much cheaper: g1 / (1 - c_w/c_s)
)
NEVER = -2.0  # below every price and every gain: "not even at price 0"


@dataclass(frozen=True, slots=True)
class Cuts:
    """A price turned into comparisons: strong iff prompt index >= `strong_from`, else unchecked iff it is
    < `check_from`, else checked and rejected iff answer index >= `reject_from`."""

    strong_from: float
    check_from: float
    reject_from: float


@dataclass(frozen=True, slots=True)
class Weights:
    """Linear index of what is known, before any monotone table.

    prompt part: mf * route_score + difficulty * difficulty_score; answer part, with f = 1 - P(adequate):
    fail * f + fail_mf * f * route_score + fail_difficulty * f * difficulty_score.
    """

    mf: float = 0.0
    difficulty: float = 0.0
    fail: float = 0.0
    fail_mf: float = 0.0
    fail_difficulty: float = 0.0

    def to_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Weights:
        return cls(**{str(name): float(value) for name, value in data.items()})


class JointRule:
    """Fitted tables of the joint rule between one tier and the next.

    `gain` is g1 over the prompt index, `loss` is g2 over the answer index; `prices` (T,) increases from 0 to
    1; `least` (T, J) is E[min(g2, t) | prompt index] at `prices` and at the knots `least_x` (J,) of the
    prompt index. Raises `PolicyError` for shapes that do not fit.
    """

    def __init__(
        self,
        *,
        prompt: Weights,
        gain: Table,
        answer: Weights,
        loss: Table,
        prices: Sequence[float],
        least_x: Sequence[float],
        least: ArrayLike,
        costs: Costs,
    ) -> None:
        self.prompt, self.gain, self.answer, self.loss = prompt, gain, answer, loss
        self.prices = np.asarray(prices, dtype=np.float64)
        self.least_x = tuple(float(x) for x in least_x)
        self.least = np.asarray(least, dtype=np.float64)
        self.costs = costs
        if self.least.shape != (self.prices.size, len(self.least_x)):
            raise PolicyError(
                f"the joint rule has {self.prices.size} prices and {len(self.least_x)} knots, "
                f"so `least` must be {(self.prices.size, len(self.least_x))}; it is {self.least.shape}"
            )
        if not (self.prices[0] == 0.0 and self.prices[-1] == 1.0 and np.all(np.diff(self.prices) > 0)):
            raise PolicyError("the prices of a joint rule must increase from 0 to 1")
        used = (prompt, answer)
        self.prompt_scores = tuple(
            name
            for name in ("mf", "difficulty")
            if any(getattr(w, name) or getattr(w, f"fail_{name}") for w in used)
        )
        self.strong_until, self.check_until = self._boundaries()

    def with_costs(self, costs: Costs) -> JointRule:
        """The same expectations at other costs."""
        return JointRule(
            prompt=self.prompt,
            gain=self.gain,
            answer=self.answer,
            loss=self.loss,
            prices=self.prices.tolist(),
            least_x=self.least_x,
            least=self.least,
            costs=costs,
        )

    def cuts(self, price: float) -> Cuts:
        """The comparisons at price t = lambda * c_s, in [0, `HIGHEST_PRICE`]. t <= 0 is always-strong."""
        if price <= 0.0:
            return Cuts(-math.inf, -math.inf, -math.inf)
        return Cuts(
            self.strong_until.first_at_least(price),
            self.check_until.first_at_least(price),
            self.loss.first_at_least(price),
        )

    def prompt_index(self, route_score: float | None, difficulty: float | None) -> float:
        """Index of a prompt; NaN if a score with weight is missing."""
        weights = self.prompt
        index = 0.0
        if weights.mf:
            index += weights.mf * (math.nan if route_score is None else route_score)
        if weights.difficulty:
            index += weights.difficulty * (math.nan if difficulty is None else difficulty)
        return index

    def answer_index(self, adequate: float, route_score: float | None, difficulty: float | None) -> float:
        """Index of a prompt with its answer; falls with P(adequate). NaN if a weighted score is missing."""
        weights = self.answer
        fail = 1.0 - adequate
        index = weights.fail * fail
        mf = weights.mf + weights.fail_mf * fail
        if mf:
            index += mf * (math.nan if route_score is None else route_score)
        of_difficulty = weights.difficulty + weights.fail_difficulty * fail
        if of_difficulty:
            index += of_difficulty * (math.nan if difficulty is None else difficulty)
        return index

    def prompt_indices(self, mf: Floats | None, difficulty: Floats | None, n: int) -> Floats:
        """`prompt_index` of n prompts; shapes (n,)."""
        return _weighted(np.zeros(n), (self.prompt.mf, mf), (self.prompt.difficulty, difficulty))

    def losses(self, adequate: Floats, mf: Floats | None, difficulty: Floats | None) -> Floats:
        """g2 of n prompts with their answers; shapes (n,)."""
        weights, fail = self.answer, 1.0 - adequate
        index = _weighted(
            weights.fail * fail,
            (weights.mf + weights.fail_mf * fail, mf),
            (weights.difficulty + weights.fail_difficulty * fail, difficulty),
        )
        return self.loss.apply(index)

    def strong_scores(self, adequate: Floats, mf: Floats | None, difficulty: Floats | None) -> Floats:
        """min(max(t1, g2), t2), shape (n,): a row is answered by strong iff the price is at most this."""
        index = self.prompt_indices(mf, difficulty, adequate.size)
        t1, t2 = self.strong_until.apply(index), self.check_until.apply(index)
        return np.minimum(np.maximum(t1, self.losses(adequate, mf, difficulty)), t2)

    def _boundaries(self) -> tuple[Table, Table]:
        """t1 and t2 at the knots of `least_x`, made monotone."""
        gains = self.gain.apply(self.least_x)  # (J,)
        prices = np.append(self.prices, HIGHEST_PRICE)
        least = np.concatenate([self.least, self.least[-1:]])  # g2 <= 1: no price above 1 caps it
        t = prices[:, None]
        strong = np.broadcast_to(t, least.shape)
        unchecked = t * self.costs.weak_ratio + gains
        checked = t * self.costs.checked_ratio + least
        t1 = _last_crossing(prices, np.minimum(unchecked, checked) - strong)
        t2 = _last_crossing(prices, unchecked - np.minimum(checked, strong) - 1e-9)  # a tie: spare the check
        t1 = np.maximum.accumulate(t1)
        t2 = np.maximum(np.maximum.accumulate(t2), t1)
        return Table(self.least_x, t1.tolist()), Table(self.least_x, t2.tolist())

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt.to_dict(),
            "gain": self.gain.to_dict(),
            "answer": self.answer.to_dict(),
            "loss": self.loss.to_dict(),
            "prices": self.prices.tolist(),
            "least_x": list(self.least_x),
            "least": self.least.tolist(),  # exact: thresholds are set between levels that may lie 1e-9 apart
            "costs": self.costs.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JointRule:
        return cls(
            prompt=Weights.from_dict(data["prompt"]),
            gain=Table.from_dict(data["gain"]),
            answer=Weights.from_dict(data["answer"]),
            loss=Table.from_dict(data["loss"]),
            prices=data["prices"],
            least_x=data["least_x"],
            least=data["least"],
            costs=Costs.from_dict(data["costs"]),
        )


def _weighted(start: Floats, *terms: tuple[float | Floats, Floats | None]) -> Floats:
    """start + sum of weight * value; a value that is missing although it has weight is an error."""
    total = start
    for weight, values in terms:
        if np.any(weight):
            if values is None:
                raise PolicyError("the joint rule was fitted with a prompt score that these rows lack")
            total = total + weight * values
    return total


def _last_crossing(prices: Floats, excess: NDArray[np.float64]) -> Floats:
    """Per column, the largest price at which `excess` (T, J) is not negative; `NEVER` if there is none.

    Linear between grid points.
    """
    out = np.full(excess.shape[1], NEVER)
    for column in range(excess.shape[1]):
        rows = np.flatnonzero(excess[:, column] >= 0.0)
        if not rows.size:
            continue
        row = int(rows[-1])
        out[column] = prices[row]
        if row + 1 < prices.size:
            y0, y1 = excess[row, column], excess[row + 1, column]
            out[column] += (prices[row + 1] - prices[row]) * y0 / (y0 - y1)
    return out

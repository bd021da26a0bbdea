"""What a decision costs: three numbers in one unit, money plus the price of a second times seconds.

Only ratios matter to the policy: (weak, check, strong) and ten times that give the same decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from routing.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Costs:
    """Mean cost of a weak answer (c_w), of one check of it (c_e) and of a strong answer (c_s > 0)."""

    weak: float
    check: float
    strong: float

    def __post_init__(self) -> None:
        if not (self.weak >= 0.0 and self.check >= 0.0 and self.strong > 0.0):
            raise PolicyError(
                "costs must be weak >= 0, check >= 0, strong > 0; "
                f"they are weak={self.weak}, check={self.check}, strong={self.strong}"
            )

    @property
    def weak_ratio(self) -> float:
        """c_w / c_s."""
        return self.weak / self.strong

    @property
    def checked_ratio(self) -> float:
        """(c_w + c_e) / c_s."""
        return (self.weak + self.check) / self.strong

    def to_dict(self) -> dict[str, float]:
        return {"weak": self.weak, "check": self.check, "strong": self.strong}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Costs:
        return cls(float(data["weak"]), float(data["check"]), float(data["strong"]))


def priced(money_usd: float, seconds: float, usd_per_second: float) -> float:
    """One cost out of money and time: money + price of a second * seconds."""
    return money_usd + usd_per_second * seconds

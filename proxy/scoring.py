"""What the gateway needs of a bundle: calibrated scores, off the event loop, and the policy over them.

`scorers` computes raw scores, `routing` holds the calibration and the policy; neither knows the other. They
meet here.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Protocol

from proxy.loop.reference import Reference
from proxy.metrics import Metrics
from proxy.plan import Plan
from routing.certificate import Certificate
from routing.curve import CalibrationRows
from routing.policy import Policy
from routing.protocols import Answer
from routing.signals import Signals
from scorers.familiar import Familiar


class Scorers(Protocol):
    """The scorers and the policy of one bundle, swapped as one."""

    policy: Policy
    plan: Plan | None  # the share of strong answers it foresees; None: not known
    familiar: Familiar | None  # what kind of prompts it was fitted on; None: not known
    reference: Reference  # what drift is measured against; empty: nothing to compare with
    valid_until: float  # when its certificate ends, seconds since the epoch; 0: it has none
    certificate: Certificate | None  # what was promised or refused; None: nobody asked
    rows: CalibrationRows | None  # what its curve is drawn from; None: not in the bundle

    async def read_prompt(self, prompt: str, signals: Signals, difficulty: bool = True) -> None:
        """Fill `route_score`, `unfamiliar` and, where asked for, `difficulty`, which is the dearest of them.
        Raises `ScorerError`."""
        ...

    async def score_answers(self, prompt: str, answers: Sequence[Answer]) -> list[float]:
        """P(adequate) of each answer, in [0, 1]. Raises `ScorerError`."""
        ...

    async def warm(self) -> None:
        """Run each scorer once, so that the first request does not pay for it. Raises `ScorerError`."""
        ...

    def attach(self, metrics: Metrics) -> None:
        """Where batches and cache look-ups are counted."""
        ...

    async def close(self) -> None: ...


class NoScorers:
    """Stands where there is no bundle: routed prompts all go to the strong tier, which is always right."""

    plan: Plan | None = None
    familiar: Familiar | None = None
    reference: Reference = MappingProxyType({})
    valid_until = 0.0
    certificate: Certificate | None = None
    rows: CalibrationRows | None = None

    def __init__(self, tiers: int) -> None:
        self.policy = Policy(
            version="none", default="random", thresholds={"random": 0.0}, tiers=tiers, explore_share=0.0
        )

    async def read_prompt(self, prompt: str, signals: Signals, difficulty: bool = True) -> None:
        return

    async def score_answers(self, prompt: str, answers: Sequence[Answer]) -> list[float]:
        return [0.0] * len(answers)

    async def warm(self) -> None:
        return

    def attach(self, metrics: Metrics) -> None:
        return

    async def close(self) -> None:
        return

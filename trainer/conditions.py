"""How a run is carried out, as opposed to what it computes.

Nothing here may change a result: the same data, options and seed give the same bytes whether a run is
watched, interrupted and resumed, or left alone. (The one exception is `deadline_s`, which is only set where
the user asked for a hard stop, and the training log then says so.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from trainer.checkpoint import CheckpointFolder
from trainer.progress import Progress, no_progress

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, slots=True)
class Conditions:
    """`deadline_s` is on time.monotonic's clock (None: no hard stop); `checkpoints` is where training loops
    store what they would need to go on (None: they start over); `accelerator` spreads training over devices
    (None: this process, on the CPU)."""

    progress: Progress = no_progress
    deadline_s: float | None = None
    checkpoints: CheckpointFolder | None = None
    accelerator: Accelerator | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is while it trains: validation batches are brought there."""
        return torch.device("cpu") if self.accelerator is None else self.accelerator.device

    def without_devices(self) -> Conditions:
        """The same, for a loop that is too short to be spread or stored: every process runs all of it."""
        return replace(self, checkpoints=None, accelerator=None)


PLAIN = Conditions()

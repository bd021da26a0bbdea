"""The training loop, written out: one for every scorer.

    forward, loss, loss.backward(), clip, optimizer.step(), scheduler.step(), optimizer.zero_grad()

Validation runs under torch.no_grad() after each part of an epoch; the best state is kept and put back at the
end, and `patience` parts without a gain end the run. AdamW with a linear warm-up and a linear decay to zero
(the schedule of BERT, Devlin et al., 2019, A.2). The result is a function of data and seed; the
only clock is `deadline_s`, a guard that ends a run early and says so in the log.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from trainer.progress import Progress as Progress
from trainer.progress import no_progress as no_progress

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """`head_lr` for what starts from nothing, `encoder_lr` for what is pre-trained or adapts it."""

    max_epochs: int = 3
    head_lr: float = 1e-3
    encoder_lr: float = 5e-4
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    clip_norm: float = 1.0
    checks_per_epoch: int = 1
    patience: int = 3
    seed: int = 0


@dataclass(slots=True)
class TrainingLog:
    """What a run did: goes into the bundle's manifest (no times in it, so equal runs give equal bundles)."""

    steps: int = 0
    epochs: float = 0.0
    losses: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: float = math.inf
    best_step: int = 0
    stopped_by: str = "epochs"

    def to_dict(self) -> dict[str, Any]:
        rounded = {
            "losses": [round(x, 6) for x in self.losses],
            "validation": [round(x, 6) for x in self.validation],
        }
        return {**asdict(self), **rounded, "best": round(self.best, 6)}


class Loader(Protocol[Batch]):
    """A sized iterable of batches: a DataLoader."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


def train(
    model: nn.Module,
    loader: Loader[Batch],
    loss_of: Callable[[Batch], torch.Tensor],
    validate: Callable[[], float],
    settings: LoopSettings,
    stage: str = "train",
    progress: Progress = no_progress,
    deadline_s: float | None = None,
) -> TrainingLog:
    """Train in place and return the log; the model ends in its best validated state.

    `loss_of(batch)` is the forward pass and the loss, a scalar; `validate()` is a number to make small,
    called in eval mode under no_grad; `deadline_s` is on time.monotonic's clock. A
    KeyboardInterrupt passes through.
    """
    torch.manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings))
    total = max(1, settings.max_epochs * len(loader))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(total, settings.warmup_share))
    trained = [p for p in model.parameters() if p.requires_grad]
    log = TrainingLog()
    keeper = _BestState(model, log, validate)
    keeper.check()  # a head that starts from probes may already be the best there is
    every = max(1, math.ceil(len(loader) / settings.checks_per_epoch))
    running = 0.0
    for epoch in range(settings.max_epochs):
        model.train()
        for position, batch in enumerate(loader, start=1):
            loss = loss_of(batch)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, settings.clip_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

            log.steps += 1
            log.epochs = epoch + position / len(loader)
            running += float(loss.detach())
            late = deadline_s is not None and time.monotonic() > deadline_s
            progress(stage, log.steps, total, f"loss {running / (position % every or every):.3f}")
            if position % every == 0 or position == len(loader) or late:
                log.losses.append(running / (position % every or every))
                running = 0.0
                keeper.check()
                model.train()
            if late or keeper.checks_without_gain >= settings.patience:
                log.stopped_by = "deadline" if late else "patience"
                keeper.restore()
                return log
    keeper.restore()
    return log


class _BestState:
    """Validates, and keeps a copy of what trains whenever that was the best so far."""

    def __init__(self, model: nn.Module, log: TrainingLog, validate: Callable[[], float]) -> None:
        self._model, self._log, self._validate = model, log, validate
        self._names = {name for name, p in model.named_parameters() if p.requires_grad}
        self._state: dict[str, torch.Tensor] = {}
        self.checks_without_gain = 0

    def check(self) -> None:
        self._model.eval()
        with torch.no_grad():
            score = self._validate()
        self._log.validation.append(score)
        if score < self._log.best:
            self._log.best, self._log.best_step = score, self._log.steps
            self._state = {
                n: copy.deepcopy(p.detach()) for n, p in self._model.named_parameters() if n in self._names
            }
            self.checks_without_gain = 0
        else:
            self.checks_without_gain += 1

    def restore(self) -> None:
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if name in self._state:
                    parameter.copy_(self._state[name])
        self._model.eval()


def _parameter_groups(model: nn.Module, settings: LoopSettings) -> list[dict[str, Any]]:
    """Encoder and head at their own rates; no decay on biases and norms."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.encoder_lr if is_encoder else settings.head_lr,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (is_encoder, decays), parameters in groups.items()
    ]


def _schedule(total: int, warmup_share: float) -> Callable[[int], float]:
    warmup = max(1, int(total * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (total - step) / max(1, total - warmup))

    return factor


def mean_over(batches: Iterable[tuple[float, int]]) -> float:
    """Mean of (mean, rows) pairs, weighted by rows."""
    total, rows = 0.0, 0
    for value, n in batches:
        total, rows = total + value * n, rows + n
    return total / max(rows, 1)

"""The training loop, written out: one for every scorer.

    forward, loss, loss.backward(), clip, optimizer.step(), scheduler.step(), optimizer.zero_grad()

Validation runs under torch.no_grad() after each part of an epoch; the best state is kept and put back at the
end, and `patience` parts without a gain end the run. AdamW with a linear warm-up and a linear decay to zero
(the schedule of BERT, Devlin et al., 2019, A.2).

The result is a function of data and seed. A killed run that is resumed from its checkpoint ends in the same
bytes as one that was left alone, on the same machine with the same number of threads (a matrix product adds
up in another order with another number of threads, and so ends in other last digits). The only clock is
`deadline_s`, which is set where the user asked for a hard stop; the log then says so.

On several devices `accelerate` prepares model, optimiser, loader and scheduler, and does nothing else: the
loop is the same. Gradients are averaged by the prepared model's own hooks in `loss.backward()`, and in bf16
the prepared model runs under autocast.
"""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from trainer.checkpoint import Checkpoint
from trainer.conditions import PLAIN, Conditions
from trainer.progress import Progress as Progress
from trainer.progress import no_progress as no_progress

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """`head_lr` for what starts from nothing, `encoder_lr` for what is pre-trained or adapts it.

    `layer_decay`: each layer of the encoder trains at this share of the rate of the layer above it (ULMFiT,
    Howard and Ruder, 2018, section 3.2); the top layer at `encoder_lr`.
    """

    max_epochs: int = 3
    head_lr: float = 1e-3
    encoder_lr: float = 5e-4
    layer_decay: float = 1.0
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
    """A sized iterable of batches: a DataLoader. Its batch sampler may have `set_epoch`, and its order must
    depend on that and on torch's generator only."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


def train(
    model: nn.Module,
    loader: Loader[Batch],
    loss_of: Callable[[nn.Module, Batch], torch.Tensor],
    validate: Callable[[], float],
    settings: LoopSettings,
    stage: str = "train",
    conditions: Conditions = PLAIN,
) -> TrainingLog:
    """Train in place and return the log; the model ends in its best validated state.

    `loss_of(model, batch)` is the forward pass and the loss, a scalar (`model` is the one given, or the same
    in `accelerate`'s wrapping); `validate()` is a number to make small, called in eval mode under no_grad.
    A KeyboardInterrupt passes through.
    """
    run = _Run(model, loader, validate, settings, stage, conditions)
    net, optimizer, scheduler = run.net, run.optimizer, run.scheduler
    while run.epoch < settings.max_epochs:
        net.train()
        for batch in run.batches():
            loss = loss_of(net, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(run.trained, settings.clip_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

            if run.note_step(float(loss.detach())):
                run.check()
                net.train()
            if run.stopped:
                return run.finish()
            run.keep()
        run.epoch += 1
    return run.finish()


class _Run:
    """Everything of a run that is not arithmetic: position, log, best state, checkpoint, devices."""

    def __init__(
        self,
        model: nn.Module,
        loader: Any,
        validate: Callable[[], float],
        settings: LoopSettings,
        stage: str,
        conditions: Conditions,
    ) -> None:
        torch.manual_seed(settings.seed)
        self._settings, self._stage, self._conditions = settings, stage, conditions
        self._source = loader  # the loader before it was prepared: it owns the sampler
        self.total = max(1, settings.max_epochs * len(loader))
        self.optimizer: Any = torch.optim.AdamW(_parameter_groups(model, settings))
        schedule = _schedule(self.total, settings.warmup_share)
        self.scheduler: Any = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule)
        self.net, self._loader = model, loader
        if conditions.accelerator is not None:
            self.net, self.optimizer, self._loader, self.scheduler = conditions.accelerator.prepare(
                model, self.optimizer, loader, self.scheduler
            )
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.log = TrainingLog()
        self._keeper = _BestState(model, self.log, validate)
        self._every = max(1, math.ceil(len(self._loader) / settings.checks_per_epoch))
        self.epoch, self._position, self._running = 0, 0, 0.0
        self.stopped = False
        self._epoch_rng = torch.get_rng_state()
        self._checkpoint = self._open_checkpoint()
        if not self._resume():
            self._keeper.check()  # a head that starts from probes may already be the best there is

    def batches(self) -> Iterator[Any]:
        """The rest of this epoch. Order and generator are as if the epoch had not been interrupted."""
        done, now = self._position, torch.get_rng_state()
        sampler = getattr(self._source, "batch_sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.epoch)
        if done:
            torch.set_rng_state(self._epoch_rng)
        else:
            self._epoch_rng = now
        rest = iter(self._loader)
        for _ in range(done):
            next(rest)
        if done:
            torch.set_rng_state(now)
        for number, batch in enumerate(rest, start=done + 1):
            self._position = number
            yield batch
        self._position = 0

    def note_step(self, loss: float) -> bool:
        """Count a step; True when it is time to validate."""
        log, batches = self.log, len(self._loader)
        log.steps += 1
        log.epochs = self.epoch + self._position / batches
        self._running += loss
        deadline_s = self._conditions.deadline_s
        if deadline_s is not None and time.monotonic() > deadline_s:
            log.stopped_by, self.stopped = "deadline", True
        since = self._position % self._every or self._every
        world = getattr(self._conditions.accelerator, "num_processes", 1)
        done = min(self.total, log.steps * world)
        self._conditions.progress(self._stage, done, self.total, f"loss {self._running / since:.3f}")
        return self._position % self._every == 0 or self._position == batches or self.stopped

    def check(self) -> None:
        """Validate, and stop where it has not helped for `patience` times."""
        self.log.losses.append(self._running / (self._position % self._every or self._every))
        self._running = 0.0
        self._keeper.check()
        if not self.stopped and self._keeper.checks_without_gain >= self._settings.patience:
            self.log.stopped_by, self.stopped = "patience", True

    def keep(self) -> None:
        """Write the checkpoint when it is time."""
        if self._checkpoint is not None and self._checkpoint.due():
            self._save()

    def finish(self) -> TrainingLog:
        self._keeper.restore()
        self.stopped = True
        if self._checkpoint is not None:
            self._save()
        return self.log

    def _open_checkpoint(self) -> Checkpoint | None:
        """None too with several processes: their states would have to be of one step. A kill then repeats
        the scorer that was being fitted, and no other."""
        accelerator = self._conditions.accelerator
        if self._conditions.checkpoints is None or (
            accelerator is not None and accelerator.num_processes > 1
        ):
            return None
        return self._conditions.checkpoints.open(self._stage)

    def _save(self) -> None:
        assert self._checkpoint is not None
        self._checkpoint.save(
            {
                "finished": self.stopped,
                "position": [self.epoch, self._position],
                "running": self._running,
                "rng": torch.get_rng_state(),
                "rng_epoch": self._epoch_rng,
                "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "log": asdict(self.log),
                **self._keeper.state(),
            }
        )

    def _resume(self) -> bool:
        """Take up a checkpoint; False where there is none for this model."""
        state = None if self._checkpoint is None else self._checkpoint.load()
        if state is None or not self._keeper.load(state):
            return False
        for name, value in state["log"].items():
            setattr(self.log, name, value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.epoch, self._position = state["position"]
        self._running = state["running"]
        self._epoch_rng = state["rng_epoch"]
        torch.set_rng_state(state["rng"])
        if state["rng_cuda"]:
            torch.cuda.set_rng_state_all(state["rng_cuda"])
        if state["finished"]:
            self.epoch = self._settings.max_epochs
        return True


class _BestState:
    """Validates, and keeps a copy of what trains whenever that was the best so far."""

    def __init__(self, model: nn.Module, log: TrainingLog, validate: Callable[[], float]) -> None:
        self._model, self._log, self._validate = model, log, validate
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._best: dict[str, torch.Tensor] = {}
        self.checks_without_gain = 0

    def check(self) -> None:
        self._model.eval()
        with torch.no_grad():
            score = self._validate()
        self._log.validation.append(score)
        if score < self._log.best:
            self._log.best, self._log.best_step = score, self._log.steps
            self._best = {name: copy.deepcopy(p.detach()) for name, p in self._trained.items()}
            self.checks_without_gain = 0
        else:
            self.checks_without_gain += 1

    def restore(self) -> None:
        self._put(self._best)
        self._model.eval()

    def state(self) -> dict[str, Any]:
        """For a checkpoint: what trains as it is now, as it was at its best, and the count of checks."""
        now = {name: p.detach().clone() for name, p in self._trained.items()}
        return {"now": now, "best": self._best, "checks_without_gain": self.checks_without_gain}

    def load(self, state: dict[str, Any]) -> bool:
        """Take up `state()`; False when it is of another model."""
        now = state["now"]
        if {n: p.shape for n, p in now.items()} != {n: p.shape for n, p in self._trained.items()}:
            return False
        self._put(now)
        device = {name: p.device for name, p in self._trained.items()}
        self._best = {name: value.to(device[name]) for name, value in state["best"].items()}
        self.checks_without_gain = state["checks_without_gain"]
        return True

    def _put(self, values: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self._trained[name].copy_(value)


def _parameter_groups(model: nn.Module, settings: LoopSettings) -> list[dict[str, Any]]:
    """Head and encoder layers at their own rates; no decay on biases and norms."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    top = max((_layer_of(name) for name in trained), default=0)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        rate = settings.head_lr
        if name.startswith("encoder."):
            rate = settings.encoder_lr * settings.layer_decay ** (top - _layer_of(name))
        groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": settings.weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]


def _layer_of(name: str) -> int:
    """The encoder layer a parameter's name belongs to, 0 for none."""
    found = re.search(r"\.layer\.(\d+)\.", name)
    return int(found[1]) if found else 0


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

"""A training loop that is cut off and run again ends in the very bits of one that was left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainer.checkpoint import CheckpointFolder
from trainer.conditions import Conditions
from trainer.dataset import LengthBucketSampler
from trainer.loop import LoopSettings, TrainingLog, train

ROWS = 90
SETTINGS = LoopSettings(max_epochs=4, checks_per_epoch=2, patience=3, head_lr=0.02, seed=5)


class Net(nn.Module):
    """Dropout, so that the generator's state matters at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.GELU(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class Cut(Exception):
    """Stands for a SIGKILL at a step."""


def data() -> TensorDataset:
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 4)).astype(np.float32)
    return TensorDataset(torch.from_numpy(x), torch.from_numpy(x[:, :1] * 2 - 1))


def run(conditions: Conditions) -> tuple[Net, TrainingLog]:
    torch.manual_seed(0)
    model, rows = Net(), data()
    sampler = LengthBucketSampler(list(range(ROWS)), 8, seed=3)
    loader = DataLoader(rows, batch_sampler=sampler)
    checks = DataLoader(rows, batch_size=30)

    def loss_of(net: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        return ((net(batch[0]) - batch[1]) ** 2).mean()

    def validate() -> float:
        return float(np.mean([float(loss_of(model, [t.to(conditions.device) for t in b])) for b in checks]))

    return model, train(model, loader, loss_of, validate, SETTINGS, "fit net", conditions)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().cpu().flatten() for p in model.parameters()])


@pytest.mark.parametrize("cuts", [[1], [7, 12, 13], [11, 12, 24, 30, 36], list(range(1, 48, 3))])
def test_cut_at_any_step_and_resumed_is_the_same_run(tmp_path: Path, cuts: list[int]) -> None:
    whole, log = run(Conditions())
    pending = iter(cuts)

    def resume() -> tuple[Net, TrainingLog] | None:
        at = next(pending, None)

        def cut(stage: str, done: int, total: int, detail: str = "") -> None:
            if done == at:
                raise Cut

        try:
            return run(Conditions(cut, checkpoints=CheckpointFolder(tmp_path, "key", every_s=0.0)))
        except Cut:
            return None

    done = None
    while done is None:
        done = resume()
    assert torch.equal(weights(done[0]), weights(whole))
    assert done[1] == log


def test_a_finished_loop_is_not_run_again(tmp_path: Path) -> None:
    model, log = run(Conditions(checkpoints=CheckpointFolder(tmp_path, "key")))
    seen: list[int] = []
    conditions = Conditions(
        lambda stage, done, total, detail="": seen.append(done), checkpoints=CheckpointFolder(tmp_path, "key")
    )
    again, same = run(conditions)
    assert not seen
    assert torch.equal(weights(again), weights(model))
    assert same == log


def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_none(tmp_path: Path) -> None:
    run(Conditions(checkpoints=CheckpointFolder(tmp_path, "key")))
    (file,) = tmp_path.glob("*.pt")
    assert CheckpointFolder(tmp_path, "key").open("fit net").load() is not None
    assert CheckpointFolder(tmp_path, "other").open("fit net").load() is None
    file.write_bytes(file.read_bytes()[:-100])
    assert CheckpointFolder(tmp_path, "key").open("fit net").load() is None


def test_a_prepared_loop_on_one_cpu_is_the_plain_one() -> None:
    """The real Accelerator, which prepares and does nothing else."""
    plain, log = run(Conditions())
    spread, same = run(Conditions(accelerator=Accelerator(cpu=True)))
    assert torch.equal(weights(spread), weights(plain))
    assert same == log

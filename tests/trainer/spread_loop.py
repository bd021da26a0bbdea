"""One process of a small training run over several: `python -m tests.trainer.spread_loop OUT` under RANK and
WORLD_SIZE. Writes the weights it ended with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.trainer.test_resume_loop import run, weights
from trainer.conditions import Conditions
from trainer.devices import agree, is_first, open_accelerator


def main() -> None:
    torch.set_num_threads(1)
    rank, out = int(os.environ["RANK"]), Path(sys.argv[1])
    accelerator = open_accelerator()
    assert accelerator is not None
    assert accelerator.num_processes == int(os.environ["WORLD_SIZE"])
    conditions = Conditions(accelerator=accelerator)
    assert is_first(conditions) == (rank == 0)
    assert agree(conditions, f"said by {rank}") == "said by 0"
    model, log = run(conditions)
    torch.save({"weights": weights(model), "steps": log.steps, "best": log.best}, out / f"{rank}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main()

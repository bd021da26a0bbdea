"""Two processes that train together over gloo, prepared by the real `accelerate`. About 15 s.

There is no GPU in these tests: bf16 and NCCL take the same path through `Accelerator`, unproved here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainer.kill_stage import ROOT
from tests.trainer.test_resume_loop import run, weights
from trainer.conditions import Conditions
from trainer.devices import agree, is_first, open_accelerator


@pytest.mark.timeout(300)
def test_two_processes_end_in_the_same_weights(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.trainer.spread_loop", str(tmp_path)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["weights"], second["weights"])  # each saw other rows: gradients were averaged
    alone, log = run(Conditions())
    assert not torch.equal(first["weights"], weights(alone))
    assert first["steps"] < log.steps  # half of the batches each
    assert first["best"] < log.validation[0]


def test_one_process_without_gpu_needs_no_accelerator() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert open_accelerator() is None
    assert is_first(Conditions())
    assert agree(Conditions(), 3) == 3

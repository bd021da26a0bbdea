"""Runs a stage's command, kills it with SIGKILL at random moments, and runs it again until it is done.

The moments are drawn over the time that an uninterrupted run took, so they fall anywhere: in imports,
reading, training, between two files. A run that ends before its moment ends the series; kills are counted.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 900.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`kills` that really struck, and what the last, uninterrupted run said on standard error."""

    kills: int
    seconds: float
    stderr: str
    stdout: str = ""
    status: int = 0


def run(module: str, *arguments: object, env: Mapping[str, str] | None = None, status: int = 0) -> Outcome:
    """`python -m module arguments` to its end. Fails unless it exits with `status`."""
    begun = time.monotonic()
    done = subprocess.run(
        _command(module, arguments), env=_environment(env), cwd=ROOT, capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == status, f"exit {done.returncode}: {done.stderr[-2000:]}"
    return Outcome(0, time.monotonic() - begun, done.stderr, done.stdout, done.returncode)


def run_killed(
    module: str,
    *arguments: object,
    kills: int,
    within_s: float,
    seed: int = 0,
    env: Mapping[str, str] | None = None,
) -> Outcome:
    """Kill it up to `kills` times at moments drawn from 0.2 to 1 times `within_s`, then let it end."""
    moments, struck = random.Random(seed), 0
    for _ in range(kills):
        process = subprocess.Popen(
            _command(module, arguments), env=_environment(env), cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(timeout=moments.uniform(0.2, 1.0) * within_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            struck += 1
        assert process.wait() in (0, -signal.SIGKILL)
        if process.returncode == 0:
            break
    last = run(module, *arguments, env=env)
    return Outcome(struck, last.seconds, last.stderr, last.stdout)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its name there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _command(module: str, arguments: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **(env or {}),
    }

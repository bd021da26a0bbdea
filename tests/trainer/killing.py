"""Kills a command with SIGKILL at random moments until it is through, as a machine that fails would."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MEASURED = re.compile(rb', "latency_s": [0-9.e-]+')
WAIT_S = 60.0


def start(module: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_hear_control_c,
    )  # fmt: skip


def _hear_control_c() -> None:
    """A shell's background jobs ignore SIGINT, and so would what tests start when they are one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_through(module: str, arguments: Sequence[str], within_s: float = WAIT_S) -> None:
    child = start(module, arguments)
    try:
        _, told = child.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        child.kill()
        _, told = child.communicate()
        raise AssertionError(f"not through in {within_s:.0f} s\n{told.decode()[-3000:]}") from None
    assert child.returncode == 0, told.decode()


def run_killed(
    module: str, arguments: Sequence[str], kills: int, done: Callable[[], int], total: int, seed: int
) -> int:
    """Start, kill, start again. `done()` counts requests seen so far; each kill comes a random number of
    requests and a random moment later. Returns how many kills hit a running process."""
    dice = random.Random(seed)
    hit = 0
    for _ in range(kills):
        child = start(module, arguments)
        goal = done() + dice.randint(1, max(1, total // kills))
        deadline = time.monotonic() + WAIT_S
        while child.poll() is None and done() < goal and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(dice.uniform(0.0, 0.03))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            hit += 1
        child.communicate()
    run_through(module, arguments)
    return hit


def unmeasured(path: Path) -> bytes:
    """A jsonl table without what a clock put into it."""
    return _MEASURED.sub(b"", path.read_bytes())

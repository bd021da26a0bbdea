"""What recording a graph costs: the evaluator's forward pass with autograd on and off.

    python -m bench.gradients

CPU time: the modes in turn, round after round, on the same batch, median. Memory: each mode in a process of
its own, the growth of its peak resident set over one pass after a warm-up on a single row (Linux). The
figures of `docs/notes/autograd.md` come from here.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from scorers.encoders import DEFAULT_ENCODER, resolve_encoder
from scorers.features import N_FEATURES
from scorers.torch.encoder import TextEncoder
from scorers.torch.evaluator import Evaluator

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autograd on": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
WARM_UP_ROWS = 1
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): the peak becomes what is resident now


def evaluator() -> Evaluator:
    """The evaluator as it is trained: adapters in every layer, so backward needs every activation."""
    model = Evaluator(TextEncoder(resolve_encoder(DEFAULT_ENCODER), tuning="lora"))
    return model.eval()


def batch(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random ids (rows, tokens), a full mask, type ids, and features (rows, N_FEATURES)."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (rows, tokens), generator=generator)
    features = torch.randn(rows, N_FEATURES, generator=generator)
    return ids, torch.ones_like(ids), torch.zeros_like(ids), features


def median_ms(model: Evaluator, rows: int, tokens: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of CPU of a forward pass for each mode."""
    inputs = batch(rows, tokens)
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode, context in MODES.items():
            started = time.process_time()
            with context():
                model(*inputs)
            times[mode].append(1e3 * (time.process_time() - started))
    return {mode: statistics.median(values[1:]) for mode, values in times.items()}


def peak_growth_mib(mode: str, rows: int, tokens: int) -> float:
    """MiB by which the peak resident set of this process grows over one pass."""
    model = evaluator()
    with MODES[mode]():
        model(*batch(WARM_UP_ROWS, tokens))
        CLEAR_REFS.write_text(RESET_PEAK)
        before = _peak_kib()
        out = model(*batch(rows, tokens))  # held: with autograd on, the graph hangs from it
        after = _peak_kib()
    assert len(out) == rows
    return (after - before) / 1024


def _peak_kib() -> int:
    # Not getrusage: its figure begins with the peak of the process that started this one.
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gradients", description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--peak", choices=list(MODES), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.peak:
        print(peak_growth_mib(options.peak, options.rows, options.tokens))
        return 0
    times = median_ms(evaluator(), options.rows, options.tokens, options.rounds)
    print(f"evaluator on {DEFAULT_ENCODER}, {options.rows} rows of {options.tokens} tokens, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    print(f"{'mode':<16}{'CPU ms':>12}{'peak MiB':>12}")
    for mode in MODES:
        command = [sys.executable, "-m", "bench.gradients", "--peak", mode,
                   "--rows", str(options.rows), "--tokens", str(options.tokens)]  # fmt: skip
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{mode:<16}{times[mode]:>12.0f}{peak:>12.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

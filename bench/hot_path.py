"""What a proxied request costs, beside what users would pick instead: `python -m bench hot_path`.

Every figure comes from short slices taken in turns: the null backend itself, then each server, round after
round, so that other work on the machine meets all of them; ratios are of medians over the rounds. CPU time
of the whole process tree is what holds up best on a shared machine; requests a second need a quiet one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.hot_path_print import print_tables
from bench.peers import Peer, find_peers
from bench.processes import BUNDLE, REPOSITORY, pick_port

Figures = dict[str, float]
STEPS: dict[str, list[str]] = {
    "c16": ["--connections", "16"],
    "c1": ["--connections", "1"],
    "c64": ["--connections", "64"],
    "s1": ["--connections", "1", "--stream"],
    "s16": ["--connections", "16", "--stream"],
}
_SHORT = ["--prompt-tokens", "64", "--fresh"]
ROUTED: dict[str, list[str]] = {  # the same prompts with the tier pinned, then routed by MF
    "pinned1": ["--connections", "1", *_SHORT],
    "routed1": ["--connections", "1", *_SHORT],
    "routed16": ["--connections", "16", *_SHORT],
}
_START_S = 120.0


@dataclass
class Running:
    """A started server and what was measured of it."""

    peer: Peer
    process: psutil.Process
    cold_s: float
    slices: dict[str, list[Figures]] = field(default_factory=dict)
    pss_mb: float = 0.0

    def cpu_s(self) -> float:
        """CPU seconds of the whole process tree so far."""
        total = 0.0
        for one in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def memory_mb(self) -> float:
        """Proportional set size of the whole process tree, in MB of 2^20 bytes."""
        total = 0
        for one in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_full_info().pss
        return total / 2**20

    def median(self, step: str, name: str) -> float:
        """Over the rounds; NaN for a step that failed."""
        values = [one[name] for one in self.slices.get(step, ()) if name in one]
        return statistics.median(values) if values else float("nan")


def run_load(peer: Peer, arguments: Sequence[str], seconds: float) -> Figures:
    """One slice of load. Raises `RuntimeError` with the load generator's own words."""
    headers = [part for line in peer.headers for part in ("--header", line)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", "--url", peer.url, "--model", peer.model,
         "--seconds", str(seconds), *headers, *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=seconds + 60, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{peer.name}: {done.stderr[-500:]}")
    figures: Figures = json.loads(done.stdout)
    if figures["failures"]:
        raise RuntimeError(f"{peer.name}: {figures['failures']:.0f} failures: {done.stderr[-300:]}")
    return figures


def measure(running: Running, step: str, arguments: Sequence[str], seconds: float) -> None:
    """One slice, with the CPU it took for each request and each 1,000 chunks."""
    cpu = running.cpu_s()
    figures = run_load(running.peer, arguments, seconds)
    spent_s = running.cpu_s() - cpu  # the warm-up's answers are in it, so they are counted too
    if figures["all_requests"]:
        figures["cpu_us"] = spent_s / figures["all_requests"] * 1e6
    if figures["all_chunks"]:
        figures["cpu_ms_1k"] = spent_s / figures["all_chunks"] * 1e6
    running.slices.setdefault(step, []).append(figures)


@contextlib.contextmanager
def started(peer: Peer, log: Path) -> Iterator[Running]:
    """The server, once it has answered a request. Raises `RuntimeError` when it does not."""
    began = time.monotonic()
    process = subprocess.Popen(
        peer.command, env={**os.environ, **peer.environment}, cwd=REPOSITORY, stdout=log.open("w"),
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        while not _answers(peer):
            if process.poll() is not None or time.monotonic() - began > _START_S:
                raise RuntimeError(f"{peer.name} does not answer:\n{log.read_text(errors='replace')[-600:]}")
            time.sleep(0.05)
        yield Running(peer, psutil.Process(process.pid), time.monotonic() - began)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(peer: Peer) -> bool:
    headers = [part for line in peer.headers for part in ("-H", line)]
    body = json.dumps({"model": peer.model, "messages": [{"role": "user", "content": "hello"}]})
    done = subprocess.run(
        ["curl", "-s", "-o", os.devnull, "-w", "%{http_code}", "-m", "5", peer.url, "-d", body,
         "-H", "content-type: application/json", "-H", "authorization: Bearer sk-bench", *headers],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout == "200"


def measure_half_load(running: Running, seconds: float) -> None:
    """p99 at half of this server's own maximum so far, open loop."""
    most = running.median("c64", "rps")
    if most > 2:
        _try_measure(running, "half", ["--connections", "256", "--rate", f"{most / 2:.1f}"], seconds)


def measure_routed(running: Running, seconds: float) -> None:
    """What routing adds to a prompt never seen before, where this server routes."""
    if running.peer.routed:
        for step, arguments in ROUTED.items():
            model = running.peer.model if step.startswith("pinned") else running.peer.routed
            _try_measure(running, step, ["--model", model, *arguments], seconds)


def main(argv: Sequence[str]) -> int:
    """Exit status 1 when Upshift itself could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench hot_path", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one slice")
    parser.add_argument("--only", default="", help="names of servers, comma-separated; empty: all installed")
    parser.add_argument(
        "--bundle", type=Path, default=BUNDLE, help="what `upshift-bundle` serves (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    with tempfile.TemporaryDirectory(prefix="upshift-bench-") as name, contextlib.ExitStack() as stack:
        folder, port = Path(name), pick_port()
        null = Peer(
            "direct", [sys.executable, "-m", "bench.null_upstream", "--port", str(port)],
            f"http://127.0.0.1:{port}/v1/chat/completions",
        )  # fmt: skip
        servers = [stack.enter_context(started(null, folder / "direct.txt"))]
        wanted = set(options.only.split(",")) if options.only else None
        for peer in find_peers(port, pick_port(), folder, options.bundle):
            if wanted is not None and peer.name not in wanted:
                continue
            try:
                servers.append(stack.enter_context(started(peer, folder / f"{peer.name}.txt")))
            except RuntimeError as error:
                print(f"skipped: {error}", file=sys.stderr)
        for _ in range(options.rounds):
            for step, arguments in STEPS.items():
                for running in servers:
                    _try_measure(running, step, arguments, options.seconds)
            for running in servers:
                measure_half_load(running, options.seconds)
                measure_routed(running, options.seconds)
        for running in servers:
            running.pss_mb = running.memory_mb()
        print_tables(servers)
    return 0 if any(one.peer.name == "upshift" and one.slices.get("c16") for one in servers) else 1


def _try_measure(running: Running, step: str, arguments: Sequence[str], seconds: float) -> None:
    try:
        measure(running, step, arguments, seconds)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"{step}: {error}", file=sys.stderr)

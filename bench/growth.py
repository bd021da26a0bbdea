"""Does a request cost the same whatever goes on beside it, and does the server stay the size it is?

`python -m bench growth [--requests 100000] [--streams 1,10,100,1000]`. CPU seconds of the server's process
tree for one stream of 20 chunks with so many streams open at once, as fast as they come and then 20 ms apart,
where few streams pay for an idle server and for a wake-up a chunk; then its memory (PSS) on the way through
that many plain requests. All end in ratios within one run.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.hot_path import Running, run_load, started
from bench.peers import Peer, find_peers
from bench.processes import pick_port

_SLICE_S = 3.0
_CHUNKS = 20
_INTERVALS_MS = (0.0, 20.0)


def streams_cost(server: Running, counts: Sequence[int], seconds: float) -> list[tuple[int, float, float]]:
    """(streams at once, CPU us a stream, p50 ms) each; counted by chunks, since streams are cut off."""
    rows = []
    for count in counts:
        cpu = server.cpu_s()
        figures = run_load(server.peer, ["--connections", str(count), "--stream"], seconds)
        rows.append(
            (count, (server.cpu_s() - cpu) / figures["all_chunks"] * _CHUNKS * 1e6, figures["p50_ms"])
        )
    return rows


def memory_after(server: Running, requests: int) -> list[tuple[int, float]]:
    """(requests so far, PSS in MB), ten times on the way."""
    rows, done, step = [(0, server.memory_mb())], 0, max(1, requests // 10)
    while done < requests:
        target = done + step
        while done < target:
            done += int(run_load(server.peer, ["--connections", "16"], _SLICE_S)["all_requests"])
        rows.append((done, server.memory_mb()))
    return rows


@contextlib.contextmanager
def served(interval_ms: float) -> Iterator[Running]:
    """Upshift in front of a backend whose streams pause so long before each chunk."""
    with tempfile.TemporaryDirectory(prefix="upshift-bench-") as name:
        folder, port = Path(name), pick_port()
        null = Peer(
            "direct",
            [sys.executable, "-m", "bench.null_upstream", "--port", str(port),
             "--chunks", str(_CHUNKS), "--chunk-interval-ms", str(interval_ms)],
            f"http://127.0.0.1:{port}/v1/chat/completions",
        )  # fmt: skip
        upshift = find_peers(port, pick_port(), folder)[0]
        with started(null, folder / "direct.txt"), started(upshift, folder / "upshift.txt") as server:
            yield server


def main(argv: Sequence[str]) -> int:
    """Prints three tables."""
    parser = argparse.ArgumentParser(prog="python -m bench growth", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--streams", default="1,10,100,1000")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one slice of streams")
    options = parser.parse_args(argv)
    counts = [int(part) for part in options.streams.split(",")]
    for interval_ms in _INTERVALS_MS:
        with served(interval_ms) as server:
            rows = streams_cost(server, counts, options.seconds)
        print(f"| streams, {interval_ms:.0f} ms a chunk | CPU us/stream | beside the first | p50 ms |")
        print("|---|---|---|---|")
        for count, cpu_us, p50_ms in rows:
            print(f"| {count} | {cpu_us:.0f} | {cpu_us / rows[0][1]:.2f}x | {p50_ms:.1f} |")
        print()
    with served(0.0) as server:
        sizes = memory_after(server, options.requests)
    print("| plain requests | PSS MB |\n|---|---|")
    for count, size in sizes:
        print(f"| {count} | {size:.1f} |")
    (early, before), (late, after) = sizes[1], sizes[-1]
    print(f"\ngrown {after / before:.3f}x between {early} and {late} requests")
    return 0

"""The tables of `bench.hot_path`: each figure, and each ratio to Upshift's."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Protocol

_COLUMNS = (
    "server", "requests/s, 16", "CPU us/request", "added p50 ms, 1", "p99 ms, 64", "p99 ms, half load",
    "added first chunk ms", "chunks/s, 16 x 200", "CPU ms/1,000 chunks", "PSS MB", "cold start s",
)  # fmt: skip
_RATIOS = (
    "upshift beside", "requests/s", "CPU/request", "p99, half load", "chunks/s", "CPU/chunk", "PSS",
    "cold start",
)  # fmt: skip


class Measured(Protocol):
    """A server with its figures: `bench.hot_path.Running`."""

    cold_s: float
    pss_mb: float

    @property
    def peer(self) -> Named: ...

    def median(self, step: str, name: str) -> float: ...


class Named(Protocol):
    """Something with a name."""

    @property
    def name(self) -> str: ...


def print_tables(servers: Sequence[Measured]) -> None:
    """Figures of every server, then Upshift beside each of the others."""
    direct = servers[0]
    print(f"\n{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n")
    print(f"| {' | '.join(_COLUMNS)} |")
    print("|" + "---|" * len(_COLUMNS))
    for one in servers:
        added = one.median("c1", "p50_ms") - direct.median("c1", "p50_ms")
        first = one.median("s1", "first50_ms") - direct.median("s1", "first50_ms")
        cells = [
            _number(one.median("c16", "rps"), 0), _number(one.median("c16", "cpu_us"), 0), _number(added, 2),
            _number(one.median("c64", "p99_ms"), 1), _number(one.median("half", "p99_ms"), 1),
            _number(first, 2), _number(one.median("s16", "chunks_s"), 0),
            _number(one.median("s16", "cpu_ms_1k"), 2), _number(one.pss_mb, 0), _number(one.cold_s, 1),
        ]  # fmt: skip
        print(f"| {one.peer.name} | " + " | ".join(cells) + " |")
    for one in servers:
        if not math.isnan(one.median("routed1", "p50_ms")):
            added = one.median("routed1", "p50_ms") - one.median("pinned1", "p50_ms")
            print(
                f"\n{one.peer.name}, 64-token prompts never seen before: routing by MF adds {added:.2f} ms "
                f"(p50, 1 connection); {one.median('routed16', 'rps'):,.0f} prompts/s at 16 connections, "
                f"{one.median('routed16', 'cpu_us') / 1e3:.2f} ms of CPU each"
            )
    ours = next((one for one in servers if one.peer.name == "upshift"), None)
    if ours is None:
        return
    print(f"\n| {' | '.join(_RATIOS)} |")
    print("|" + "---|" * len(_RATIOS))
    for one in servers[1:]:
        if one is not ours:
            ratios = [
                _ratio(ours.median("c16", "rps"), one.median("c16", "rps")),
                _ratio(ours.median("c16", "cpu_us"), one.median("c16", "cpu_us")),
                _ratio(ours.median("half", "p99_ms"), one.median("half", "p99_ms")),
                _ratio(ours.median("s16", "chunks_s"), one.median("s16", "chunks_s")),
                _ratio(ours.median("s16", "cpu_ms_1k"), one.median("s16", "cpu_ms_1k")),
                _ratio(ours.pss_mb, one.pss_mb), _ratio(ours.cold_s, one.cold_s),
            ]  # fmt: skip
            print(f"| {one.peer.name} | " + " | ".join(ratios) + " |")


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def _ratio(ours: float, theirs: float) -> str:
    return "-" if math.isnan(ours) or math.isnan(theirs) or not theirs else f"{ours / theirs:.3g}x"

"""What one worker saw of routed requests, by policy version and operating point, in slices of a
sliding window.

A count is a few additions and bisections after the client has its last byte: about 5 us a routed request, and
nothing for a pinned one. Slices are aligned to the clock, so those of several workers add up, and old ones
fall off the end. Plain data goes to the other workers (`to_dict`), plain data comes from them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.loop.reference import DIFFICULTY, EVALUATOR, LENGTH, ROUTE, STRONG, UNFAMILIAR, Reference
from proxy.record import Record
from routing.protocols import Clock

SLICES = 12  # of a window
_BAD = frozenset({"upstream_error", "timeout", "degraded"})
_STRONG = frozenset({"strong", "escalated"})
_OURS = frozenset({"client_error", "cancelled", "shed"})  # outcomes that say nothing about a policy


@dataclass(slots=True)
class Tally:
    """Sums over some requests of one version; `bins` by signal."""

    requests: int = 0
    answered: int = 0  # of them, with a tier's answer
    strong: int = 0
    bad: int = 0
    cost_usd: float = 0.0
    baseline_usd: float = 0.0
    shadow_usd: float = 0.0
    bins: dict[str, list[int]] = field(default_factory=dict)
    shadows: dict[str, int] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Sum up; histograms of another shape (another version of this program) are left out."""
        self.requests += other.requests
        self.answered += other.answered
        self.strong += other.strong
        self.bad += other.bad
        self.cost_usd += other.cost_usd
        self.baseline_usd += other.baseline_usd
        self.shadow_usd += other.shadow_usd
        for signal, counts in other.bins.items():
            own = self.bins.setdefault(signal, [0] * len(counts))
            if len(own) == len(counts):
                self.bins[signal] = [a + b for a, b in zip(own, counts, strict=True)]
        for outcome, count in other.shadows.items():
            self.shadows[outcome] = self.shadows.get(outcome, 0) + count

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tally:
        """Raises `TypeError`, `AttributeError` for data of another kind."""
        return cls(**{name: value for name, value in data.items() if name in cls.__slots__})


Slices = dict[int, dict[str, Tally]]  # by number of the slice since the epoch, then by `Watched.key`


class LoopCounts:
    """One a worker process; it outlives a reload. `window_s` is of the configuration first seen."""

    def __init__(self, window_s: float, now: Clock = time.time) -> None:
        self.slice_s = window_s / SLICES
        self._now = now
        self._known: dict[str, tuple[str, Reference]] = {}  # by version: counted under what, in which bins
        self.slices: Slices = {}

    def know(self, version: str, key: str, reference: Reference) -> None:
        """From now on a version is counted under `key`, its signals in the bins of `reference`."""
        self._known[version] = key, reference

    def observe(self, record: Record) -> None:
        """Count one finished request that the policy in force, or the one on trial, was free to decide."""
        route = record.route
        if route is None or record.outcome in _OURS:
            return
        version = route.policy_version
        key, reference = self._known.get(version, (version, {}))
        tally = self._tally(key)
        tally.requests += 1
        tally.bad += record.outcome in _BAD
        tally.cost_usd += record.cost_usd
        tally.baseline_usd += record.baseline_usd
        if record.outcome != "ok":
            return
        strong = route.decision in _STRONG
        tally.answered += 1
        tally.strong += strong
        values = {
            ROUTE: route.route_score, DIFFICULTY: route.difficulty, EVALUATOR: route.answer_score,
            LENGTH: record.prompt_chars, STRONG: strong, UNFAMILIAR: record.unfamiliar,
        }  # fmt: skip
        for signal, histogram in reference.items():
            value = values[signal]
            if value is not None:
                counts = tally.bins.get(signal)
                if counts is None:
                    counts = tally.bins[signal] = [0] * len(histogram.shares)
                counts[histogram.bin(value)] += 1

    def shadow(self, version: str, outcome: str, usd: float) -> None:
        """Count one sample."""
        tally = self._tally(self._known[version][0] if version in self._known else version)
        tally.shadows[outcome] = tally.shadows.get(outcome, 0) + 1
        tally.shadow_usd += usd

    def to_dict(self) -> dict[str, Any]:
        """For the other workers."""
        return {
            str(number): {key: tally.to_dict() for key, tally in keys.items()}
            for number, keys in self.slices.items()
        }

    def current(self) -> int:
        """The number of the slice that runs."""
        return int(self._now() // self.slice_s)

    def _tally(self, key: str) -> Tally:
        number = self.current()
        slices = self.slices.get(number)
        if slices is None:
            slices = self.slices[number] = {}
            for old in [key for key in self.slices if key <= number - SLICES]:
                del self.slices[old]
        tally = slices.get(key)
        if tally is None:
            tally = slices[key] = Tally()
        return tally


def sum_slices(workers: Iterable[Mapping[str, Any]], since: int) -> dict[str, Tally]:
    """Everything that `workers` (of `to_dict`) counted from slice `since` on, by key."""
    out: dict[str, Tally] = {}
    for slices in workers:
        for number, keys in slices.items():
            if int(number) >= since:
                for key, data in keys.items():
                    out.setdefault(key, Tally()).add(Tally.from_dict(data))
    return out


def total(tallies: Sequence[Tally]) -> Tally:
    """All of them together; their histograms are not comparable and stay out."""
    out = Tally()
    for tally in tallies:
        out.add(Tally.from_dict({**tally.to_dict(), "bins": {}}))
    return out

"""The server's own metrics read as numbers: the same registry that `/metrics` shows, over all workers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric


class Figures:
    """One reading. Reading all of it costs milliseconds, with many workers tens of them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
        for family in families:
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        return math.fsum(value for _, value in self.samples(name, **labels))

    def by(self, name: str, *keys: str) -> dict[str, int]:
        """Counts by the values of one label or of several, joined by `/`; zeroes are left out."""
        out: dict[str, float] = defaultdict(float)
        for labels, value in self.samples(name):
            out["/".join(labels[key] for key in keys)] += value
        return {key: round(value) for key, value in sorted(out.items()) if value}

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """As PromQL's `histogram_quantile`: linear inside the bucket; None without observations.

        What lies beyond the last bound is told as that bound.
        """
        buckets: dict[float, float] = defaultdict(float)
        for found, value in self.samples(f"{name}_bucket", **labels):
            buckets[float(found["le"])] += value
        bounds = sorted(buckets)
        if not bounds or not buckets[bounds[-1]]:
            return None
        rank = share * buckets[bounds[-1]]
        below, start = 0.0, 0.0
        for bound in bounds:
            if buckets[bound] >= rank:
                if math.isinf(bound):
                    return start
                inside = buckets[bound] - below
                return start + (bound - start) * ((rank - below) / inside if inside else 0.0)
            below, start = buckets[bound], bound
        return start

    def samples(self, name: str, **labels: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """Labels and value of the samples that carry these labels."""
        wanted = labels.items()
        for found, value in self._samples.get(name, ()):
            if wanted <= found.items():
                yield found, value

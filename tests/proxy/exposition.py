"""Reading Prometheus' exposition text in tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Exposition:
    """One scrape."""

    text: str

    def samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                if sample.name == name:
                    yield dict(sample.labels), sample.value

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums by the values of one label."""
        out: dict[str, float] = {}
        for found, value in self.samples(name):
            out[found[label]] = out.get(found[label], 0.0) + value
        return out

    @property
    def families(self) -> dict[str, list[str]]:
        """Metric names as declared (counters without `_total`), with the labels seen."""
        out: dict[str, list[str]] = {}
        for family in text_string_to_metric_families(self.text):
            out[family.name] = sorted({key for sample in family.samples for key in sample.labels} - {"le"})
        return out

    @property
    def series(self) -> int:
        return sum(len(family.samples) for family in text_string_to_metric_families(self.text))

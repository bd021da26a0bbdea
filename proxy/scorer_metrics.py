"""The metrics of scorers: counted where the scorers run, in a server or in the process that workers share."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class ScorerMetrics:
    """One of each a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "upshift_scorer_seconds",
            "One batch of a scorer.",
            ["scorer"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch = Histogram(
            "upshift_scorer_batch_size", "Texts in a batch.", ["scorer"], buckets=_BATCHES, registry=registry
        )
        self.cache = Counter(
            "upshift_cache_requests", "Look-ups in a cache.", ["cache", "result"], registry=registry
        )

    def observe(self, scorer: str, seconds: float, rows: int) -> None:
        """One batch."""
        self.seconds.labels(scorer).observe(seconds)
        self.batch.labels(scorer).observe(rows)

    def looked_up(self, cache: str, hit: bool) -> None:
        """One look-up."""
        self.cache.labels(cache, "hit" if hit else "miss").inc()

"""A real Prometheus in front of a running proxy, asked over its API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.prometheus_process import prometheus_process

_EVERY = "500ms"  # a scrape may take as long; one that is late leaves a gap


@contextmanager
def scraping(origin: str, folder: Path) -> Iterator[Callable[[str], float]]:
    """Yields a function that evaluates an expression to one number, and waits while there is no sample."""
    target = {"targets": [origin.removeprefix("http://")]}
    config = {"global": {"scrape_interval": _EVERY},
              "scrape_configs": [{"job_name": "upshift", "static_configs": [target]}]}  # fmt: skip
    server = prometheus_process(config, folder)
    try:
        server.wait_ready("/-/ready", 60)
        with httpx.Client(base_url=server.origin, timeout=20) as client:

            def evaluate(expression: str) -> float:
                found: list[Any] = []

                def asked() -> bool:
                    answer = client.get("/api/v1/query", params={"query": expression}).json()
                    assert answer["status"] == "success", answer
                    found[:] = answer["data"]["result"]
                    return bool(found)

                until(asked)
                return float(found[0]["value"][1])

            yield evaluate
    finally:
        server.stop()


def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)

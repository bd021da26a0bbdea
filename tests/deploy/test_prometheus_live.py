"""A real Prometheus scrapes a real proxy under traffic; every rule and every panel must give an answer."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import yaml

from tests.prometheus_process import prometheus_process
from tests.server_process import ServerProcess, pick_port
from tests.upstream import Upstream

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]
KEY = "metrics-key-of-the-test"
_WINDOWS = {"$__rate_interval": "20s", "$__range": "60s", "$job": ".*", "$instance": ".*"}


class Listener:
    """A target without metrics that keeps the keys it is sent."""

    def __init__(self) -> None:
        sent = self.sent = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sent.append(self.headers.get("authorization", ""))
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Prometheus:
    """A running server."""

    proxy: str
    client: httpx.Client
    sent: list[str]  # `authorization` of each scrape of the listener

    def query(self, expr: str) -> list[dict[str, Any]]:
        answer = self.client.get("/api/v1/query", params={"query": expr}).json()
        assert answer["status"] == "success", (expr, answer)
        return list(answer["data"]["result"])

    def value(self, expr: str) -> float:
        (found,) = self.query(expr)
        return float(found["value"][1])

    def wait_for(self, expr: str, within_s: float = 60.0) -> None:
        end = time.monotonic() + within_s
        while not self.query(expr):
            assert time.monotonic() < end, f"{expr} stayed empty"
            time.sleep(0.3)


@pytest.fixture(scope="module")
def prometheus(
    repository: Path, deploy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """The shipped configuration at a faster pace, in front of a proxy that has had some traffic."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "key").write_text(KEY)
    shutil.copy(deploy / "prometheus/rules.yml", folder)
    with Upstream("demo-phi") as weak, Upstream("demo-mistral") as strong:
        proxy = start_proxy(repository, folder, weak, strong)
        try:
            proxy.wait_ready("/readyz", 120)
            listener = Listener()
            server = start_prometheus(deploy, folder, [proxy.origin, listener.origin])
            try:
                server.wait_ready("/-/ready", 60)
                with httpx.Client(base_url=server.origin, timeout=20) as client:
                    found = Prometheus(proxy.origin, client, listener.sent)
                    found.wait_for("upshift_policy_info")
                    drive(proxy, weak, strong)
                    time.sleep(4)  # three more scrapes, and the rules once
                    judge_samples(folder / "log.db")
                    drive(proxy, weak, strong)
                    found.wait_for("upshift:saved:ratio_rate1h")
                    found.wait_for("upshift_live_quality")
                    time.sleep(3)
                    yield found
            finally:
                server.stop()
                listener.stop()
        finally:
            proxy.stop()


def judge_samples(log: Path) -> None:
    """What `upshift label --from-log` writes, by a judge who gives the answers served .8 of strong's."""
    with contextlib.closing(sqlite3.connect(log, timeout=20)) as database, database:
        rows = database.execute(
            "INSERT INTO judgements SELECT request_id, at, 'judge', 0.8, 1.0 FROM shadows "
            "WHERE outcome = 'ok'"
        ).rowcount
    assert rows > 0


def start_proxy(repository: Path, folder: Path, weak: Upstream, strong: Upstream) -> ServerProcess:
    port = pick_port()
    tiers = [
        {"name": name, "url": backend.url, "model": backend.model, "input_usd_per_mtok": price,
         "output_usd_per_mtok": price}
        for name, backend, price in (("weak", weak, 1), ("strong", strong, 10))
    ]  # fmt: skip
    key = {"id": "prometheus", "key_env": "UPSHIFT_TEST_METRICS_KEY", "scopes": ["metrics"]}
    config = {
        "tiers": tiers, "bundle": str(repository / "demo/bundle"), "auth": {"keys": [key]},
        "server": {"port": port}, "log": {"url": f"sqlite:///{folder / 'log.db'}", "flush_interval_s": 0.1},
        "loop": {
            "interval_s": 0.5, "quality_interval_s": 0.5, "drift": {"least_rows": 5},
            "shadow": {"share": 1.0, "requests_per_minute": 0},
        },
    }  # fmt: skip
    (folder / "upshift.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(folder / "upshift.yaml")]
    environment = {
        "PYTHONPATH": str(repository), "UPSHIFT_TEST_METRICS_KEY": KEY, "UPSHIFT_API_KEYS": "client-key",
    }  # fmt: skip
    return ServerProcess(command, port, folder / "proxy.log", environment)


def start_prometheus(deploy: Path, folder: Path, origins: list[str]) -> ServerProcess:
    config = yaml.safe_load((deploy / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"] = [one for one in config["scrape_configs"] if one["job_name"] == "upshift"]
    (scrape,) = config["scrape_configs"]
    scrape["authorization"]["credentials_file"] = str(folder / "key")
    scrape["static_configs"] = [{"targets": [origin.removeprefix("http://") for origin in origins]}]
    return prometheus_process(config, folder)


def drive(proxy: ServerProcess, weak: Upstream, strong: Upstream) -> None:
    """Every decision, streams, a client's mistake, repeats, and failures of the strong tier."""
    headers = {"authorization": "Bearer client-key"}
    with httpx.Client(base_url=proxy.origin, headers=headers, timeout=60) as client:

        def ask(model: str, text: str, **fields: Any) -> int:
            body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
            return client.post("/v1/chat/completions", json=body).status_code

        for number in range(12):
            for model in (
                "upshift",
                "upshift-evaluator-0.2",
                "upshift-evaluator-0.9",
                "upshift-mf-0.9",
                "upshift-difficulty-0.9",
                "weak",
            ):
                assert ask(model, f"Find {number} + 28.", stream=number % 2 == 0) == 200
        client.post("/chat", json={"prompt": "hello"})
        ask("no-such-model", "hello")
        strong.script.status, strong.script.retry_after = 503, "0"
        for _ in range(2):
            ask("strong", "hello")
        strong.reset()


def shipped_rules(deploy: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((deploy / "prometheus/rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_scrape_brings_the_key_and_the_key_opens(prometheus: Prometheus) -> None:
    """On loopback the proxy asks for none: a listener notes what is sent, a forwarded request tries it."""
    assert [found["value"][1] for found in prometheus.query('up{job="upshift"}')] == ["1", "1"]
    assert set(prometheus.sent) == {f"Bearer {KEY}"}
    for key, status in ((KEY, 200), ("client-key", 403), ("wrong", 401)):
        headers = {"authorization": f"Bearer {key}", "x-forwarded-for": "203.0.113.9"}
        assert httpx.get(f"{prometheus.proxy}/metrics", headers=headers).status_code == status, key


def test_every_recording_rule_gives_a_value(prometheus: Prometheus, deploy: Path) -> None:
    empty = [
        rule["record"] for rule in shipped_rules(deploy)
        if "record" in rule and not prometheus.query(rule["record"])
    ]  # fmt: skip
    assert not empty
    assert 0 < prometheus.value("upshift:strong_share:ratio_rate30m") < 1
    assert -1 < prometheus.value("upshift:saved:ratio_rate1h") < 1


def test_no_rule_is_in_error(prometheus: Prometheus, deploy: Path) -> None:
    groups = prometheus.client.get("/api/v1/rules").json()["data"]["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert len(loaded) == len(shipped_rules(deploy))
    assert [(rule["name"], rule.get("lastError")) for rule in loaded if rule["health"] != "ok"] == []


def test_every_panel_shows_something(prometheus: Prometheus, deploy: Path) -> None:
    dashboard = json.loads((deploy / "grafana/dashboards/upshift.json").read_text())
    empty, asked = [], 0
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expr = target["expr"]
            for name, value in _WINDOWS.items():
                expr = expr.replace(name, value)
            asked += 1
            if not prometheus.query(expr):
                empty.append((panel["title"], expr))
    assert not empty
    assert asked > 40


def test_the_loop_is_seen(prometheus: Prometheus) -> None:
    """Gauges that the loop sets once samples were judged and a window of traffic was compared."""
    quality = {found["metric"]["bound"]: found for found in prometheus.query("upshift_live_quality")}
    low, expected, high = (float(quality[bound]["value"][1]) for bound in ("low", "expected", "high"))
    assert expected == pytest.approx(0.8)
    assert low < expected < high
    signals = {found["metric"]["signal"] for found in prometheus.query("upshift_drift")}
    assert {"prompt_length", "strong_share", "route_score"} <= signals
    assert prometheus.value('sum(upshift_shadow_total{outcome=~"ok|strong_answered"})') > 0

"""The whole server with two workers, the demo's bundle and scripted backends; a real Chromium before it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tests.console.chromium import CHROMIUM
from tests.server_process import ServerProcess, pick_port
from tests.upstream import Upstream

ADMIN_KEY = "admin-key-of-the-test"
SAMPLES = ["Find 17 + 28.", "Today is Friday. What day is it in 9 days?"]
_ADMIN_KEYS = "UPSHIFT_TEST_CONSOLE_ADMIN_KEYS"


@dataclass
class ConsoleServer:
    """A running server. Both backends answer as their `script` says."""

    origin: str
    process: ServerProcess
    weak: Upstream
    strong: Upstream

    @property
    def console(self) -> str:
        return f"{self.origin}/console"

    def get(self, path: str, **headers: str) -> httpx.Response:
        """From this machine; a connection of its own, so any worker may answer."""
        return httpx.get(self.origin + path, headers={"connection": "close", **headers}, timeout=20)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        headers = {"connection": "close", **headers}
        return httpx.post(self.origin + path, json=body, headers=headers, timeout=20)

    def ask(self, prompt: str, model: str = "upshift", **fields: Any) -> httpx.Response:
        message = {"model": model, "messages": [{"role": "user", "content": prompt}], **fields}
        return self.post("/v1/chat/completions", message)


@contextmanager
def console_server(repository: Path, folder: Path, **sections: Any) -> Iterator[ConsoleServer]:
    """`upshift serve` as a process of its own; `sections` are further settings."""
    with Upstream("demo-phi") as weak, Upstream("demo-mistral") as strong:
        weak.script.text, strong.script.text = "The weak answer.", "A longer, strong answer."
        port = pick_port()
        tiers = [
            {"name": name, "url": backend.url, "model": backend.model, "input_usd_per_mtok": price,
             "output_usd_per_mtok": price}
            for name, backend, price in (("weak", weak, 1), ("strong", strong, 10))
        ]  # fmt: skip
        data = {
            "tiers": tiers,
            "bundle": str(repository / "demo/bundle"),
            "routing": {"strategy": "evaluator", "explore_share": 0.0},
            "auth": {"admin_keys_env": _ADMIN_KEYS},
            "console": {"sample_prompts": SAMPLES},
            **sections,
        }
        data["server"] = {"port": port, "workers": 2, "shutdown_grace_s": 2.0, "shutdown_idle_s": 0.0,
                          **sections.get("server", {})}  # fmt: skip
        config = folder / "upshift.yaml"
        config.write_text(yaml.safe_dump(data))
        environment = {_ADMIN_KEYS: ADMIN_KEY, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(config)]
        process = ServerProcess(command, port, folder / "server.log", environment)
        try:
            process.wait_ready("/readyz", 120)
            yield ConsoleServer(process.origin, process, weak, strong)
        finally:
            process.stop()


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    with console_server(repository, tmp_path_factory.mktemp("console")) as running:
        yield running


@dataclass
class Watched:
    """A page with everything it did that it must not: errors, and requests to anybody but its server."""

    page: Any
    origin: str
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note)

    def _note(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.origin).netloc:
            self.strangers.append(request.url)

    def check(self, *expected: str) -> None:
        """Nothing went wrong but what the test brought about."""
        assert [text for text in self.errors if not any(word in text for word in expected)] == []
        assert self.strangers == []


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser. Sync, so that it ends before another module's event loop begins."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, server: ConsoleServer) -> Iterator[Any]:
    """Opens pages of the console; each is checked for errors and strangers when the test asks."""
    contexts = []

    def open_page(origin: str = server.origin, **options: Any) -> Watched:
        options = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        context = chromium.new_context(**options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        watched = Watched(context.new_page(), origin)
        watched.watch()
        watched.page.goto(f"{origin}/console")
        return watched

    yield open_page
    for context in contexts:
        context.close()


def keep_screenshot(page: Any, name: str) -> None:
    """For people to look at, where UPSHIFT_SCREENSHOTS names a folder."""
    if folder := os.environ.get("UPSHIFT_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)

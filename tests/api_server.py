"""The whole proxy on a real socket in a thread, in front of two scripted backends: fixtures for API tests."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from proxy.app import UpshiftApp, create_app
from proxy.backends.http import HttpBackend
from proxy.settings import parse_settings
from tests.proxy.live_proxy import FixedScorers
from tests.upstream import Upstream

KEY = "sk-client"
_KEYS_ENV = "UPSHIFT_TEST_CLIENT_KEYS"


@dataclass
class ApiServer:
    """A running proxy. `scorers.score` is P(adequate) of every weak answer; below 0.5 shifts up."""

    port: int
    app: UpshiftApp
    weak: Upstream
    strong: Upstream
    scorers: FixedScorers
    http: httpx.Client  # with a valid key
    anonymous: httpx.Client

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return self.root + "/v1"

    def reset(self) -> None:
        self.weak.reset()
        self.strong.reset()
        self.scorers.score = 0.9
        self.scorers.fails = False


def tiers(weak: Upstream, strong: Upstream) -> list[dict[str, Any]]:
    """A cheap and a dear tier over the two backends."""
    return [
        {"name": "weak", "url": weak.url, "model": weak.model, "input_usd_per_mtok": 1,
         "output_usd_per_mtok": 2},
        {"name": "strong", "url": strong.url, "model": strong.model, "input_usd_per_mtok": 10,
         "output_usd_per_mtok": 20},
    ]  # fmt: skip


@contextmanager
def serving(app: UpshiftApp) -> Iterator[int]:
    """Run `app` under uvicorn in a thread; gives the port."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_level="error", access_log=False, loop="uvloop", http="httptools", ws="none",
        server_header=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="proxy", daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started and time.monotonic() < end:
        time.sleep(0.005)
    assert server.started
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def api_server(**sections: Any) -> Iterator[ApiServer]:
    """Two backends and the proxy over them; `sections` are further settings."""
    os.environ[_KEYS_ENV] = KEY
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        data = {
            "tiers": tiers(weak, strong),
            "auth": {"keys_env": _KEYS_ENV},
            **sections,
        }
        data["server"] = {"max_body_bytes": 4 << 20, **sections.get("server", {})}
        scorers = FixedScorers(0.9)
        backends = [HttpBackend(weak.url), HttpBackend(strong.url)]
        app = create_app(parse_settings(data, "test"), backends, scorers)
        with serving(app) as port:
            root = f"http://127.0.0.1:{port}"
            key = {"authorization": f"Bearer {KEY}"}
            with (
                httpx.Client(base_url=root, headers=key, timeout=20) as http,
                httpx.Client(base_url=root) as anonymous,
            ):
                yield ApiServer(port, app, weak, strong, scorers, http, anonymous)


@pytest.fixture(scope="session")
def shared_api() -> Iterator[ApiServer]:
    """One server for all tests that only need the default settings."""
    with api_server() as server:
        yield server


@pytest.fixture
def api(shared_api: ApiServer) -> ApiServer:
    """The shared server, as new."""
    shared_api.reset()
    return shared_api


@pytest.fixture
def own_api() -> Iterator[ApiServer]:
    """A server of the test's own, for what one request leaves behind for the next."""
    with api_server() as server:
        yield server


@pytest.fixture(params=["routed", "escalated", "pinned"])
def model(request: pytest.FixtureRequest, api: ApiServer) -> str:
    """The model name to ask for; `escalated` makes the weak answer be rejected."""
    if request.param == "escalated":
        api.scorers.score = 0.1
    return "strong-model" if request.param == "pinned" else "upshift"

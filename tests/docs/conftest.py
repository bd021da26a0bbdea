"""One demo server that the snippets of the documents talk to."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.docs.documents import ROOT
from tests.server_process import ServerProcess, pick_port


@pytest.fixture(scope="session")
def demo_origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`http://127.0.0.1:PORT` of the proxy in front of the embedded pair."""
    port = pick_port()
    command = [sys.executable, "-m", "demo", "--port", str(port), "--prompts", "4"]
    log = tmp_path_factory.mktemp("demo") / "demo.log"
    server = ServerProcess(command, port, log, {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})
    try:
        server.wait_ready("/readyz", 120.0)
        yield server.origin
    finally:
        server.stop()

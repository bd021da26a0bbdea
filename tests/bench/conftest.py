"""A recorded-answers server over a real socket, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from bench.recorded import create_recorded_app
from trainer.examples import Example


class ThreadedServer(uvicorn.Server):
    """A uvicorn server on a free port; `start` returns its base URL with `/v1`."""

    def start(self) -> str:
        self._thread = threading.Thread(target=self.run)
        self._thread.start()
        while not self.started:
            assert self._thread.is_alive(), "the server did not start"
            self._thread.join(0.01)
        return f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}/v1"

    def stop(self) -> None:
        self.should_exit = True
        self._thread.join(10)


@pytest.fixture
def start_recorded() -> Iterator[Callable[..., str]]:
    """Starts servers of `create_recorded_app`'s arguments and ends them after the test."""
    running: list[ThreadedServer] = []

    def start(examples: list[Example], models: list[str], **options: Any) -> str:
        app = create_recorded_app(examples, models, **options)
        server = ThreadedServer(uvicorn.Config(app, "127.0.0.1", 0, log_level="warning"))
        running.append(server)
        return server.start()

    yield start
    for server in running:
        server.stop()

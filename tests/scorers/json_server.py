"""A server of JSON on a real socket, whose answer is a function of what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], object]


class JsonServer(ThreadingHTTPServer):
    """Notes paths, bodies and keys; the first `failures` calls get `status`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.paths: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.failures = 0
        self.status = 503
        self.origin = f"http://127.0.0.1:{self.server_address[1]}"
        self.base_url = f"{self.origin}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: JsonServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.paths.append(self.path)
        self.server.calls.append(body)
        self.server.keys.append(self.headers.get("authorization"))
        if self.server.failures > 0:
            self.server.failures -= 1
            return self._reply(self.server.status, {"error": {"message": "later"}})
        return self._reply(200, self.server.answer(body))

    def _reply(self, status: int, value: object) -> None:
        payload = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def json_server(answer: Answer) -> Iterator[JsonServer]:
    with JsonServer(answer) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()

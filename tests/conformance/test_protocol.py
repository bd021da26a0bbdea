"""HTTP/1.1 over a bare socket: what client libraries do not show, and what some do that others do not."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.api_server import KEY, ApiServer

CHAT = b"/v1/chat/completions"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return str(json.loads(self.body)["choices"][0]["message"]["content"])


class Wire:
    """A connection, and the replies on it one after the other."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> Reply:
        """The next reply, whole."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._file.readline(), 16):
                body += self._file.read(size)
                assert self._file.readline() == b"\r\n"
            assert self._file.readline() == b"\r\n"
            return Reply(status, headers, body)
        return Reply(status, headers, self._file.read(int(headers.get("content-length", 0))))

    def at_end(self) -> bool:
        """Whether the server has closed the connection."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def connected(api: ApiServer) -> Iterator[Wire]:
    wire = Wire(api.port)
    try:
        yield wire
    finally:
        wire.close()


def chat(model: str = "upshift", stream: bool = False, prompt: str = "hello") -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream}
    return json.dumps(body).encode()


def request(body: bytes, *lines: bytes, path: bytes = CHAT, key: str = KEY) -> bytes:
    head = [
        b"POST " + path + b" HTTP/1.1",
        b"Host: proxy",
        b"Authorization: Bearer " + key.encode(),
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *lines,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def test_pipelined_requests_are_answered_in_order(api: ApiServer):
    """All are sent at once, slow and fast, streams, errors and other endpoints among them."""
    models = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
    with connected(api) as wire:
        wire.send(
            request(chat(stream=True))
            + request(chat())
            + request(b"{")
            + models
            + request(b'{"prompt":"x"}', path=b"/chat")
            + request(chat("strong", stream=True))
            + request(chat("weak"))
        )
        replies = [wire.read() for _ in range(7)]
    assert [reply.status for reply in replies] == [200, 200, 400, 200, 200, 200, 200]
    assert replies[0].body.endswith(b"data: [DONE]\n\n")
    assert replies[1].text == api.weak.script.text
    assert json.loads(replies[3].body)["object"] == "list"
    assert json.loads(replies[4].body)["tier"] == "weak"
    assert replies[5].body.endswith(b"data: [DONE]\n\n")
    assert json.loads(replies[6].body)["model"] == "weak-model"


def test_a_pipelined_request_does_not_look_like_a_client_that_left(api: ApiServer):
    api.weak.script.delay_s = 0.1
    with connected(api) as wire:
        wire.send(request(chat()) + request(chat()))
        assert [wire.read().status for _ in range(2)] == [200, 200]
    assert api.weak.cancelled == 0


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (request(b"{"), 400),
        (request(chat(), key="sk-wrong"), 401),
        (request(chat("nothing")), 404),
        (request(chat(), path=b"/v1/nothing"), 404),
        (request(b"x" * (5 << 20)), 413),
        (request(chat(), b"Content-Encoding: br"), 415),
    ],
    ids=["400", "401", "404 model", "404 url", "413", "415"],
)
def test_the_connection_outlives_an_error(api: ApiServer, bad: bytes, status: int):
    with connected(api) as wire:
        for _ in range(2):
            wire.send(bad)
            assert wire.read().status == status
            wire.send(request(chat()))
            assert wire.read().text == api.weak.script.text


def test_a_connection_serves_many_requests_and_closes_when_asked(api: ApiServer):
    with connected(api) as wire:
        for _ in range(20):
            wire.send(request(chat(stream=True)))
            assert wire.read().status == 200
        wire.send(request(chat(), b"Connection: close"))
        assert wire.read().status == 200
        assert wire.at_end()


def test_a_request_that_arrives_byte_by_byte(api: ApiServer):
    data = request(chat(prompt="é 你好"))
    with connected(api) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), 1):
            wire.send(data[start : start + 1])
        assert wire.read().status == 200
    assert api.weak.last.body["messages"][0]["content"] == "é 你好"


def test_a_chunked_request(api: ApiServer):
    body = chat(prompt="👩‍👩‍👧")
    cut = [body[start : start + 7] for start in range(0, len(body), 7)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in cut) + b"0\r\n\r\n"
    head = request(b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    with connected(api) as wire:
        wire.send(head + chunks)
        assert wire.read().status == 200
        wire.send(request(chat()))
        assert wire.read().status == 200


def test_expect_continue(api: ApiServer):
    body = chat()
    whole = request(body, b"Expect: 100-continue")
    with connected(api) as wire:
        wire.send(whole[: -len(body)])
        assert wire._file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert wire._file.readline() == b"\r\n"
        wire.send(body)
        assert wire.read().status == 200


def test_header_names_in_any_case(api: ApiServer):
    body = chat()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHOST: x\r\nAUTHORIZATION: bearer {KEY}\r\n"
    head += f"CONTENT-TYPE: application/json\r\nCONTENT-LENGTH: {len(body)}\r\nX-Request-ID: abc\r\n\r\n"
    with connected(api) as wire:
        wire.send(head.encode() + body)
        assert wire.read().headers["x-request-id"] == "abc"


def test_head_has_no_body_on_the_wire(api: ApiServer):
    get = b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
    with connected(api) as wire:
        wire.send(get + request(chat()))
        status = wire._file.readline()
        assert b" 200 " in status
        while (line := wire._file.readline()) != b"\r\n":
            assert line
        assert wire.read().text == api.weak.script.text  # the next reply begins right there


def test_the_first_event_is_on_the_wire_before_the_last_is_made(api: ApiServer):
    api.strong.script.piece_delay_s = 0.05
    with connected(api) as wire:
        wire.send(request(chat("strong", stream=True)))
        seen = wire.socket.recv(65536)
        while b"data:" not in seen:
            seen += wire.socket.recv(65536)
        assert api.strong.in_flight == 1
        assert b"[DONE]" not in seen


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_socket_that_is_dropped_ends_the_work(api: ApiServer, when: str):
    backend = api.strong
    backend.script.delay_s = 30 if when == "before" else 0
    backend.script.piece_delay_s = 0.05
    backend.script.text = "word " * 500
    with connected(api) as wire:
        wire.send(request(chat("strong", stream=True)))
        assert backend.wait_until(lambda: backend.in_flight == 1)
        if when == "during":
            assert wire.socket.recv(100)
    assert backend.wait_until(lambda: backend.in_flight == 0)

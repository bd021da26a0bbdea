"""Thousands of made-up inputs: request bodies, backends' streams, configurations. No 5xx of ours, no hang.

The application is called in this process, without sockets, so that an input costs a millisecond: 5,000 in
`make test`, 100,000 in `make test-long`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.app import UpshiftApp, create_app
from proxy.settings import load_settings, parse_settings
from routing.errors import SettingsError
from routing.protocols import BackendRequest
from tests.proxy.live_proxy import FixedScorers, make_settings

BATCH = 1
HANG_S = 20.0  # on a machine that does other things too
PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/route",
    "/v1/feedback",
    "/chat",
)
FIELDS = (
    "model",
    "messages",
    "prompt",
    "input",
    "stream",
    "n",
    "temperature",
    "max_tokens",
    "stream_options",
    "tools",
    "response_format",
    "logprobs",
    "upshift",
    "system",
    "stop",
    "user",
    "seed",
    "top_p",
    "instructions",
    "store",
    "tool_choice",
    "strategy",
    "threshold",
    "text",
    "metadata",
    "functions",
    "role",
    "content",
    "type",
    "id",
)
WORDS = (
    "upshift",
    "weak",
    "strong-model",
    "upshift-evaluator-0.3",
    "router-mf-0.5",
    "user",
    "assistant",
    "text",
    "image_url",
    "json_schema",
    "function",
    "input_text",
    "message",
    "hold",
    "race",
)
GOOD: list[Any] = [
    {"model": "upshift", "messages": [{"role": "user", "content": "hello"}], "stream": False},
    {
        "model": "weak",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hé"}]}],
        "stream": True,
    },
    {"model": "upshift", "prompt": "hello", "n": 1},
    {"model": "strong", "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]},
    {"model": "upshift", "input": "hello", "stream": True, "tools": [{"type": "function", "name": "f"}]},
    {"prompt": "hello", "strategy": "evaluator", "threshold": 0.5},
    {"request_id": "req_1", "rating": 0.5},
    {
        "model": "upshift",
        "messages": [{"role": "user", "content": "x"}],
        "upshift": {"threshold": 0.5},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    },
]

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=6,
)


@st.composite
def requests(draw: Callable[[Any], Any]) -> tuple[str, bytes, dict[bytes, bytes]]:
    """A path, a body near a good one or far from any, and headers."""
    body = dict(draw(st.sampled_from(GOOD)))
    for name, value in draw(st.dictionaries(st.sampled_from(FIELDS), values, max_size=3)).items():
        body[name] = value
    data = bytearray(json.dumps(body).encode())
    for position, byte in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2)):
        if draw(st.booleans()):
            data[position % len(data)] = byte
    cut = draw(st.integers(0, 8))
    headers = draw(
        st.dictionaries(
            st.sampled_from(
                [
                    b"content-type",
                    b"content-encoding",
                    b"content-length",
                    b"x-upshift-strategy",
                    b"x-request-id",
                    b"authorization",
                    b"origin",
                    b"traceparent",
                ]
            ),
            st.binary(max_size=12),
            max_size=2,
        )
    )
    return draw(st.sampled_from(PATHS)), bytes(data[: len(data) - cut if cut < 3 else len(data)]), headers


class Reply:
    """A scripted backend's reply."""

    def __init__(self, pieces: list[bytes], status: int, kind: str) -> None:
        self.status = status
        self.headers = {"content-type": kind}
        self._pieces = pieces

    async def read(self) -> bytes:
        return b"".join(self._pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def close(self) -> None:
        return


class Scripted:
    """A backend that answers what the fuzzer wants, or a good answer."""

    def __init__(self) -> None:
        self.pieces: list[bytes] | None = None
        self.kind = "text/event-stream"

    async def send(self, request: BackendRequest) -> Reply:
        if self.pieces is not None:
            return Reply(self.pieces, 200, self.kind)
        if request.path == "/embeddings":
            return Reply(
                [b'{"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 1}}'], 200, "application/json"
            )
        if request.path == "/responses":
            return Reply([b'{"error": {"message": "unknown url"}}'], 404, "application/json")
        body = json.loads(request.body)
        chat = request.path.startswith("/chat")
        if body.get("stream") is True:
            return Reply(events("hello", chat), 200, "text/event-stream")
        choice = {"message": {"role": "assistant", "content": "hello"}} if chat else {"text": "hello"}
        choices = [{"index": 0, "finish_reason": "stop", **choice}]
        return Reply([json.dumps({"model": "m", "choices": choices}).encode()], 200, "application/json")

    async def close(self) -> None:
        return


def events(text: str, chat: bool = True) -> list[bytes]:
    """A good stream."""
    out = []
    for part, finish in ((text, None), ("", "stop")):
        choice = {"delta": {"content": part}} if chat else {"text": part}
        data = {"model": "m", "choices": [{"index": 0, "finish_reason": finish, **choice}]}
        out.append(b"data: " + json.dumps(data).encode() + b"\n\n")
    return [*out, b"data: [DONE]\n\n"]


def make_app() -> tuple[UpshiftApp, Scripted, FixedScorers]:
    tiers = [
        {"name": name, "url": "http://127.0.0.1:1/v1", "model": f"{name}-model"}
        for name in ("weak", "strong")
    ]
    backend, scorers = Scripted(), FixedScorers(0.9)
    return create_app(make_settings(tiers), [backend, backend], scorers), backend, scorers


async def call(app: UpshiftApp, path: str, body: bytes, headers: dict[bytes, bytes]) -> tuple[int, bytes]:
    """One request through the whole application."""
    given, status, out = False, 0, bytearray()

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            assert status == 0, "one answer for a request"
            status = message["status"]
        else:
            out.extend(message.get("body", b""))

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(headers.items()),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
    }
    await app(scope, receive, send)
    return status, bytes(out)


def fuzz(inputs: int) -> settings:
    """As many inputs, the same every time."""
    return settings(
        max_examples=inputs // BATCH,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def fuzz_requests(inputs: int) -> None:
    app, _, _ = make_app()
    statuses: dict[int, int] = {}

    async def run(batch: list[tuple[str, bytes, dict[bytes, bytes]]]) -> None:
        async with asyncio.timeout(HANG_S):
            for path, body, headers in batch:
                status, answer = await call(app, path, body, headers)
                assert 200 <= status < 500, (status, path, body, headers, answer)
                if status >= 400:
                    assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
                statuses[status] = statuses.get(status, 0) + 1

    with asyncio.Runner() as runner:

        @fuzz(inputs)
        @given(st.lists(requests(), min_size=BATCH, max_size=BATCH))
        def check(batch: list[tuple[str, bytes, dict[bytes, bytes]]]) -> None:
            runner.run(run(batch))

        check()
    assert sum(statuses.values()) >= inputs * 0.95, statuses
    assert statuses[200] > inputs / 20, "some are good"
    assert statuses[400] > inputs / 20, "some are not"


JUNK = (
    b"",
    b"\n\n",
    b"data:",
    b'data: {"error": {}}\n\n',
    b": x\n\n",
    b"\r\n\r\n",
    b"event: x\n",
    b"data: 1\n\n",
)


@st.composite
def streams(draw: Callable[[Any], Any]) -> tuple[list[bytes], str, str, bool, float]:
    """Pieces of a stream that was good once, and who asks for it how."""
    text, doubled = draw(st.text(max_size=20)), draw(st.sampled_from([b"", b"data: [DONE]\n\n"]))
    data = bytearray(b"".join(events(text)) + doubled)
    damage = draw(st.integers(0, 3))
    if damage == 1:
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    elif damage == 2:
        start = draw(st.integers(0, len(data) - 1))
        junk = draw(st.binary(max_size=12) | st.sampled_from(JUNK))
        data[start : start + draw(st.integers(0, 40))] = junk
    elif damage == 3:
        del data[draw(st.integers(1, len(data) - 1)) :]
    size = draw(st.integers(1, 200))
    pieces = [bytes(data[at : at + size]) for at in range(0, len(data), size)]
    kind = draw(st.sampled_from(["text/event-stream"] * 9 + ["application/json"]))
    model, score = draw(st.sampled_from(["upshift", "weak"])), draw(st.sampled_from([0.1, 0.9]))
    return pieces, kind, model, draw(st.integers(0, 9)) > 0, score


def fuzz_streams(inputs: int) -> None:
    app, backend, scorers = make_app()
    seen: dict[str, int] = {"whole": 0, "event": 0, "status": 0}

    async def run(batch: list[tuple[list[bytes], str, str, bool, float]]) -> None:
        async with asyncio.timeout(HANG_S):
            for pieces, kind, model, stream, score in batch:
                backend.pieces, backend.kind, scorers.score = pieces, kind, score
                body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": stream}
                status, answer = await call(app, PATHS[0], json.dumps(body).encode(), {})
                seen[outcome(status, answer, stream, pieces, model)] += 1

    with asyncio.Runner() as runner:

        @fuzz(inputs)
        @given(st.lists(streams(), min_size=BATCH, max_size=BATCH))
        def check(batch: list[tuple[list[bytes], str, str, bool, float]]) -> None:
            runner.run(run(batch))

        check()
    assert sum(seen.values()) >= inputs * 0.95, seen
    assert min(seen.values()) > inputs / 100, seen


def outcome(status: int, answer: bytes, stream: bool, pieces: list[bytes], model: str) -> str:
    """A whole answer, an error event at the end of a broken one, or an error status; nothing else."""
    assert status in (200, 502), (status, answer)
    if status == 502:
        assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
        return "status"
    assert stream, "an event stream is no answer to a plain request"
    assert answer.endswith((b"\n\n", b"\r\n\r\n")), (answer, pieces)
    if b'"error"' in answer:
        return "event"
    if model == "upshift":  # a pinned client gets the backend's bytes as they are
        # A committed stream is not parsed: what is promised is text, in events that look like objects.
        for event in answer.decode().strip().split("\n\n"):
            for line in event.split("\n"):
                assert not line.startswith("data: {") or line.rstrip().endswith("}"), line
    assert b"finish_reason" in answer or b"[DONE]" in answer, (answer, pieces)
    return "whole"


NAMES = (
    "tiers",
    "server",
    "routing",
    "auth",
    "log",
    "backends",
    "embeddings",
    "bundle",
    "name",
    "url",
    "urls",
    "model",
    "port",
    "host",
    "keys",
    "threshold",
    "strategy",
    "retention_days",
    "max_rows",
    "id",
    "sha256",
    "telemetry",
    "scopes",
    "capabilities",
    "breaker_share",
    "workers",
    "expires",
)
odd = st.recursive(
    scalars
    | st.sampled_from(["http://127.0.0.1:1/v1", "sqlite:///x", "2030-01-01", "weak", "chat", -1, 1e400]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


def fuzz_configurations(inputs: int, folder: Path) -> None:
    good = {"tiers": [{"name": name, "url": "http://127.0.0.1:1/v1", "model": name} for name in "ab"]}
    seen = {"fine": 0, "refused": 0}
    file = folder / "upshift.yaml"
    chance = random.Random(1)

    @fuzz(inputs)
    @given(st.lists(st.dictionaries(st.sampled_from(NAMES), odd, max_size=3), min_size=BATCH, max_size=BATCH))
    def check(batch: list[dict[str, Any]]) -> None:
        for changes in batch:
            data = {**good, **changes}
            try:
                if chance.random() < 0.3:
                    text = yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "replace")
                    position = chance.randrange(len(text))
                    file.write_bytes(text[:position] + bytes([chance.randrange(256)]) + text[position + 1 :])
                    load_settings(file)
                else:
                    parse_settings(data, "fuzz").ladder()
                seen["fine"] += 1
            except SettingsError as error:
                assert "upshift.yaml" in str(error) or "fuzz" in str(error)  # noqa: PT017
                seen["refused"] += 1

    check()
    assert sum(seen.values()) >= inputs * 0.95, seen
    assert min(seen.values()) > 0, seen


@pytest.mark.timeout(300)
def test_request_bodies() -> None:
    fuzz_requests(2_500)


@pytest.mark.timeout(300)
def test_streams_of_backends() -> None:
    fuzz_streams(1_500)


@pytest.mark.timeout(300)
def test_configurations(tmp_path: Path) -> None:
    fuzz_configurations(1_000, tmp_path)


@pytest.mark.long
def test_a_hundred_thousand_inputs(tmp_path: Path) -> None:
    fuzz_requests(50_000)
    fuzz_streams(30_000)
    fuzz_configurations(20_000, tmp_path)

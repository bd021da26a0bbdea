"""The proxy on a real socket inside the test's event loop, and a client that checks what it is given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from proxy.live import LiveApp
from proxy.loop.reference import Reference
from proxy.metrics import Metrics
from proxy.plan import Plan
from proxy.server import Server
from proxy.settings import Settings, parse_settings
from routing.certificate import Certificate
from routing.curve import CalibrationRows
from routing.errors import ScorerError
from routing.policy import Policy
from routing.protocols import Answer
from routing.signals import Signals
from scorers.familiar import Familiar


class FixedScorers:
    """Scorers whose verdict the test chooses: the weak answer is always asked for and always judged."""

    def __init__(self, score: float, strategy: str = "evaluator", threshold: float = 0.5) -> None:
        self.score = score
        self.policy = Policy(
            version=f"fixed-{score}", default=strategy, thresholds={strategy: threshold}, explore_share=0.0
        )
        self.fails = False
        self.familiar: Familiar | None = None
        self.plan: Plan | None = None
        self.reference: Reference = {}
        self.valid_until = 0.0
        self.certificate: Certificate | None = None
        self.rows: CalibrationRows | None = None

    async def read_prompt(self, prompt: str, signals: Signals, difficulty: bool = True) -> None:
        return

    async def score_answers(self, prompt: str, answers: Sequence[Answer]) -> list[float]:
        if self.fails:
            raise ScorerError("the scorer is broken on purpose")
        return [self.score] * len(answers)

    async def warm(self) -> None:
        return

    def attach(self, metrics: Metrics) -> None:
        return

    async def close(self) -> None:
        return


class QuietServer(Server):
    """Without signal handlers, nor a word to the garbage collector: the test's process keeps its own."""

    def settle(self) -> None:
        return

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Seen:
    """What a client saw of one request."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float
    ended: bool = True  # the response ended as HTTP says it must

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The stream's events, decoded; `[DONE]` as that string; comments left out."""
        text = self.body.decode()
        assert text == "" or text.endswith("\n\n"), f"the stream ends inside an event: {text[-80:]!r}"
        blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
        out = []
        for block in blocks:
            assert block.startswith("data: "), block
            out.append("[DONE]" if block == "data: [DONE]" else json.loads(block[6:]))
        return out

    @property
    def errors(self) -> list[Any]:
        return [event["error"] for event in self.events if isinstance(event, dict) and "error" in event]

    @property
    def finished(self) -> bool:
        """Whether a client would take this for a whole answer."""
        chunks = [event for event in self.events if isinstance(event, dict)]
        return any(choice.get("finish_reason") for chunk in chunks for choice in chunk.get("choices") or ())

    @property
    def text(self) -> str:
        if not self.headers["content-type"].startswith("text/event-stream"):
            return str(self.data["choices"][0]["message"]["content"])
        chunks = [event for event in self.events if isinstance(event, dict)]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices") or ()]
        return "".join(delta.get("content") or "" for delta in deltas)


class Stopwatch:
    """How long the event loop stood still at most: time that no limit can be blamed for."""

    longest_s = 0.0
    total_s = 0.0

    async def __aenter__(self) -> Stopwatch:
        self._task = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            stood_s = time.monotonic() - before - 0.01
            self.longest_s = max(self.longest_s, stood_s)
            self.total_s += stood_s


@dataclass
class LiveProxy:
    """A running proxy."""

    live: LiveApp
    server: QuietServer
    url: str
    session: aiohttp.ClientSession
    task: asyncio.Task[None]
    extra: dict[str, Any] = field(default_factory=dict)

    async def ask(self, model: str = "upshift", stream: bool = False, **fields: Any) -> Seen:
        """One chat completion."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "hello"}],
            "stream": stream,
            **fields,
        }
        started = time.monotonic()
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body) as response:
            pieces, ended = [], True
            try:
                async for piece in response.content.iter_any():
                    pieces.append(piece)
            except aiohttp.ClientError:
                ended = False
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Seen(response.status, headers, b"".join(pieces), time.monotonic() - started, ended)

    def count(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        total = 0.0
        for metric in self.live.app.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
        return total

    def outcomes(self) -> dict[str, float]:
        """`upshift_requests_total` by outcome."""
        out: dict[str, float] = {}
        for metric in self.live.app.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == "upshift_requests_total":
                    outcome = sample.labels["outcome"]
                    out[outcome] = out.get(outcome, 0.0) + sample.value
        return out

    async def settled(self, within_s: float = 5.0) -> None:
        """Wait until no request is left inside; what is left after that is a leak, and an error."""
        end = time.monotonic() + within_s
        while self.left_behind() and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not self.left_behind(), self.left_behind()

    def left_behind(self) -> dict[str, float]:
        """What a finished request must not leave."""
        replicas = [one for tier in self.live.running.backends for one in tier.replicas.replicas]
        counts = {
            "in_flight": self.count("upshift_in_flight_requests"),
            "admitted": self.live.app.gateway.admission.running,
            "tasks": len(self.server.server_state.tasks),
            "outstanding": sum(replica.outstanding for replica in replicas),
            "requests": self.live.running.in_flight,
        }
        return {name: count for name, count in counts.items() if count}


def make_settings(tiers: Sequence[dict[str, Any]], **sections: Any) -> Settings:
    """Settings with limits short enough for a test, and no bundle unless one is named."""
    server = {
        "connect_timeout_s": 8.0, "first_byte_timeout_s": 8.0, "between_bytes_timeout_s": 8.0,
        "request_timeout_s": 20.0, "max_answer_bytes": 1 << 19, "shutdown_grace_s": 2.0,
        "shutdown_idle_s": 0.0, "port": 0,
    }  # fmt: skip
    backends = {"retry_backoff_s": 0.01}
    data = {
        "bundle": "none",
        **sections,
        "tiers": list(tiers),
        "server": {**server, **sections.get("server", {})},
        "backends": {**backends, **sections.get("backends", {})},
    }
    return parse_settings(data, "test")


@contextlib.asynccontextmanager
async def live_proxy(settings: Settings, scorers: FixedScorers | None = None) -> AsyncIterator[LiveProxy]:
    """A proxy on a free port of loopback."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    port = listening.getsockname()[1]
    live = LiveApp(settings, scorers)
    server = QuietServer(live, settings)
    task = asyncio.ensure_future(server.serve([listening]))
    while not server.started:
        await asyncio.sleep(0.002)
        if task.done():
            await task
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60))
    try:
        yield LiveProxy(live, server, f"http://127.0.0.1:{port}", session, task)
    finally:
        await session.close()
        server.should_exit = True
        await task

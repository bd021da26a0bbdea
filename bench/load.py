"""A load generator: keep-alive connections on raw sockets, closed loop or open loop, figures as JSON.

A client that costs as much as the server it measures measures itself, so this one parses nothing but the end
of an answer. Open loop: requests are due at fixed times, whatever has become of those before, and a latency
counts from when a request was due (Tene's "coordinated omission").
`python -m bench.load --url URL --model M --connections 16 --seconds 3 [--stream] [--rate 500]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit

import uvloop

_NUMBER = b"########"  # where the number of a request stands


@dataclass
class Tally:
    """What was seen after the warm-up; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    chunks: int = 0
    failures: int = 0
    all_requests: int = 0  # with those of the warm-up
    all_chunks: int = 0


class Client(asyncio.Protocol):
    """One connection: `ask` sends the request, `on_done` hears when its answer is whole."""

    def __init__(
        self, next_request: Callable[[], bytes], stream: bool, tally: Tally, on_done: Callable[[Client], None]
    ) -> None:
        self._next_request = next_request
        self._stream = stream
        self._tally = tally
        self._on_done = on_done
        self._left = -1  # bytes of a plain answer still to come; -1: its head is not complete
        self._held = b""
        self._since = 0.0
        self._first = 0.0
        self.counting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, since: float) -> None:
        """`since`: when the request was due (`time.perf_counter`)."""
        self._since, self._first, self._left, self._held = since, 0.0, -1, b""
        self._transport.write(self._next_request())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self._first and (not self._stream or b"data:" in data):
            self._first = time.perf_counter()
        if self._stream:
            chunks = data.count(b"data: ")
            self._tally.all_chunks += chunks
            if self.counting:
                self._tally.chunks += chunks
            tail = self._held + data
            self._held = tail[-7:]
            if tail.endswith(b"\r\n0\r\n\r\n"):
                self._finish()
            elif self._left < 0:
                self._left = 0
                if not data.startswith(b"HTTP/1.1 200"):
                    self._fail(data)
            return
        if self._left < 0:
            data = self._held = self._held + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return
            self._begin_body(data, end)
        else:
            self._left -= len(data)
        if self._left == 0:
            self._finish()

    def _begin_body(self, data: bytes, end: int) -> None:
        head = data[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            self._fail(data)
        at = head.find(b"content-length:")
        if at >= 0:
            self._left = int(head[at + 15 :].split(b"\r\n", 1)[0]) - (len(data) - end - 4)
        elif data.endswith(b"0\r\n\r\n"):
            self._left = 0

    def _fail(self, data: bytes) -> None:
        if self._tally.failures == 0:
            print(data[:300], file=sys.stderr)
        self._tally.failures += 1

    def _finish(self) -> None:
        now = time.perf_counter()
        self._tally.all_requests += 1
        if self.counting:
            self._tally.latencies.append(now - self._since)
            self._tally.first_bytes.append(self._first - self._since)
        self._on_done(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tally.failures += 1


class Load:
    """`connections` clients for `warm_s` + `seconds`; `rate` requests a second, 0: as fast as they come."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._tally = Tally()
        self._free: deque[Client] = deque()
        self._due: deque[float] = deque()
        self._counting = False
        self._stopped = False

    async def run(self) -> dict[str, float]:
        options, loop = self._options, asyncio.get_running_loop()
        parts, request = urlsplit(options.url), _request(options)
        numbers = count(int(time.time() * 1e3) % 10**8)  # another run's prompts may be remembered

        def next_request() -> bytes:
            return request.replace(_NUMBER, b"%08d" % next(numbers)) if options.fresh else request

        for _ in range(options.connections):
            await loop.create_connection(
                lambda: self._add(Client(next_request, options.stream, self._tally, self._done)),
                parts.hostname, parts.port,
            )  # fmt: skip
        if options.rate:
            self._pace()
        else:
            for client in list(self._free):
                client.ask(time.perf_counter())
        await asyncio.sleep(options.warm_s)
        self._counting, started = True, time.perf_counter()
        await asyncio.sleep(options.seconds)
        seconds = time.perf_counter() - started
        self._stopped = True
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        return _figures(self._tally, seconds)

    def _add(self, client: Client) -> Client:
        self._free.append(client)
        return client

    def _done(self, client: Client) -> None:
        if self._stopped:
            return
        client.counting = self._counting
        if not self._options.rate:
            client.ask(time.perf_counter())
        elif self._due:
            client.ask(self._due.popleft())
        else:
            self._free.append(client)

    def _pace(self) -> None:
        """Ask when it is due, woken by a signal: the loop's own timers fire on a grid of 1 ms, and requests
        that it sends together wait for each other."""
        step, due = 1.0 / self._options.rate, time.perf_counter()

        def ask() -> None:
            nonlocal due
            if self._stopped:
                return
            now = time.perf_counter()
            while due <= now:
                if self._free:
                    client = self._free.popleft()
                    client.counting = self._counting
                    client.ask(due)
                else:
                    self._due.append(due)
                due += step
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, due - time.perf_counter()))

        asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, ask)
        ask()


def _request(options: argparse.Namespace) -> bytes:
    words = "hello " * max(1, options.prompt_tokens - 8) + (_NUMBER.decode() if options.fresh else "")
    body = json.dumps({
        "model": options.model, "messages": [{"role": "user", "content": f"Say {words.strip()}."}],
        **({"stream": True} if options.stream else {}),
    }, separators=(",", ":")).encode()  # fmt: skip
    parts = urlsplit(options.url)
    extra = "".join(f"{line}\r\n" for line in options.header)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {options.key}\r\n{extra}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _figures(tally: Tally, seconds: float) -> dict[str, float]:
    latencies, first = sorted(tally.latencies), sorted(tally.first_bytes)
    return {
        "requests": len(latencies), "rps": len(latencies) / seconds, "chunks_s": tally.chunks / seconds,
        "p50_ms": _at(latencies, 0.5), "p99_ms": _at(latencies, 0.99), "first50_ms": _at(first, 0.5),
        "failures": tally.failures, "all_requests": tally.all_requests, "all_chunks": tally.all_chunks,
    }  # fmt: skip


def _at(values: list[float], share: float) -> float:
    """A quantile in milliseconds."""
    return values[min(len(values) - 1, int(share * len(values)))] * 1e3 if values else float("nan")


def main() -> None:
    """One line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="null")
    parser.add_argument("--key", default="sk-bench")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-s", type=float, default=0.5)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--prompt-tokens", type=int, default=9)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="no prompt is sent twice")
    print(json.dumps(uvloop.run(Load(parser.parse_args()).run())))


if __name__ == "__main__":
    main()

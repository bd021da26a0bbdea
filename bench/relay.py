"""What a chunk of a routed stream costs on its way through: `python -m bench relay`.

Bytes as they come, beside what Upshift asked for itself and takes out again: the usage chunk at the end, and
log-probabilities, which stand in every chunk and cost a parse of each. In one process, without a socket:
chunks go through `TierAttempt` and `StreamRelay` as from a backend, four to a read. CPU of the best round.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import orjson

from proxy.answer_form import AnswerForm
from proxy.attempt import Asked, TierAttempt
from proxy.call import parse_call
from proxy.completion import Usage
from proxy.relay import StreamRelay

_CHUNKS = 1_000
_READ = 4  # chunks that come in one piece
_BODY = orjson.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]})


class Recorded:
    """`routing.protocols.BackendReply` over pieces that are there already."""

    status = 200
    headers: Mapping[str, str] = {"content-type": "text/event-stream"}

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    async def read(self) -> bytes:
        return b"".join(self._pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def close(self) -> None:
        return


def stream_pieces(logprobs: bool, usage: bool) -> list[bytes]:
    """A stream of `_CHUNKS` tokens as vLLM writes it."""

    def event(delta: dict[str, str], word: str | None, finish: str | None = None) -> bytes:
        choice: dict[str, object] = {"index": 0, "delta": delta, "finish_reason": finish}
        top = {"token": word, "logprob": -0.3125, "bytes": [32, 119], "top_logprobs": []}
        choice["logprobs"] = {"content": [top]} if logprobs and word else None
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                 "choices": [choice]}  # fmt: skip
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    events = [event({"content": " word"}, " word") for _ in range(_CHUNKS)] + [event({}, None, "stop")]
    if usage:
        told = {"prompt_tokens": 9, "completion_tokens": _CHUNKS, "total_tokens": _CHUNKS + 9}
        last = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        events.append(b"data: " + orjson.dumps({**last, "choices": [], "usage": told}) + b"\n\n")
    events.append(b"data: [DONE]\n\n")
    return [b"".join(events[at : at + _READ]) for at in range(0, len(events), _READ)]


def _field(_: Usage) -> bytes:
    return b'{"tier":"weak"}'


async def relay_once(asked: Asked, pieces: Sequence[bytes]) -> bytes:
    """What the client gets of one stream."""
    attempt = TierAttempt(0, parse_call("chat", _BODY, 10), Recorded(pieces), asked)
    await attempt.ready()
    relay = StreamRelay(attempt, _field, AnswerForm("chat", "m"))
    return b"".join([piece async for piece in relay.pieces()])


def main(argv: Sequence[str]) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m bench relay", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args(argv)
    cases = {
        "bytes as they come": Asked(),
        "usage chunk taken out": Asked(usage=True),
        "log-probabilities taken out": Asked(logprobs=True, usage=True),
    }
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(options.rounds):  # in turns
        for name, asked in cases.items():
            pieces = stream_pieces(asked.logprobs, asked.usage)
            began = time.process_time()
            asyncio.run(relay_once(asked, pieces))
            best[name] = min(best[name], time.process_time() - began)
    first = best["bytes as they come"]
    print(f"| a stream of {_CHUNKS} chunks | CPU us/chunk | beside the first |\n|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds / _CHUNKS * 1e6:.2f} | {seconds / first:.1f}x |")
    return 0

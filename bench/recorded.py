"""An OpenAI-compatible server that answers each prompt of an example table as a named model really did.

    python -m bench.recorded --examples gsm8k.parquet --model gpt-4-1106-preview --port 0

It stands in for models nobody can run here: routing, training and resuming can then be tried on real answers
whose true quality is known, over real HTTP. Several models may share a port, the body's `model` chooses.
Answers come at once or at a stated rate, streams one word a chunk. A prompt or model that the table lacks is
a 404 that says so; sampling parameters are ignored, since an answer was recorded once. Counters for every
model stand at `/__recorded/stats` (DELETE sets them to zero), with the share of an answer that was written
when its client left, by prompt id. One process answers 2,000 requests a second.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bench.recorded_answers import Recorded, RecordedAnswers, key_of, read_recorded
from bench.recorded_wire import Asked, ChatShape, RequestError, read_request
from routing.errors import ExamplesError
from trainer.examples import Example

READY = "Recorded answers at "  # what the command prints before its URL, once it listens


@dataclass(slots=True)
class Counters:
    """What one model was asked. `repeated` counts answers to a prompt it had answered before."""

    requests: int = 0
    answered: int = 0
    streamed: int = 0
    repeated: int = 0
    unknown_prompts: int = 0
    cancelled: int = 0
    cancelled_tokens: int = 0  # written for answers that nobody read to their end
    prompt_tokens: int = 0
    completion_tokens: int = 0


class RecordedServer:
    """The handlers and the counters over some recorded answers.

    `tokens_per_s` is how fast every answer is written, 0: at once.
    """

    def __init__(self, answers: RecordedAnswers, tokens_per_s: float = 0.0) -> None:
        if not tokens_per_s >= 0.0:
            raise ValueError(f"tokens_per_s must be at least 0, it is {tokens_per_s}")
        self.answers = answers
        self.tokens_per_s = tokens_per_s
        self.reset()

    def reset(self) -> None:
        self.counters = {model: Counters() for model in self.answers.models}
        self._answered: dict[str, set[str]] = {model: set() for model in self.answers.models}
        self.broken_off: dict[str, dict[str, float]] = {model: {} for model in self.answers.models}
        self.unknown_models = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self.list_models),
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/__recorded/stats", self.show_stats),
                Route("/__recorded/stats", self.clear_stats, methods=["DELETE"]),
                Route("/health", self.show_health),
            ]
        )

    async def list_models(self, request: Request) -> Response:
        models = [
            {"id": model, "object": "model", "created": 0, "owned_by": "recorded"}
            for model in self.answers.models
        ]
        return _json({"object": "list", "data": models})

    async def complete(self, request: Request) -> Response:
        try:
            asked = read_request(await request.body())
            key = key_of(asked.messages)
            answer = self._find(asked.model, key).cut(asked.max_tokens)
        except RequestError as error:
            return _json(error.body, error.status)
        if asked.stream:
            return StreamingResponse(self._stream(asked, key, answer), media_type="text/event-stream")
        await self._write(answer.completion_tokens)
        if await request.is_disconnected():
            self.counters[asked.model].cancelled += 1
        else:
            self._count(asked, key, answer)
        return Response(ChatShape(asked, answer).whole(), media_type="application/json")

    async def show_stats(self, request: Request) -> Response:
        models = {model: asdict(counters) for model, counters in self.counters.items()}
        return _json({"models": models, "unknown_models": self.unknown_models, "broken_off": self.broken_off})

    async def clear_stats(self, request: Request) -> Response:
        self.reset()
        return Response(status_code=204)

    async def show_health(self, request: Request) -> Response:
        return Response()

    def _find(self, model: str, key: str) -> Recorded:
        """The answer. Raises `RequestError` 404 for a model or a prompt that was not recorded."""
        counters = self.counters.get(model)
        if counters is None:
            self.unknown_models += 1
            served = ", ".join(self.answers.models)
            message = f"The model '{model}' was not recorded; there are: {served}."
            raise RequestError(404, message, "model", "model_not_found")
        counters.requests += 1
        answer = self.answers.get(model, key)
        if answer is None:
            counters.unknown_prompts += 1
            why = "this model gave no answer to it" if self.answers.knows(key) else "it is unknown"
            message = f"No answer of '{model}' was recorded for this prompt: {why}."
            raise RequestError(404, message, "messages", "prompt_not_recorded")
        return answer

    async def _stream(self, asked: Asked, key: str, answer: Recorded) -> AsyncIterator[bytes]:
        """Events at the stated rate; a client that leaves is counted as cancelled."""
        shape = ChatShape(asked, answer)
        pace = answer.completion_tokens / max(1, len(answer.pieces))  # tokens a piece
        done, written = False, 0.0
        try:
            yield shape.opening()
            if self.tokens_per_s:
                for event in shape.pieces():
                    await self._write(pace)
                    written += pace
                    yield event
            else:
                yield b"".join(shape.pieces())
            done = True
            self._count(asked, key, answer)
            yield shape.ending()
        finally:
            if not done:
                counters = self.counters[asked.model]
                counters.cancelled += 1
                counters.cancelled_tokens += round(written)
                self.broken_off[asked.model][key] = written / max(1, answer.completion_tokens)

    async def _write(self, tokens: float) -> None:
        """Wait as long as a model of this speed writes `tokens`."""
        if self.tokens_per_s:
            await asyncio.sleep(tokens / self.tokens_per_s)

    def _count(self, asked: Asked, key: str, answer: Recorded) -> None:
        counters, seen = self.counters[asked.model], self._answered[asked.model]
        counters.answered += 1
        counters.streamed += asked.stream
        counters.repeated += key in seen
        counters.prompt_tokens += answer.prompt_tokens
        counters.completion_tokens += answer.completion_tokens
        seen.add(key)


def create_recorded_app(
    examples: Iterable[Example], models: Sequence[str], tokens_per_s: float = 0.0
) -> Starlette:
    """The server as an ASGI application. Raises `ExamplesError` for a model without answers."""
    return RecordedServer(RecordedAnswers(examples, models), tokens_per_s).app()


class AnnouncingServer(uvicorn.Server):
    """Tells its URL on standard output once it listens, so that whoever started it on port 0 can find it."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            print(f"{READY}http://{host}:{port}/v1", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.recorded", description="Serve recorded answers as OpenAI does."
    )
    parser.add_argument("--examples", nargs="+", required=True, metavar="FILE", help="example tables")
    parser.add_argument("--model", nargs="+", required=True, metavar="NAME", help="models of these tables")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100, help="0: any free one, told on standard output")
    parser.add_argument("--tokens-per-s", type=float, default=0.0, help="speed of writing; 0: at once")
    options = parser.parse_args(argv)
    try:
        answers = read_recorded(options.examples, options.model)
    except ExamplesError as error:
        print(f"bench.recorded: {error}", file=sys.stderr)
        return 1
    app = RecordedServer(answers, options.tokens_per_s).app()
    config = uvicorn.Config(app, options.host, options.port, log_level="warning", access_log=False)
    AnnouncingServer(config).run()
    return 0


def _json(data: object, status: int = 200) -> Response:
    return Response(orjson.dumps(data), status, media_type="application/json")


if __name__ == "__main__":
    sys.exit(main())

"""A model in this process that answers as an OpenAI-compatible server would.

It is the embedded default's stand-in for vLLM: the same routes, the same shapes, the same prompt tokens (both
apply the folder's chat template), so that what works in front of it works in front of vLLM. As with vLLM the
end token counts among the completion tokens and closes the list of log-probabilities.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demo.engine import Engine, EngineFailed, Job, Piece
from demo.generation import Sampling
from demo.openai_request import Call, RequestError, parse_body, read_call, read_messages, read_prompts
from demo.pair import LoadedModel, load_model
from demo.wire import ChatShape, Shape, TextShape, encode_event
from routing.errors import BackendBroken, BackendError, BackendTimeout, BackendUnavailable
from routing.protocols import BackendRequest

_JSON = {"content-type": "application/json"}
_EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class WholeReply:
    """An answer that is complete before its status is known."""

    def __init__(self, content: Mapping[str, Any], status: int = 200) -> None:
        self.status, self.headers = status, dict(_JSON)
        self._body = json.dumps(content, ensure_ascii=False).encode()
        self.headers["content-length"] = str(len(self._body))

    async def read(self) -> bytes:
        return self._body

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body

    async def close(self) -> None:
        """Nothing to give up: the work is done."""


@dataclass(slots=True)
class _Generation:
    """The jobs of one request: `choices` for each prompt, in the order of the answer's `index`."""

    call: Call
    shape: Shape
    prompts: list[list[int]]
    jobs: list[Job]
    deadline: float | None  # on the event loop's clock

    def abandon(self) -> None:
        for job in self.jobs:
            job.abandon()

    async def next_piece(self, job: Job) -> Piece:
        """The job's next token. Raises `BackendTimeout` past the deadline, `BackendBroken`."""
        try:
            async with asyncio.timeout_at(self.deadline):
                return await job.next_piece()
        except TimeoutError as exc:
            raise BackendTimeout("the answer was not complete when its time was up", "total") from exc
        except EngineFailed as exc:
            raise BackendBroken(str(exc)) from exc

    async def finish(self) -> list[list[Piece]]:
        """All pieces of all answers."""
        answers = []
        for job in self.jobs:
            pieces = [await self.next_piece(job)]
            while pieces[-1].finish_reason is None:
                pieces.append(await self.next_piece(job))
            answers.append(pieces)
        return answers

    def usage(self) -> dict[str, int]:
        prompt = sum(len(ids) for ids in self.prompts)
        completion = sum(len(job.row.tokens) for job in self.jobs)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


class StreamReply:
    """Server-sent events, made as tokens come; closing it stops the generation within a step."""

    def __init__(self, generation: _Generation) -> None:
        self.status, self.headers = 200, dict(_EVENTS)
        self._generation = generation

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        generation, shape = self._generation, self._generation.shape
        merged: asyncio.Queue[tuple[int, Piece | BackendError]] = asyncio.Queue()
        readers = [
            asyncio.create_task(self._follow(index, job, merged)) for index, job in enumerate(generation.jobs)
        ]
        try:
            for index in range(len(generation.jobs)):
                for event in shape.open_choice(index):
                    yield encode_event(event)
            held: list[list[Piece]] = [[] for _ in generation.jobs]
            running = len(generation.jobs)
            while running:
                index, piece = await merged.get()
                if isinstance(piece, BackendError):
                    raise piece
                held[index].append(piece)
                # A token whose text is held back waits for the next; the end token has none, and is sent
                # only for its log-probability.
                if piece.text or (piece.finish_reason and generation.call.logprobs):
                    yield encode_event(shape.stream_choice(index, held[index]))
                    held[index] = []
                if piece.finish_reason:
                    yield encode_event(shape.end_choice(index, piece.finish_reason))
                    running -= 1
            if generation.call.include_usage:
                yield encode_event(shape.usage_event(generation.usage()))
            yield b"data: [DONE]\n\n"
        finally:
            generation.abandon()
            for reader in readers:
                reader.cancel()

    async def _follow(self, index: int, job: Job, merged: asyncio.Queue[tuple[int, Any]]) -> None:
        """Pass one answer's pieces on, marked with its index."""
        while True:
            try:
                piece = await self._generation.next_piece(job)
            except BackendError as exc:
                merged.put_nowait((index, exc))
                return
            merged.put_nowait((index, piece))
            if piece.finish_reason:
                return

    async def close(self) -> None:
        self._generation.abandon()


class InProcessBackend:
    """Serves one Hugging Face folder as `model_id`. Implements `routing.protocols.Backend`."""

    def __init__(self, loaded: LoadedModel, model_id: str, max_rows: int = 32) -> None:
        self.model_id = model_id
        self._loaded = loaded
        self.engine = Engine(loaded, max_rows)
        self._created = int(time.time())

    @classmethod
    def from_folder(cls, folder: Path, model_id: str, max_rows: int = 32) -> InProcessBackend:
        """Load the folder (about 0.2 s) and start its thread. Raises `OSError` when files are missing."""
        return cls(load_model(folder), model_id, max_rows)

    async def send(self, request: BackendRequest) -> WholeReply | StreamReply:
        """Answer one call: when this returns, a plain answer is complete and a stream has begun."""
        try:
            return await self._answer(request)
        except RequestError as exc:
            return WholeReply(exc.to_json(), exc.status)

    async def close(self) -> None:
        """Stop the thread; answers under way end with `BackendBroken`."""
        await asyncio.to_thread(self.engine.close)

    async def _answer(self, request: BackendRequest) -> WholeReply | StreamReply:
        path = request.path.partition("?")[0].rstrip("/")
        if path == "/models" or path.startswith("/models/"):
            return self._describe(path.removeprefix("/models").lstrip("/"))
        if path not in ("/chat/completions", "/completions"):
            raise RequestError(f"There is no {path}.", code="not_found", status=404)
        if request.method != "POST":
            raise RequestError(
                f"{path} takes POST, not {request.method}.", code="method_not_allowed", status=405
            )
        generation = self._begin(parse_body(request.body), path == "/chat/completions", request.timeout_s)
        if generation.call.stream:
            return StreamReply(generation)
        try:
            answers = await generation.finish()
        finally:
            generation.abandon()
        return WholeReply(generation.shape.whole(answers, generation.usage()))

    def _describe(self, asked: str) -> WholeReply:
        card = {
            "id": self.model_id,
            "object": "model",
            "created": self._created,
            "owned_by": "upshift-demo",
            "max_model_len": self._loaded.context_tokens,
        }
        if asked and asked != self.model_id:
            raise _unknown_model(asked)
        return WholeReply(card if asked else {"object": "list", "data": [card]})

    def _begin(self, fields: Mapping[str, Any], chat: bool, timeout_s: float | None) -> _Generation:
        """Check the call and hand its rows to the engine. Raises `RequestError`, `BackendUnavailable`."""
        if fields.get("model") not in (None, self.model_id):
            raise _unknown_model(fields["model"])
        call = read_call(fields, chat)
        prompts = [self._encode_chat(fields)] if chat else self._encode_plain(fields)
        samplings = [self._fit_context(ids, call, "messages" if chat else "prompt") for ids in prompts]
        vocabulary = self.engine.token_bytes
        shape: Shape
        if chat:
            shape = ChatShape(self.model_id, f"chatcmpl-{uuid.uuid4().hex}", vocabulary, call)
        else:
            echoed: list[Any] = [
                self._loaded.tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts
            ]
            prefixes = echoed if fields.get("echo") else [""] * len(prompts)
            shape = TextShape(self.model_id, f"cmpl-{uuid.uuid4().hex}", vocabulary, call, prefixes)
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        generation = _Generation(call, shape, prompts, [], deadline)
        try:
            for ids, sampling in zip(prompts, samplings, strict=True):
                for choice in range(call.choices):
                    # Choices of one request must differ, and do so the same way each time the seed is given.
                    seed = None if sampling.seed is None else sampling.seed + choice
                    job = self.engine.submit(ids, replace(sampling, seed=seed), call.stops)
                    generation.jobs.append(job)
        except EngineFailed as exc:
            generation.abandon()
            raise BackendUnavailable(str(exc)) from exc
        return generation

    def _encode_chat(self, fields: Mapping[str, Any]) -> list[int]:
        text: Any = self._loaded.tokenizer.apply_chat_template(
            read_messages(fields), tokenize=False, add_generation_prompt=True
        )
        return self._encode(text, add_special_tokens=False)

    def _encode_plain(self, fields: Mapping[str, Any]) -> list[list[int]]:
        size = len(self._loaded.tokenizer)
        encoded = []
        for prompt in read_prompts(fields):
            ids = self._encode(prompt, add_special_tokens=True) if isinstance(prompt, str) else prompt
            if max(ids) >= size:
                raise RequestError(f"Token id {max(ids)} is beyond the vocabulary of {size}.", "prompt")
            encoded.append(ids)
        return encoded

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._loaded.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return ids

    def _fit_context(self, ids: Sequence[int], call: Call, param: str) -> Sampling:
        """The sampling with its token limit filled in. Raises `RequestError` past the context."""
        context, wanted = self._loaded.context_tokens, call.sampling.max_tokens
        if len(ids) + max(1, wanted) > context:
            raise RequestError(
                f"This model's maximum context length is {context} tokens. However, you requested "
                f"{len(ids) + wanted} tokens ({len(ids)} in the {param}, {wanted} in the completion).",
                param,
                "context_length_exceeded",
            )
        return call.sampling if wanted else replace(call.sampling, max_tokens=context - len(ids))


def _unknown_model(name: Any) -> RequestError:
    return RequestError(f"The model '{name}' does not exist.", "model", "model_not_found", 404)

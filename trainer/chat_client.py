"""Chat completions for the trainer: patient, bounded, and exact about what came back.

aiohttp, as in the server: it is there already, and what counts here (one pause for a whole endpoint that
names a time, no hidden repeats, the seconds of the answering attempt alone) an SDK would have to be talked
out of.

Repeated with backoff: no connection, a timeout, a broken or unreadable reply, 408, 409, 425, 429 and 5xx. A
`Retry-After` holds back every request to that endpoint, not just the one that was told. A 401 or 403 ends the
run, since no other row could fare better; any other refusal is that row's own.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from routing.errors import StageError
from scorers.text import render_answer
from trainer.dialect import Body, apply_concessions, next_concession
from trainer.endpoint import Endpoint

_REPEATED = frozenset((408, 409, 425, 429))
_DETAIL_CHARS = 300


class RowFailed(Exception):
    """This row has no answer and will not get one by asking again; the message is the reason."""


class _Refused(Exception):
    """400 or 422, which a concession may mend."""


class _Again(Exception):
    """A failure that passes; `wait_s` where the endpoint named a time."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one answer is waited and asked for. Times in seconds."""

    attempts: int = 8
    timeout_s: float = 300.0  # of one attempt, to the last byte
    backoff_s: float = 0.5  # before the second attempt; doubles, with jitter
    max_backoff_s: float = 30.0
    max_retry_after_s: float = 600.0  # a longer Retry-After fails the row


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `cost_usd` is what the endpoint charged if it says so, else tokens times price."""

    text: str
    finish_reason: str | None
    logprobs: list[float] | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    latency_s: float


class ChatClient:
    """One endpoint. Use inside a running loop; the session is the caller's."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession, patience: Patience) -> None:
        self.endpoint = endpoint
        self.concessions: set[str] = set()
        self.repeats = 0  # attempts beyond the first, of all requests
        self._session = session
        self._patience = patience
        self._open_at = 0.0  # monotonic: nothing is sent before it

    async def complete(self, body: Body) -> Reply:
        """The answer to a chat body (`model` is filled in). Raises `RowFailed`, or `StageError` when the
        endpoint refuses the key."""
        body = {"model": self.endpoint.model, **body}
        made = set(self.concessions)
        while True:
            try:
                reply = await self._persist(apply_concessions(body, made))
            except _Refused as refusal:
                name = next_concession(body, made, str(refusal))
                if name is None:
                    raise RowFailed(str(refusal)) from refusal
                made.add(name)
            else:
                self.concessions |= made
                return reply

    async def _persist(self, body: Body) -> Reply:
        patience = self._patience
        for attempt in range(1, patience.attempts + 1):
            await self._wait_until_open()
            try:
                return await self._ask(body)
            except _Again as failure:
                if attempt == patience.attempts:
                    raise RowFailed(f"{failure} ({attempt} attempts)") from failure
                await self._back_off(failure, attempt)
                self.repeats += 1
        raise AssertionError("unreachable: attempts is at least 1")

    async def _wait_until_open(self) -> None:
        while (wait_s := self._open_at - time.monotonic()) > 0:  # noqa: ASYNC110, the time may move on
            await asyncio.sleep(wait_s)

    async def _back_off(self, failure: _Again, attempt: int) -> None:
        if failure.wait_s is not None:
            if failure.wait_s > self._patience.max_retry_after_s:
                raise RowFailed(f"{failure}, to be asked again only after {failure.wait_s:.0f} s")
            self._open_at = max(self._open_at, time.monotonic() + failure.wait_s)
            return
        # Full jitter: of all schemes the one with the fewest collisions (Brooker, "Exponential backoff
        # and jitter", AWS 2015).
        bound_s = min(self._patience.backoff_s * 2 ** (attempt - 1), self._patience.max_backoff_s)
        await asyncio.sleep(random.uniform(0.0, bound_s))

    async def _ask(self, body: Body) -> Reply:
        url = f"{self.endpoint.url}/chat/completions"
        headers = {"content-type": "application/json"}
        if key := self.endpoint.key():
            headers["authorization"] = f"Bearer {key}"
        timeout = aiohttp.ClientTimeout(total=self._patience.timeout_s)
        started = time.monotonic()
        try:
            async with self._session.post(
                url, data=json.dumps(body).encode(), headers=headers, timeout=timeout
            ) as response:
                data = await response.read()
        except TimeoutError as exc:
            raise _Again(f"{url}: no answer in {self._patience.timeout_s:g} s") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise _Again(f"{url}: {type(exc).__name__} {exc}".rstrip()) from exc
        latency_s = time.monotonic() - started
        if response.status != 200:
            raise self._failure(response.status, response.headers, data)
        return self._read(data, latency_s)

    def _failure(self, status: int, headers: Mapping[str, str], data: bytes) -> Exception:
        where = f"{self.endpoint.url} answered {status}"
        reason = f"{where}: {_detail(data)}"
        if status in (401, 403):
            return StageError(
                f"{reason}; the key of {self.endpoint.model!r} comes from {_key_names(self.endpoint)}"
            )
        if status in (400, 422):
            return _Refused(reason)
        if status in _REPEATED or status >= 500:
            return _Again(reason, read_retry_after(headers.get("retry-after")))
        return RowFailed(reason)

    def _read(self, data: bytes, latency_s: float) -> Reply:
        try:
            body = json.loads(data)
            choice = body["choices"][0]
            text = render_answer(choice["message"])
            usage = body.get("usage") or {}
            prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
            charged = usage.get("cost")
            return Reply(
                text=text.encode("utf-8", "replace").decode(),  # a lone surrogate is in no file
                finish_reason=choice.get("finish_reason"),
                logprobs=_logprobs(choice),
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                cost_usd=float(charged)
                if isinstance(charged, (int, float))
                else self.endpoint.cost_usd(prompt_tokens, completion_tokens),
                latency_s=round(latency_s, 4),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
            raise _Again(f"{self.endpoint.url}: not a chat completion ({type(exc).__name__}: {exc})") from exc


def read_retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` (a number, or an HTTP date), None without one that can be read."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _logprobs(choice: Mapping[str, Any]) -> list[float] | None:
    """Natural logarithms of the answer's tokens; rounding in a server may leave one a hair above 0."""
    content = (choice.get("logprobs") or {}).get("content")
    if not content:
        return None
    return [min(0.0, float(token["logprob"])) for token in content]


def _detail(data: bytes) -> str:
    try:
        body = json.loads(data)
        error = body.get("error", body)
        message = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, AttributeError):
        message = data.decode("utf-8", "replace")
    return " ".join(str(message).split())[:_DETAIL_CHARS] or "(no text)"


def _key_names(endpoint: Endpoint) -> str:
    tier = f"UPSHIFT_{endpoint.tier.upper().replace('-', '_')}_API_KEY or " if endpoint.tier else ""
    return f"{tier}UPSHIFT_API_KEY"

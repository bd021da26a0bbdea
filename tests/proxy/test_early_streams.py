"""`early` streams over real sockets: what the client sees of a judged answer before its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from routing.early import Checkpoint, EarlyRule
from routing.policy import Policy
from routing.protocols import Answer
from tests.proxy.live_proxy import FixedScorers, LiveProxy, Stopwatch, live_proxy, make_settings
from tests.upstream import Upstream

WORDS = " ".join(f"word{number}" for number in range(60))
BOUNDS = EarlyRule(0.5, [Checkpoint(16, commit=-0.3, abandon=0.3), Checkpoint(48, commit=-0.2, abandon=0.2)])


class PrefixScorers(FixedScorers):
    """A prefix has the score `prefix`, a whole answer `score`; notes what it was shown."""

    def __init__(self, prefix: float, whole: float, early: EarlyRule | None = BOUNDS) -> None:
        super().__init__(whole)
        self.prefix = prefix
        self.seen: list[Answer] = []
        self.policy = Policy(
            version="early", default="evaluator", thresholds={"evaluator": 0.5}, explore_share=0.0,
            early={"evaluator": early} if early else {},
        )  # fmt: skip

    async def score_answers(self, prompt: str, answers: Sequence[Answer]) -> list[float]:
        self.seen += answers
        return [self.prefix if answer.finish_reason is None else self.score for answer in answers]


@contextlib.asynccontextmanager
async def early_pair(
    scorers: FixedScorers, **routing: Any
) -> AsyncIterator[tuple[Upstream, Upstream, LiveProxy]]:
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        weak.script.text = WORDS
        weak.script.piece_delay_s = 0.01
        tiers = [
            {"name": "weak", "url": weak.url, "model": weak.model, "output_usd_per_mtok": 1.0,
             "input_usd_per_mtok": 1.0},
            {"name": "strong", "url": strong.url, "model": strong.model, "output_usd_per_mtok": 10.0},
        ]  # fmt: skip
        settings = make_settings(tiers, routing={"stream_mode": "early", **routing})
        async with live_proxy(settings, scorers) as proxy:
            yield weak, strong, proxy


async def first_content(proxy: LiveProxy, **fields: Any) -> tuple[float, float, list[Any], dict[str, str]]:
    """Seconds to the first content and to the end, the events, and the headers."""
    body = {"model": "upshift", "stream": True, "messages": [{"role": "user", "content": "hi"}], **fields}
    started, first, text = time.monotonic(), 0.0, b""
    async with proxy.session.post(f"{proxy.url}/v1/chat/completions", json=body) as response:
        async for piece in response.content.iter_any():
            text += piece
            if not first and b'"content":' in text.replace(b": ", b":").replace(b'"content":""', b""):
                first = time.monotonic() - started
        headers = {name.lower(): value for name, value in response.headers.items()}
    events = [block[6:] for block in text.decode().split("\n\n") if block]
    return first, time.monotonic() - started, events, headers


def content(events: list[str]) -> str:
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices"))


async def test_a_sure_answer_flows_while_it_is_written() -> None:
    scorers = PrefixScorers(0.95, 0.95)
    async with early_pair(scorers) as (weak, strong, proxy):
        first, end, events, headers = await first_content(proxy)
        assert headers["x-upshift-reason"] == "early_commit"
        assert headers["x-upshift-decision"] == "weak"
        assert first < 0.6 * end, (first, end)
        assert content(events) == WORDS
        assert events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
        assert len({chunk["id"] for chunk in chunks}) == len({chunk["created"] for chunk in chunks}) == 1
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        told = [chunk["upshift"] for chunk in chunks if "upshift" in chunk]
        assert len(told) == 1
        assert chunks[-1]["upshift"]["reason"] == "early_commit"
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert all(chunk["choices"][0]["logprobs"] is None for chunk in chunks), "they were for us"
        assert not strong.seen
        assert scorers.seen[0].finish_reason is None
        assert scorers.seen[0].logprobs is not None
        assert len(scorers.seen[0].logprobs) == scorers.seen[0].completion_tokens
        assert weak.last.body["logprobs"] is True


async def test_the_usage_chunk_carries_the_field_where_the_client_asked_for_it() -> None:
    async with early_pair(PrefixScorers(0.95, 0.95)) as (_, _, proxy):
        _, _, events, _ = await first_content(proxy, stream_options={"include_usage": True})
        last = json.loads(events[-2])
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == 7
        assert last["upshift"]["cost_usd"] == pytest.approx((11 + 7) / 1e6)


async def test_a_hopeless_answer_is_cancelled_and_nothing_of_it_is_shown() -> None:
    async with early_pair(PrefixScorers(0.05, 0.05)) as (weak, strong, proxy):
        _, _, events, headers = await first_content(proxy)
        assert (headers["x-upshift-decision"], headers["x-upshift-reason"]) == ("escalated", "early_abandon")
        assert "word" not in "".join(events)
        assert content(events) == strong.script.text
        assert weak.wait_until(lambda: weak.in_flight == 0, 0.2)
        assert weak.cancelled == 1
        told = json.loads(events[-2])["upshift"]
        assert told["cost_usd"] > 7 * 10 / 1e6, "the abandoned tokens are paid for"
        await proxy.settled()


async def test_prefixes_that_leave_it_open_are_held_to_the_end() -> None:
    for whole, reason in ((0.9, "adequate"), (0.1, "inadequate")):
        scorers = PrefixScorers(0.5, whole)
        async with early_pair(scorers) as (_, _, proxy):
            first, end, events, headers = await first_content(proxy)
            assert headers["x-upshift-reason"] == reason
            assert first > 0.55, (first, end)
            assert ("word" in content(events)) == (whole > 0.5)
            assert len(scorers.seen) == 3


async def test_a_break_after_the_commit_is_an_error_event_and_an_end() -> None:
    async with early_pair(PrefixScorers(0.95, 0.95)) as (weak, strong, proxy):
        weak.script.break_after_chunks = 40
        seen = await proxy.ask(stream=True)
        assert seen.status == 200
        assert seen.ended
        assert len(seen.errors) == 1
        assert not seen.finished
        assert not strong.seen, "no switch after the first byte"


async def test_a_break_before_the_commit_shifts_up() -> None:
    async with early_pair(PrefixScorers(0.95, 0.95)) as (weak, strong, proxy):
        weak.script.break_after_chunks = 8
        seen = await proxy.ask(stream=True)
        assert seen.text == strong.script.text
        assert "word" not in seen.body.decode()


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_tools_and_json_are_held_to_the_end(fields: dict[str, Any]) -> None:
    scorers = PrefixScorers(0.95, 0.95)
    async with early_pair(scorers) as (weak, _, proxy):
        if "response_format" in fields:
            weak.script.text = json.dumps({"a": WORDS})
        _, _, _, headers = await first_content(proxy, **fields)
        assert headers["x-upshift-reason"] == "adequate"
        assert [answer.finish_reason for answer in scorers.seen] == ["stop"]


async def test_a_tool_call_nobody_asked_for_is_not_shown_early() -> None:
    async with early_pair(PrefixScorers(0.95, 0.05)) as (weak, strong, proxy):
        weak.script.calls = [("secret_tool", json.dumps({"query": WORDS}))]
        weak.script.piece_delay_s = 0.001
        seen = await proxy.ask(stream=True)
        assert seen.text == strong.script.text
        assert b"secret_tool" not in seen.body


async def test_the_least_adequate_choice_decides_prefixes_too() -> None:
    async with early_pair(PrefixScorers(0.95, 0.95)) as (_, _, proxy):
        _, _, events, headers = await first_content(proxy, n=2)
        assert headers["x-upshift-reason"] == "early_commit"
        chunks = [json.loads(event) for event in events[:-1]]
        for index in (0, 1):
            deltas = [c["delta"] for chunk in chunks for c in chunk["choices"] if c["index"] == index]
            assert "".join(delta.get("content") or "" for delta in deltas) == WORDS


async def test_without_bounds_early_is_hold_and_says_so_once(caplog) -> None:
    scorers = PrefixScorers(0.95, 0.95, early=None)
    async with early_pair(scorers) as (_, _, proxy):
        with caplog.at_level(logging.WARNING, "upshift.routed"):
            for _ in range(2):
                seen = await proxy.ask(stream=True)
                assert seen.headers["x-upshift-reason"] == "adequate"
        assert sum("held to their end" in record.message for record in caplog.records) == 1
        assert all(answer.finish_reason == "stop" for answer in scorers.seen)


async def test_a_request_may_ask_for_its_own_mode() -> None:
    async with early_pair(PrefixScorers(0.95, 0.95), stream_mode="hold") as (_, _, proxy):
        seen = await proxy.ask(stream=True)
        assert seen.headers["x-upshift-reason"] == "adequate"
        seen = await proxy.ask(stream=True, upshift={"stream_mode": "early"})
        assert seen.headers["x-upshift-reason"] == "early_commit"


@pytest.mark.parametrize("when", ["before", "after", "race"])
async def test_a_client_that_leaves_frees_both_backends(when: str) -> None:
    """Before the commit and after it, and with two tiers at work, within 100 ms."""
    scorers = PrefixScorers(0.95 if when == "after" else 0.5, 0.5)
    racing = {"stream_mode": "race", "race_slow_after_s": 0.05, "race_budget_share": 1.0, "race_unsure": 0.0}
    async with early_pair(scorers, **(racing if when == "race" else {})) as (weak, strong, proxy):
        weak.script.piece_delay_s = 0.05
        strong.script.delay_s = 30.0
        host, port = proxy.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps(
            {"model": "upshift", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        ).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        if when == "after":
            await reader.readuntil(b"word3")
        else:
            await asyncio.sleep(0.5)
        assert (weak.in_flight, strong.in_flight) == (1, int(when == "race"))
        async with Stopwatch() as watch:
            writer.transport.abort()
            started = time.monotonic()
            while weak.in_flight or strong.in_flight:
                assert time.monotonic() - started < 5
                await asyncio.sleep(0.002)
            seconds = time.monotonic() - started
        assert seconds - watch.total_s < 0.1
        await proxy.settled()
        assert proxy.outcomes() == {"cancelled": 1}

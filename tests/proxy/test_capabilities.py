"""Rules before any score, and what a tier without log-probabilities or with a smaller window says itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from routing.protocols import Answer
from tests.proxy.live_proxy import FixedScorers
from tests.proxy.test_first_week import TOOLS, ladder, user, why

ALL = ["audio", "images", "json_schema", "logprobs", "n", "responses", "stream_usage", "tools"]


def parts(*more: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is it"}, *more]}]}


NEEDS: dict[str, dict[str, Any]] = {
    "tools": {**user("weather"), "tools": TOOLS},
    "images": parts({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}),
    "audio": parts({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
    "json_schema": {
        **user("a city"),
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    },
    "n": {**user("a city"), "n": 2},
}


@pytest.mark.parametrize("capability", list(NEEDS))
async def test_a_tier_gets_only_what_it_can_do(capability: str) -> None:
    fields = NEEDS[capability]
    weak = {"capabilities": [name for name in ALL if name != capability]}
    async with ladder(weak=weak, scorers=FixedScorers(0.9)) as (proxy, backends):
        for stream in (False, True):
            assert await why(proxy, **fields, stream=stream) == ("strong", "capability")
        assert not backends["weak"].seen
        assert await why(proxy, **parts()) == ("weak", "adequate")
    async with ladder() as (proxy, backends):
        backends["weak"].script.text = "{}"
        assert await why(proxy, **fields) == ("weak", "adequate")


async def test_functions_are_tools_and_an_empty_list_is_none() -> None:
    weak = {"capabilities": ["logprobs"]}
    async with ladder(weak=weak) as (proxy, _):
        functions = [{"name": "f", "parameters": {}}]
        assert await why(proxy, **user("x"), functions=functions) == ("strong", "capability")
        assert await why(proxy, **user("x"), tools=[]) == ("weak", "adequate")
        json_object = {"response_format": {"type": "text"}}
        assert await why(proxy, **user("x"), **json_object) == ("weak", "adequate")


async def test_a_window_that_only_the_backend_knew_shifts_up() -> None:
    async with ladder() as (proxy, backends):
        backends["weak"].script.status = 400
        backends["weak"].script.code = "context_length_exceeded"
        for stream in (False, True):
            assert await why(proxy, stream=stream) == ("strong", "context_window")


async def test_any_other_fault_of_the_client_is_told_at_once() -> None:
    async with ladder() as (proxy, backends):
        for status, stream in ((400, False), (400, True), (413, False), (422, True)):
            backends["weak"].script.status = status
            seen = await proxy.ask(stream=stream)
            assert (seen.status, seen.headers["x-upshift-tier"]) == (status, "weak")
            assert seen.headers["x-should-retry"] == "false"
        assert not backends["strong"].seen
        assert proxy.outcomes() == {"client_error": 4}


class SeeingScorers(FixedScorers):
    """Keeps what it was asked to judge; the second choice is the worse one."""

    def __init__(self) -> None:
        super().__init__(0.9)
        self.seen: list[Answer] = []
        self.by_place = [0.9, 0.9]

    async def score_answers(self, prompt: str, answers: Sequence[Answer]) -> list[float]:
        self.seen = list(answers)
        return self.by_place[: len(answers)]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_least_adequate_of_several_choices_decides(stream: bool) -> None:
    scorers = SeeingScorers()
    async with ladder(scorers=scorers) as (proxy, _):
        assert await why(proxy, n=2, stream=stream) == ("weak", "adequate")
        assert len(scorers.seen) == 2
        scorers.by_place = [0.9, 0.1]
        assert await why(proxy, n=2, stream=stream) == ("strong", "inadequate")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tier_without_log_probabilities_is_not_asked_for_them(stream: bool) -> None:
    scorers = SeeingScorers()
    async with ladder(scorers=scorers) as (proxy, backends):
        assert await why(proxy, stream=stream) == ("weak", "adequate")
        assert backends["weak"].last.body["logprobs"] is True
        assert scorers.seen[0].logprobs
    weak = {"capabilities": [name for name in ALL if name != "logprobs"]}
    async with ladder(scorers=scorers, weak=weak) as (proxy, backends):
        assert await why(proxy, stream=stream) == ("weak", "adequate")
        assert "logprobs" not in backends["weak"].last.body
        assert scorers.seen[0].logprobs is None
        assert scorers.seen[0].text == backends["weak"].script.text


async def test_a_tier_without_stream_usage_is_not_asked_for_it() -> None:
    weak = {"capabilities": [name for name in ALL if name != "stream_usage"]}
    async with ladder(weak=weak) as (proxy, backends):
        seen = await proxy.ask(stream=True)
        assert "stream_options" not in backends["weak"].last.body
        assert [event["upshift"]["tier"] for event in seen.events if "upshift" in event] == ["weak"]

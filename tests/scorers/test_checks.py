"""Hard checks: each catches what it is for and lets its neighbour pass."""

from __future__ import annotations

import pytest

from scorers.answer import RecordedAnswer
from scorers.checks import Expectation, failed_check

PLAIN = Expectation()
LOOP = "and so it goes on and on. " * 40


@pytest.mark.parametrize(
    ("text", "reason", "expect", "failed"),
    [
        ("The answer is 42.", "stop", PLAIN, None),
        ("", "stop", PLAIN, "empty"),
        (" \n\t", "stop", PLAIN, "empty"),
        ("half", "content_filter", PLAIN, "content_filter"),
        ("cut in the mid", "length", PLAIN, "length"),
        ("cut as asked", "length", Expectation(client_limit=True), None),
        ('{"a": 1}', "stop", Expectation(json=True), None),
        ('{"a": 1', "stop", Expectation(json=True), "invalid_json"),
        ("not json", "stop", PLAIN, None),
        ('[tool call] weather({"city": "Paris"})', "tool_calls", Expectation(tools=True), None),
        ('[tool call] weather({"city": )', "tool_calls", Expectation(tools=True), "tool_arguments"),
        ("I'm sorry, but I can't help with that.", "stop", PLAIN, "refusal"),
        ("As an AI language model, I cannot have opinions.", "stop", PLAIN, "refusal"),
        ("I cannot assist with this.", "stop", PLAIN, "refusal"),
        ("I can't wait to tell you: it is 7.", "stop", PLAIN, None),
        ("He said: I'm sorry, but I can't help.", "stop", PLAIN, None),
        (LOOP, "stop", PLAIN, "repetition"),
        (" ".join(f"{n} squared is {n * n}." for n in range(60)), "stop", PLAIN, None),
    ],
)
def test_hard_check(text: str, reason: str, expect: Expectation, failed: str | None) -> None:
    assert failed_check(RecordedAnswer(text, reason), expect) == failed

"""A weak answer that no client could use is never seen by one, whatever the evaluator thinks of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.proxy.test_first_week import TOOLS, ladder, user

SCHEMA = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
}
ANSWERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "empty": ({"text": " \n", "finish_reason": "stop"}, {}),
    "cut off": ({"text": "WEAK begins but", "finish_reason": "length"}, {}),
    "refused": ({"text": "I'm sorry, but I can't help with that. WEAK"}, {}),
    "refused by field": ({"text": "", "refusal": "I'm sorry, I can't help with that WEAK"}, {}),
    "filtered": ({"text": "WEAK", "finish_reason": "content_filter"}, {}),
    "looping": ({"text": "WEAK and again " * 60}, {}),
    "invalid JSON": ({"text": '{"city": "WEAK", '}, SCHEMA),
    "JSON in prose": ({"text": 'Here is WEAK: {"city": 1}'}, {"response_format": {"type": "json_object"}}),
    "malformed arguments": ({"calls": [("f", '{"where": "WEAK')]}, {"tools": TOOLS}),
    "the second call malformed": ({"calls": [("f", "{}"), ("f", '{"where": WEAK}')]}, {"tools": TOOLS}),
}  # fmt: skip


MODES: list[dict[str, Any]] = [
    {},
    *({"stream": True, "upshift": {"stream_mode": mode}} for mode in ("hold", "early", "race")),
]


@pytest.mark.parametrize("kind", list(ANSWERS))
async def test_an_unusable_answer_is_replaced(kind: str) -> None:
    script, fields = ANSWERS[kind]
    async with ladder() as (proxy, backends):
        for name, value in script.items():
            setattr(backends["weak"].script, name, value)
        backends["strong"].script.text = '{"city": "Paris"}'
        for mode in MODES:
            seen = await proxy.ask(**{**user("hello"), **fields, **mode})
            assert seen.text == '{"city": "Paris"}'
            assert b"WEAK" not in seen.body
            assert seen.headers["x-upshift-decision"] == "escalated"
            assert seen.headers["x-upshift-reason"] in ("hard_check", "weak_failed")
            assert "x-upshift-evaluator-score" not in seen.headers
        assert len(backends["weak"].seen) == len(backends["strong"].seen) == len(MODES)


async def test_an_unusable_answer_never_stands_in_for_a_failed_strong_tier() -> None:
    async with ladder() as (proxy, backends):
        backends["weak"].script.text = "WEAK and again " * 60
        backends["strong"].script.status = 500
        for stream in (False, True):
            seen = await proxy.ask(stream=stream)
            assert seen.status == 500
            assert b"WEAK" not in seen.body


async def test_what_was_asked_for_passes_them() -> None:
    """An answer cut at the client's own limit, and well-formed calls of tools."""
    async with ladder() as (proxy, backends):
        weak = backends["weak"].script
        for stream in (False, True):
            weak.finish_reason, weak.calls = "length", []
            seen = await proxy.ask(stream=stream, max_tokens=10)
            assert (seen.headers["x-upshift-tier"], seen.headers["x-upshift-reason"]) == ("weak", "adequate")
            weak.finish_reason, weak.calls = None, [("f", '{"where": "here"}')]
            seen = await proxy.ask(stream=stream, tools=TOOLS)
            assert (seen.headers["x-upshift-tier"], seen.headers["x-upshift-reason"]) == ("weak", "adequate")

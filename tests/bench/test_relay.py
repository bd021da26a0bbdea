"""The relay's benchmark measures what it says: what was asked for is taken out, all else passes."""

from __future__ import annotations

from bench.relay import relay_once, stream_pieces
from proxy.attempt import Asked


async def test_the_streams_that_are_timed_lose_only_what_was_asked_for():
    plain = await relay_once(Asked(), stream_pieces(logprobs=False, usage=False))
    mended = await relay_once(Asked(logprobs=True, usage=True), stream_pieces(logprobs=True, usage=True))
    assert plain.count(b'" word"') == mended.count(b'" word"') == 1_000
    assert plain.endswith(b"data: [DONE]\n\n")
    assert b'"upshift":{"tier":"weak"}' in plain
    assert b"-0.3125" not in mended
    assert b'"usage"' not in mended

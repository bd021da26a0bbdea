"""Answers as serving sees them: whole, or cut at a checkpoint as a stream shows them half-way.

A table keeps an answer's text and perhaps its token count, seldom where each token ends. With a count (or
log-probabilities, one a token) the text is cut at the same share of its pieces; without, a piece counts as a
token (`scorers/pieces.py`). A cut ends where a piece ends, never inside a letter's bytes.
"""

from __future__ import annotations

import math

from scorers.answer import RecordedAnswer
from scorers.pieces import PIECE
from trainer.examples import Example

CHECKPOINT_TOKENS = (16, 32, 64, 128, 256)  # where beginnings are cut to teach the stack
# Where a stream may be judged early: dense, so that the last one an answer passes is near its end.
CHECKPOINTS = (
    4, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 144, 160, 176, 192, 208,
    224, 240, 256, 288, 320, 384, 448, 512,
)  # fmt: skip


def answer_of(row: Example) -> RecordedAnswer:
    """The whole answer of a row as serving will see it.

    A table without `finish_reason` is of answers that ended by themselves, as nearly all served ones do:
    "unknown" (None) is kept for prefixes.
    """
    reason = row.finish_reason if row.finish_reason is not None else "stop"
    return RecordedAnswer(row.response or "", reason, row.logprobs, row.completion_tokens)


def cut_answer(row: Example, tokens: int) -> RecordedAnswer:
    """The first `tokens` tokens of a row's answer, log-probabilities cut alike, `finish_reason` None.

    An answer of no more tokens than that comes back whole, with its `finish_reason`: whoever needs prefixes
    only can tell them apart by it. Raises `ValueError` for fewer than one token.
    """
    if tokens < 1:
        raise ValueError(f"an answer is cut at 1 token or more, not at {tokens}")
    whole = answer_of(row)
    ends = [match.end() for match in PIECE.finditer(whole.text)]
    total = _known_tokens(row) or len(ends)
    if total <= tokens or not ends:
        return whole
    pieces = max(1, math.floor(len(ends) * tokens / total))
    logprobs = None if whole.logprobs is None else whole.logprobs[:tokens]
    return RecordedAnswer(whole.text[: ends[pieces - 1]], None, logprobs, tokens)


def _known_tokens(row: Example) -> int | None:
    if row.logprobs is not None and len(row.logprobs):
        return len(row.logprobs)
    return row.completion_tokens or None

"""Hard checks: what makes an answer unusable whatever a scorer thinks of it.

Each costs microseconds and reads only the answer; there is no second model here. A check returns its
name when the answer fails. Order is from certain to likely.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from scorers.answer import AnswerLike

_CANNOT = r"(can['’]?t|can ?not|am (not able|unable))"
_REFUSAL = re.compile(
    rf"\A\W*(i['’]?m (very )?sorry,? (but )?i {_CANNOT} "
    rf"|i {_CANNOT} (to )?(help|assist|comply|fulfil|provide|answer)"
    rf"|as an ai( language model| assistant)?,? i ({_CANNOT}|do not|don['’]?t) )",
    re.IGNORECASE,
)
_TOOL_CALL = re.compile(r"^\[tool call\] [^(\n]*\((.*)\)$", re.MULTILINE)
_LOOP_MIN_CHARS = 240
_LOOP_REPEATS = 6


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the request asked of the form of an answer.

    `client_limit`: the client set its own token limit, so an answer cut by it is what was asked for.
    """

    client_limit: bool = False
    json: bool = False
    tools: bool = False


def failed_check(answer: AnswerLike, expect: Expectation) -> str | None:
    """Name of the first hard check that `answer` fails, None when all pass."""
    for name, fails in _CHECKS:
        if fails(answer, expect):
            return name
    return None


def _empty(answer: AnswerLike, expect: Expectation) -> bool:
    return not answer.text.strip()


def _filtered(answer: AnswerLike, expect: Expectation) -> bool:
    return answer.finish_reason == "content_filter"


def _cut(answer: AnswerLike, expect: Expectation) -> bool:
    return answer.finish_reason == "length" and not expect.client_limit


def _bad_json(answer: AnswerLike, expect: Expectation) -> bool:
    if not expect.json or answer.finish_reason in ("tool_calls", "length"):
        return False
    return not _parses(answer.text)


def _bad_tool_arguments(answer: AnswerLike, expect: Expectation) -> bool:
    if not expect.tools:
        return False
    return any(arguments and not _parses(arguments) for arguments in _TOOL_CALL.findall(answer.text))


def _refuses(answer: AnswerLike, expect: Expectation) -> bool:
    return _REFUSAL.match(answer.text) is not None


def _loops(answer: AnswerLike, expect: Expectation) -> bool:
    """The end of the text is one short unit over and over."""
    tail = answer.text[-2 * _LOOP_MIN_CHARS :]
    if len(tail) < _LOOP_MIN_CHARS:
        return False
    for period in range(1, len(tail) // _LOOP_REPEATS + 1):
        end = tail[-_LOOP_MIN_CHARS:]
        if end[period:] == end[:-period]:
            return len(end) >= _LOOP_REPEATS * period
    return False


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


_CHECKS: tuple[tuple[str, Callable[[AnswerLike, Expectation], bool]], ...] = (
    ("empty", _empty),
    ("content_filter", _filtered),
    ("length", _cut),
    ("invalid_json", _bad_json),
    ("tool_arguments", _bad_tool_arguments),
    ("refusal", _refuses),
    ("repetition", _loops),
)

"""Checks of an answer against its reference: the last number, word, time or list in the text must be it.

Taking the last one lets an answer show its working first. An answer that goes on talking after the result
is wrong unless it repeats the result, which is how a reader would see it too.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"-?\d+")
_TIME = re.compile(r"\d{1,2}:\d{2}")
_WORD = re.compile(r"[A-Za-z]+")


def ends_in_number(reference: str, answer: str) -> bool:
    """Whether the last whole number in `answer` equals `reference`."""
    found = _NUMBER.findall(answer)
    return bool(found) and int(found[-1]) == int(reference)


def ends_in_time(reference: str, answer: str) -> bool:
    """Whether the last time of day (`9:05`) in `answer` equals `reference`."""
    found = _TIME.findall(answer)
    return bool(found) and found[-1].lstrip("0") == reference.lstrip("0")


def ends_in_word(reference: str, answer: str) -> bool:
    """Whether the last word of `answer` is `reference`, upper and lower case alike."""
    found = _WORD.findall(answer)
    return bool(found) and found[-1].lower() == reference.lower()


def ends_in_word_or_number(reference: str, answer: str) -> bool:
    """`ends_in_number` for a numeric reference, `ends_in_word` for any other."""
    check = ends_in_number if reference.isdigit() else ends_in_word
    return check(reference, answer)


def is_same_list(reference: str, answer: str) -> bool:
    """Whether `answer` holds exactly the items of `reference`, in that order, after the last colon."""
    items = re.findall(r"\w+", answer.rsplit(":", 1)[-1].lower())
    return items == re.findall(r"\w+", reference.lower())

"""Cheap features of a prompt, beside its vector: how long, how many numbers and steps, what form of question.

A sentence vector says what a text is about and is trained to forget how long it is and how many numbers
stand in it; for a small model that is half of what makes a question hard. On GSM8K these features alone
rank prompts better than the vector alone, and both together better than either (see trainer/LOG.md).

Pure standard library and numpy, about 0.1 ms a prompt. Serving and training call the same
`prompt_features`; a bundle records `PROMPT_FEATURES` and is refused when they differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

PROMPT_FEATURES = (
    "chars_log", "words_log", "numbers_log", "different_numbers_log", "digit_share_log", "sentences_log",
    "word_chars_mean", "unique_word_share", "percent", "dollar", "multiples_log", "comparisons_log",
    "rates_log", "conditions_log", "negations_log", "question_marks_log", "lines_log", "stem_chars_log",
    "option_chars_mean_log", "option_chars_std_log", "numeric_options_log", "symbols_log",
    "capital_words_log", "blanks_log", "all_none_log", "commas_log", "slash", "how_many", "how_much",
    "remainders_log",
)  # fmt: skip
N_PROMPT_FEATURES = len(PROMPT_FEATURES)

_MAX_CHARS = 20_000  # the head and the tail of a longer text; a bound on time, not on meaning
_NUMBER = re.compile(r"\d[\d,]*\.?\d*")
_WORD = re.compile(r"[A-Za-z']+")
_SENTENCE_END = re.compile(r"[.?!](?:\s|$)")
_OPTION = re.compile(r"^\s*\(?[A-J][.):] ?(.*)$", re.MULTILINE)
_SYMBOLS = frozenset("\\^_{}=+*/<>")


def _words(*words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


_MULTIPLES = _words("half", "twice", "third", "quarter", "double", "triple", "times")
_COMPARISONS = _words("more", "less", "than", "fewer")
_RATES = _words("each", "every", "per")
_CONDITIONS = _words("if", "then", "after", "before")
_NEGATIONS = _words("not", "except", "least", "never")
_ALL_NONE = _words("all", "none")
_REMAINDERS = _words("remaining", "left", "rest", "total")


def prompt_features(prompt: str) -> np.ndarray:
    """Features of one prompt, shape (N_PROMPT_FEATURES,), float32, finite; the order is `PROMPT_FEATURES`."""
    text = prompt if len(prompt) <= _MAX_CHARS else prompt[: _MAX_CHARS // 2] + prompt[-_MAX_CHARS // 2 :]
    return np.asarray([*_size(text), *_reasoning(text), *_form(text)], dtype=np.float32)


def features_of_prompts(prompts: Sequence[str]) -> np.ndarray:
    """Features of many prompts, shape (N, N_PROMPT_FEATURES)."""
    if not prompts:
        return np.zeros((0, N_PROMPT_FEATURES), dtype=np.float32)
    return np.stack([prompt_features(prompt) for prompt in prompts])


def _size(text: str) -> list[float]:
    words, numbers = _WORD.findall(text), _NUMBER.findall(text)
    digits = sum(map(str.isdigit, text))
    return [
        math.log1p(len(text)),
        math.log1p(len(words)),
        math.log1p(len(numbers)),
        math.log1p(len(set(numbers))),
        math.log1p(100.0 * digits / max(len(text), 1)),
        math.log1p(len(_SENTENCE_END.findall(text))),
        sum(map(len, words)) / max(len(words), 1),
        len({word.lower() for word in words}) / max(len(words), 1),
    ]


def _reasoning(text: str) -> list[float]:
    """Signs of steps to be taken: quantities, comparisons, rates, conditions."""
    lower = text.lower()
    counted = (_MULTIPLES, _COMPARISONS, _RATES, _CONDITIONS, _NEGATIONS)
    return [
        float("%" in text),
        float("$" in text),
        *(math.log1p(len(pattern.findall(lower))) for pattern in counted),
    ]


def _form(text: str) -> list[float]:
    """The shape of the question: its stem, its options if it is a choice, its symbols."""
    lower, options = text.lower(), _OPTION.findall(text)
    lengths = [len(option) for option in options] or [0]
    first = _OPTION.search(text)
    capitals = sum(word[0].isupper() for word in _WORD.findall(text))
    return [
        math.log1p(text.count("?")),
        math.log1p(text.count("\n")),
        math.log1p(first.start() if first else len(text)),
        math.log1p(float(np.mean(lengths))),
        math.log1p(float(np.std(lengths))),
        math.log1p(sum(_NUMBER.search(option) is not None for option in options)),
        math.log1p(sum(character in _SYMBOLS for character in text)),
        math.log1p(100.0 * capitals / max(len(_WORD.findall(text)), 1)),
        math.log1p(text.count("_")),
        math.log1p(len(_ALL_NONE.findall(lower))),
        math.log1p(text.count(",")),
        float("/" in text),
        float("how many" in lower),
        float("how much" in lower),
        math.log1p(len(_REMAINDERS.findall(lower))),
    ]

"""Cheap features of an answer, beside its text: what a BERT of 256 tokens overlooks and arithmetic sees.

Three blocks: the surface of prompt and answer (lengths, echo, repetition, numbers, recomputed equations,
form), how the answer ended, and its token log-probabilities. The last are the strongest sign of a wrong
answer off the training distribution, and absent with many backends: a missing block is all zeros plus an
indicator, and training drops the block at random so that a bundle serves with and without it.

Pure standard library and numpy; well under a millisecond an answer. Serving and training call the same
`answer_features`; a bundle records `FEATURE_NAMES` and is refused when they differ.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from scorers.answer import AnswerLike
from scorers.arithmetic import find_equations, find_numbers

SURFACE_FEATURES = (
    "answer_chars_log", "answer_words_log", "answer_lines_log", "prompt_chars_log", "length_ratio_log",
    "word_chars_mean", "unique_word_share", "repeated_trigram_share", "echo_share", "prompt_words_covered",
    "opens_with_prompt", "ends_a_sentence", "list_line_share", "code_fence", "refusal", "hedges_log",
    "digit_share", "prompt_numbers_log", "prompt_numbers_used", "new_number_share", "equations_log",
    "equations_wrong", "last_number_computed", "is_choice_prompt", "answers_with_choice", "empty",
    "non_ascii_share", "run_on", "question_marks_log", "capital_share",
)  # fmt: skip
ENDING_FEATURES = ("finish_length", "finish_unknown", "tokens_log", "tokens_missing")
LOGPROB_FEATURES = (
    "logprob_missing", "logprob_mean", "logprob_min", "logprob_q10", "logprob_q25", "logprob_median",
    "logprob_std", "unsure_share", "logprob_first", "logprob_last", "logprob_sum_log", "logprob_min_tail",
)  # fmt: skip
FEATURE_NAMES = SURFACE_FEATURES + ENDING_FEATURES + LOGPROB_FEATURES
N_FEATURES = len(FEATURE_NAMES)
LOGPROB_BLOCK = slice(N_FEATURES - len(LOGPROB_FEATURES), N_FEATURES)

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d[\d,.]*")
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:cannot|can't|can not|won't)|as an ai|"
    r"i do(?:n't| not) have (?:access|enough|the ability)|unable to (?:provide|help|assist))",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:maybe|perhaps|might|possibly|not sure|it depends|however|unclear|i think|seems?)\b", re.IGNORECASE
)
_LIST_LINE = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s")
_CHOICES = re.compile(r"^\s*\(?[A-D][.):]\s", re.MULTILINE)
_CHOICE_ANSWER = re.compile(
    r"^\W*(?:the (?:correct )?answer is\W*)?\(?([A-Da-d])\)?(?:[.):\s]|$)", re.IGNORECASE
)
_RUN_ON = re.compile(
    r"^\s*(?:instruct(?:ion)?|user|human|question|exercise|problem|### ?\w+)\s*\d*:", re.I | re.M
)
_SENTENCE_ENDS = (".", "!", "?", '"', "'", ")", "`", "”", "]", "}", ":", "。")
_MAX_CHARS = 20_000  # the head and the tail of a longer text; a bound on time, not on meaning


def answer_features(prompt: str, answer: AnswerLike) -> np.ndarray:
    """Features of one answer, shape (N_FEATURES,), float32, finite; the order is `FEATURE_NAMES`."""
    values = [
        *_surface(_bounded(prompt), _bounded(answer.text)),
        *_ending(answer),
        *_logprobs(answer.logprobs),
    ]
    return np.asarray(values, dtype=np.float32)


def features_of(pairs: Sequence[tuple[str, AnswerLike]]) -> np.ndarray:
    """Features of many (prompt, answer) pairs, shape (N, N_FEATURES)."""
    if not pairs:
        return np.zeros((0, N_FEATURES), dtype=np.float32)
    return np.stack([answer_features(prompt, answer) for prompt, answer in pairs])


def _bounded(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS // 2] + "\n" + text[-_MAX_CHARS // 2 :]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _surface(prompt: str, answer: str) -> list[float]:
    text = answer.strip()
    lower = text.lower()
    words = _WORD.findall(lower)
    prompt_words = _WORD.findall(prompt.lower())
    lines = [line for line in text.splitlines() if line.strip()]
    letters = sum(map(str.isalpha, text))
    is_choice = len(_CHOICES.findall(prompt)) >= 3
    return [
        math.log1p(len(text)),
        math.log1p(len(words)),
        math.log1p(len(lines)),
        math.log1p(len(prompt)),
        math.log1p(len(text)) - math.log1p(len(prompt)),
        _share(sum(map(len, words)), len(words)),
        _share(len(set(words)), len(words)),
        _repetition(words),
        *_echo(prompt_words, words),
        float(len(text) >= 20 and lower[:40] in prompt.lower()),
        float(text.endswith(_SENTENCE_ENDS)),
        _share(sum(1 for line in lines if _LIST_LINE.match(line)), len(lines)),
        float("```" in text),
        float(_REFUSAL.search(text) is not None),
        math.log1p(len(_HEDGE.findall(text))),
        _share(sum(map(str.isdigit, text)), len(text)),
        *_numbers(prompt, text),
        float(is_choice),
        float(is_choice and _CHOICE_ANSWER.match(text) is not None),
        float(not text),
        _share(sum(1 for c in text if ord(c) > 127), len(text)),
        float(_RUN_ON.search(text) is not None),
        math.log1p(text.count("?")),
        _share(sum(map(str.isupper, text)), letters),
    ]


def _repetition(words: list[str]) -> float:
    """Share of word trigrams that have been seen before in the answer, in [0, 1)."""
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    total = sum(trigrams.values())
    return _share(total - len(trigrams), total)


def _echo(prompt_words: list[str], words: list[str]) -> tuple[float, float]:
    """Share of the answer's bigrams taken from the prompt; share of the prompt's longer words it uses."""
    asked = set(pairwise(prompt_words))
    given = list(pairwise(words))
    echoed = _share(sum(1 for pair in given if pair in asked), len(given))
    content = {word for word in prompt_words if len(word) > 3}
    return echoed, _share(len(content & set(words)), len(content))


def _numbers(prompt: str, answer: str) -> tuple[float, ...]:
    asked, given = find_numbers(prompt), find_numbers(answer)
    asked_set, given_set = set(asked), set(given)
    equations = find_equations(answer)
    wrong = sum(1 for e in equations if not e.holds)
    computed = (
        any(math.isclose(given[-1], e.computed, rel_tol=5e-3) for e in equations[-2:]) if given else False
    )
    return (
        math.log1p(len(asked)),
        _share(len(asked_set & given_set), len(asked_set)),
        _share(len(given_set - asked_set), len(given_set)),
        math.log1p(len(equations)),
        float(min(wrong, 3)),
        float(computed),
    )


def _ending(answer: AnswerLike) -> tuple[float, ...]:
    tokens = answer.completion_tokens
    if tokens is None and answer.logprobs is not None:
        tokens = len(answer.logprobs)
    return (
        float(answer.finish_reason == "length"),
        float(answer.finish_reason is None),
        math.log1p(max(tokens, 0)) if tokens is not None else 0.0,
        float(tokens is None),
    )


def _logprobs(logprobs: Sequence[float] | None) -> list[float]:
    values = np.asarray(logprobs if logprobs is not None else (), dtype=np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return [1.0] + [0.0] * (len(LOGPROB_FEATURES) - 1)
    values = np.clip(values, -20.0, 0.0)  # backends write -9999 or -inf for "impossible"
    q10, q25, q50 = np.quantile(values, (0.1, 0.25, 0.5))
    return [
        0.0,
        float(values.mean()),
        float(values.min()),
        float(q10),
        float(q25),
        float(q50),
        float(values.std()),
        float((values < math.log(0.5)).mean()),
        float(values[0]),
        float(values[-1]),
        -math.log1p(-float(values.sum())),
        float(values[-8:].min()),
    ]

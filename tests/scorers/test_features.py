"""Arithmetic is recomputed and features are finite, whatever the answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.answer import RecordedAnswer
from scorers.arithmetic import evaluate, find_equations, find_numbers
from scorers.features import FEATURE_NAMES, LOGPROB_BLOCK, N_FEATURES, answer_features, features_of


def feature(name: str, prompt: str, answer: RecordedAnswer) -> float:
    return float(answer_features(prompt, answer)[FEATURE_NAMES.index(name)])


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("17 + 28 = 46", [False]),
        ("17 + 28 = 45", [True]),
        ("425 / 5 + 17 = <<425/5+17=85+17=102>>102", [True, True]),
        ("3 x (3 + 4) = <<3*(3+4)=27>>27", [False]),
        ("- 2*3=6", [True]),
        ("$11 * 2 = $22, and 1,000 - 1 = 998.", [True, False]),
        ("12/48 = 25%", [True]),
        ("In 2020, 3 + 4 = 7. Then 7-1=6", [True, True]),
        ("10 / 3 = 3.33", [True]),
        ("x = 5 and y = 6", []),
        ("4 / 0 = 4", []),
    ],
)
def test_equations_are_recomputed(text: str, holds: list[bool]) -> None:
    assert [equation.holds for equation in find_equations(text)] == holds


def test_precedence_and_signs() -> None:
    assert evaluate("2 + 3 * 4") == 14
    assert evaluate("-(2 + 3) * 4") == -20
    assert evaluate("7") is None
    assert evaluate("(2 + 3") is None


def test_numbers_stand_by_themselves() -> None:
    assert find_numbers("10-acre $3.50 .5 1,200. v1.2 x2") == [10.0, 3.5, 0.5, 1200.0]


def test_wrong_equation_and_truncation_are_seen() -> None:
    prompt = "What is 17 + 28?"
    assert feature("equations_wrong", prompt, RecordedAnswer("17 + 28 = 46")) == 1
    assert feature("equations_wrong", prompt, RecordedAnswer("17 + 28 = 45")) == 0
    assert feature("finish_length", prompt, RecordedAnswer("17 +", "length")) == 1
    assert feature("finish_unknown", prompt, RecordedAnswer("17 +", None)) == 1


def test_choice_letter_refusal_echo_and_repetition() -> None:
    choice = "Which?\nA. one\nB. two\nC. three\nAnswer:"
    assert feature("answers_with_choice", choice, RecordedAnswer("B. two")) == 1
    assert feature("answers_with_choice", choice, RecordedAnswer("It is hard to say")) == 0
    assert feature("refusal", "x", RecordedAnswer("I'm sorry, but no.")) == 1
    assert feature("echo_share", "tell me of red foxes", RecordedAnswer("tell me of red foxes")) == 1
    assert feature("repeated_trigram_share", "x", RecordedAnswer("so it goes " * 20)) > 0.8


def test_logprobs_are_summarised_or_marked_missing() -> None:
    block = answer_features("x", RecordedAnswer("y", logprobs=[-0.1, -2.0, -0.1]))[LOGPROB_BLOCK]
    assert block[0] == 0
    assert block[2] == pytest.approx(-2.0)
    for absent in (None, [], [float("nan")]):
        block = answer_features("x", RecordedAnswer("y", logprobs=absent))[LOGPROB_BLOCK]
        assert block[0] == 1
        assert not block[1:].any()


@given(
    st.text(max_size=300),
    st.text(max_size=300),
    st.none() | st.lists(st.floats(max_value=0) | st.just(float("nan")), max_size=9),
)
def test_features_are_finite(prompt: str, text: str, logprobs: list[float] | None) -> None:
    values = answer_features(prompt, RecordedAnswer(text, None, logprobs, None))
    assert values.shape == (N_FEATURES,)
    assert np.isfinite(values).all()


def test_no_pairs_no_rows() -> None:
    assert features_of([]).shape == (0, N_FEATURES)

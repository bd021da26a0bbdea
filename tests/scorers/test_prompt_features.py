"""Prompt features: what they count, that nothing upsets them, and that every one of them moves."""

from __future__ import annotations

import math
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.errors import ScorerFileError
from scorers.prompt_features import (
    N_PROMPT_FEATURES,
    PROMPT_FEATURES,
    features_of_prompts,
    prompt_features,
)
from scorers.runtime.query import QueryVectors, check_parts

SUM = "Tom has 12 apples, twice as many as Ann. If each costs $3, how much do all of them cost?"
CHOICE = "Which is NOT a prime?\nA. 7\nB. 9\nC. None\nD. x^2 + 1\nAnswer:"


def value(prompt: str, name: str) -> float:
    return float(prompt_features(prompt)[PROMPT_FEATURES.index(name)])


def test_what_is_counted() -> None:
    assert value(SUM, "numbers_log") == pytest.approx(math.log1p(2))
    assert value(SUM, "multiples_log") == pytest.approx(math.log1p(1))  # twice
    assert value(SUM, "conditions_log") == pytest.approx(math.log1p(1))  # if
    assert (value(SUM, "dollar"), value(SUM, "percent")) == (1.0, 0.0)
    assert (value(SUM, "how_much"), value(SUM, "how_many")) == (1.0, 0.0)
    assert value(SUM, "option_chars_mean_log") == 0.0
    assert value(CHOICE, "stem_chars_log") == pytest.approx(
        math.log1p(len("Which is NOT a prime?") + 1), abs=0.1
    )
    assert value(CHOICE, "numeric_options_log") == pytest.approx(math.log1p(3))
    assert value(CHOICE, "negations_log") == pytest.approx(math.log1p(1))
    assert value(CHOICE, "symbols_log") == pytest.approx(math.log1p(2))


def test_every_feature_tells_some_prompt_from_another() -> None:
    others = [
        "",
        "50% of a/b, the rest: how many remain?",
        "all more than __ per day",
        "Word " * 300,
        "x_1? No.",
    ]
    spread = np.ptp(features_of_prompts([SUM, CHOICE, *others]), axis=0)
    assert [name for name, width in zip(PROMPT_FEATURES, spread, strict=True) if width == 0] == []


@given(st.text(alphabet=string.printable + "é中\x00", max_size=200))
def test_any_text_gives_finite_numbers(prompt: str) -> None:
    values = prompt_features(prompt)
    assert values.shape == (N_PROMPT_FEATURES,)
    assert np.isfinite(values).all()


def test_none_is_a_table_without_rows() -> None:
    assert features_of_prompts([]).shape == (0, N_PROMPT_FEATURES)


class Constant:
    """Embeds everything as (1, 0)."""

    dimension = 2

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.tile(np.array([1.0, 0.0], np.float32), (len(texts), 1))


def test_features_stand_behind_the_vector() -> None:
    query = QueryVectors(Constant(), ("last", "features"))  # type: ignore[arg-type]
    found = query.embed([SUM, CHOICE])
    assert found.shape == (2, query.dimension) == (2, 2 + N_PROMPT_FEATURES)
    np.testing.assert_array_equal(found[1, 2:], prompt_features(CHOICE))
    assert QueryVectors(Constant()).embed([SUM]).shape == (1, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "remote", "message"),
    [
        (["last", "topic"], False, "'topic' is unknown; there are: last, middle, features"),
        (["last", "middle"], True, "'middle' is unknown; there are: last, features"),
        (["features"], False, "no layer is named"),
    ],
)
def test_parts_that_cannot_be_had_are_named(parts: list[str], remote: bool, message: str) -> None:
    with pytest.raises(ScorerFileError, match=message):
        check_parts(parts, remote)

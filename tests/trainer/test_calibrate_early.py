"""Streams whose bounds are fitted: how long their answers are."""

from __future__ import annotations

import pytest

from trainer.calibrate_early import token_count
from trainer.examples import Example


@pytest.mark.parametrize(("words", "tokens"), [(1, 1), (7, 7), (100, 100)])
def test_tokens_of_a_whole_answer(words: int, tokens: int) -> None:
    row = Example("id", "prompt", "m", 1.0, response=" ".join(["word"] * words))
    assert token_count(row) == tokens


def test_a_known_count_is_used() -> None:
    row = Example("id", "prompt", "m", 1.0, response="one two three", completion_tokens=9)
    assert token_count(row) == 9

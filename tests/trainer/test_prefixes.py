"""Cutting answers at a checkpoint: text, log-probabilities and the token count agree."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from scorers.features import FEATURE_NAMES, answer_features
from trainer.examples import Example
from trainer.prefixes import CHECKPOINT_TOKENS, answer_of, cut_answer

TEXT = "The train leaves at 9:40, so you should be at the station by half past nine. Bring 12 sandwiches."


def row(text: str = TEXT, **more: object) -> Example:
    return Example(prompt_id="0" * 16, prompt="When?", model="m", quality=1.0, response=text, **more)  # type: ignore[arg-type]


def test_a_prefix_is_the_beginning_and_not_ended() -> None:
    cut = cut_answer(row(), 8)
    assert TEXT.startswith(cut.text)
    assert cut.text == "The train leaves at 9:40,"
    assert (cut.finish_reason, cut.completion_tokens, cut.logprobs) == (None, 8, None)


def test_prefixes_grow_with_the_tokens_until_the_answer_is_whole() -> None:
    cuts = [cut_answer(row(), n) for n in range(1, 40)]
    assert all(b.text.startswith(a.text) for a, b in pairwise(cuts))
    assert cuts[-1] == answer_of(row())
    assert cuts[-1].finish_reason == "stop"


def test_a_known_count_sets_the_share() -> None:
    counted = cut_answer(row(completion_tokens=100, finish_reason="length"), 50)
    assert 0.4 < len(counted.text) / len(TEXT) < 0.6
    assert cut_answer(row(completion_tokens=100, finish_reason="length"), 100).finish_reason == "length"


def test_logprobs_are_cut_with_the_text_and_change_the_features() -> None:
    logprobs = np.concatenate([np.full(20, -0.1), np.full(20, -5.0)]).astype(np.float32)
    cut = cut_answer(row(logprobs=logprobs), 20)
    assert cut.logprobs is not None
    assert len(cut.logprobs) == 20
    features = dict(zip(FEATURE_NAMES, answer_features("When?", cut), strict=True))
    assert features["logprob_min"] == pytest.approx(-0.1, abs=1e-6)
    assert features["finish_unknown"] == 1.0
    assert features["tokens_log"] == pytest.approx(np.log1p(20))


def test_a_cut_never_breaks_a_letter_and_empty_answers_stay() -> None:
    text = "日本語の文章" * 30
    for tokens in CHECKPOINT_TOKENS[:3]:
        assert text.startswith(cut_answer(row(text), tokens).text)
    assert cut_answer(row(""), 16) == answer_of(row(""))
    with pytest.raises(ValueError, match="not at 0"):
        cut_answer(row(), 0)

"""Truncation keeps both ends, the answer's above all; special tokens are the tokenizer's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.encoders import resolve_encoder
from scorers.errors import EncoderError
from scorers.tokenizer import TextTokenizer, keep_ends, share_room, token_buckets


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.of(resolve_encoder("minilm"), 64)


def test_pair_is_cls_prompt_sep_answer_sep(tokenizer: TextTokenizer) -> None:
    (pair,) = tokenizer.encode_pairs([("hello", "world")])
    assert pair.ids.tolist() == [101, 7592, 102, 2088, 102]
    assert pair.type_ids.tolist() == [0, 0, 0, 1, 1]


def test_end_of_a_long_answer_is_kept(tokenizer: TextTokenizer) -> None:
    (pair,) = tokenizer.encode_pairs([("what? " * 200, "so " * 500 + "therefore seven")])
    (end,) = tokenizer.encode_prompts(["therefore seven"])
    assert len(pair) == 64
    assert pair.ids[-3:-1].tolist() == end.ids[1:-1].tolist()


def test_end_of_a_long_prompt_is_kept(tokenizer: TextTokenizer) -> None:
    (single,) = tokenizer.encode_prompts(["story " * 5000 + "who did it"])
    assert len(single) == 64
    (end,) = tokenizer.encode_prompts(["who did it"])
    assert single.ids[-4:-1].tolist() == end.ids[1:-1].tolist()


def test_lone_surrogate_and_empty_text(tokenizer: TextTokenizer) -> None:
    lone, empty = tokenizer.encode_prompts(["\ud800", ""])
    assert len(lone) >= 2
    assert empty.ids.tolist() == [101, 102]


def test_padding_is_masked(tokenizer: TextTokenizer) -> None:
    batch = tokenizer.pad(tokenizer.encode_prompts(["one", "one two three"]))
    assert batch.mask.tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert batch.ids[0, 3:].tolist() == [0, 0]


@given(st.integers(0, 600), st.integers(0, 600), st.integers(10, 300))
def test_room_is_shared_and_never_exceeded(n_prompt: int, n_answer: int, room: int) -> None:
    prompt, answer = share_room(n_prompt, n_answer, room)
    assert prompt <= n_prompt
    assert answer <= n_answer
    assert prompt + answer == min(room, n_prompt + n_answer)
    assert prompt >= min(n_prompt, int(room * 0.4))


@given(st.lists(st.integers(), max_size=50), st.integers(1, 60))
def test_keep_ends_keeps_both_ends(ids: list[int], room: int) -> None:
    kept = list(keep_ends(ids, room))
    assert len(kept) == min(len(ids), room)
    if ids:
        assert kept[-1] == ids[-1]
        assert room < 2 or kept[0] == ids[0]


@given(st.lists(st.integers(1, 99), min_size=1, max_size=40), st.integers(1, 300))
def test_buckets_cover_every_row_once(lengths: list[int], size: int) -> None:
    batches = list(token_buckets(lengths, size))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(
        len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= size for batch in batches
    )


def test_unknown_encoder_names_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EncoderError, match=r"/no/such/folder.*there are: minilm"):
        resolve_encoder("/no/such/folder")


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(EncoderError, match="max_tokens is 8"):
        TextTokenizer.of(resolve_encoder("minilm"), 8)

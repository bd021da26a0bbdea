"""Vectors by text hash, and batches by tokens."""

from __future__ import annotations

import numpy as np

from scorers.runtime.vectors import VectorCache
from scorers.tokenizer import token_buckets


class Counting:
    """An encoder that says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        return np.asarray([[len(text), sum(map(ord, text))] for text in texts], dtype=np.float32).reshape(
            -1, 2
        )


def test_a_text_is_embedded_once_and_rows_stay_in_order():
    cache, embed = VectorCache(8), Counting()
    first = cache.fill(["a", "bb", "a"], embed)
    again = cache.fill(["bb", "ccc", "a", "\ud800"], embed)
    assert embed.asked == [["a", "bb"], ["ccc", "\ud800"]]
    assert np.array_equal(first, Counting()(["a", "bb", "a"]))
    assert np.array_equal(again, Counting()(["bb", "ccc", "a", "\ud800"]))
    assert cache.fill([], embed).shape == (0, 2)


def test_the_cache_is_bounded_and_forgets_the_text_not_used_for_longest():
    cache, embed = VectorCache(2), Counting()
    for text in ("a", "b", "a", "c"):
        cache.fill([text], embed)
    assert len(cache) == 2
    cache.fill(["a", "c", "b"], embed)
    assert embed.asked == [["a"], ["b"], ["c"], ["b"]]


def test_batches_hold_no_more_tokens_than_asked_with_padding():
    lengths = [3, 600, 100, 90, 5, 64, 64, 64, 64, 64]
    batches = [rows.tolist() for rows in token_buckets(lengths, 256)]
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    assert batches[0] == [1], "an input longer than the bound is alone"
    for rows in batches[1:]:
        assert len(rows) * max(lengths[row] for row in rows) <= 256
    assert len(batches) == 4

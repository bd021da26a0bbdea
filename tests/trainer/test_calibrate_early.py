"""Bounds for early verdicts, on streams whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.calibrate_early import (
    CHECKPOINTS,
    JudgedStreams,
    bounds_at,
    fit_bounds,
    replay,
    token_count,
    within_limits,
)
from trainer.examples import Example


def draw(n: int, seed: int, noise: float = 0.3) -> JudgedStreams:
    """Streams of 20 to 400 tokens whose prefixes tell more of the final margin the longer they are."""
    random = np.random.default_rng(seed)
    final = random.normal(0.0, 0.3, n)
    tokens = random.integers(20, 400, n).astype(float)
    margins = np.full((n, len(CHECKPOINTS)), np.nan)
    for k, checkpoint in enumerate(CHECKPOINTS):
        there = tokens > checkpoint
        blur = noise * (1.0 - checkpoint / tokens[there])
        margins[there, k] = final[there] + random.normal(0.0, 1.0, there.sum()) * blur
    gain = (random.random(n) < 0.2 + 0.6 * (final > 0)).astype(float)
    return JudgedStreams(margins, final < 0.0, tokens, gain)


def spread(points) -> list:
    """One checkpoint for each of `CHECKPOINTS`, as `replay` reads them."""
    known = {point.tokens: point for point in points}
    nothing = bounds_at(draw(50, 0), 0.0, 0.0)
    return [known.get(point.tokens, point) for point in nothing]


def test_bounds_save_waiting_and_keep_their_limits_on_new_streams() -> None:
    points = fit_bounds(draw(1_500, 1))
    fresh = draw(20_000, 2)
    replayed = replay(spread(points), fresh)
    committed = (replayed.verdict == 1) & fresh.accepted
    assert committed.sum() > 0.5 * fresh.accepted.sum()
    abandoned = (replayed.verdict == -1) & ~fresh.accepted & (replayed.at < 0.5)
    assert abandoned.sum() > 0.1 * (~fresh.accepted).sum()
    wrong_commits = (replayed.verdict == 1) & ~fresh.accepted
    wrong_abandons = (replayed.verdict == -1) & fresh.accepted
    assert abs(wrong_abandons.mean() - wrong_commits.mean()) < 0.02
    lost = fresh.gain[wrong_commits].sum() - fresh.gain[wrong_abandons].sum()
    assert lost / len(fresh.gain) < 0.02


def test_prefixes_that_tell_nothing_decide_nothing() -> None:
    streams = draw(1_000, 3)
    random = np.random.default_rng(4)
    streams.margins = np.where(np.isnan(streams.margins), np.nan, random.normal(size=streams.margins.shape))
    replayed = replay(spread(fit_bounds(streams)), streams)
    assert (replayed.verdict != 0).mean() < 0.1


def test_a_bound_holds_its_share_of_wrong_verdicts() -> None:
    streams = draw(3_000, 5)
    points = bounds_at(streams, 0.1, 0.05)
    replayed = replay(points, streams)
    for k, point in enumerate(points):
        here = replayed.at == point.tokens / streams.tokens
        commits = here & (replayed.verdict == 1)
        abandons = here & (replayed.verdict == -1)
        if commits.any():
            assert (~streams.accepted[commits]).mean() <= 0.1, k
        if abandons.any():
            assert streams.accepted[abandons].mean() <= 0.05, k


def test_an_alpha_of_zero_never_decides() -> None:
    assert all(math.isinf(p.commit) and math.isinf(p.abandon) for p in bounds_at(draw(500, 6), 0.0, 0.0))


def test_limits_count_only_the_share_that_is_judged() -> None:
    streams = draw(100, 7)
    verdict = np.zeros(100, dtype=np.int64)
    verdict[np.flatnonzero(~streams.accepted)[:2]] = 1  # two of a hundred: over a point of the share
    assert not within_limits(streams, verdict, 1.0)
    assert within_limits(streams, verdict, 0.4)


@pytest.mark.parametrize(("words", "tokens"), [(1, 1), (7, 7), (100, 100)])
def test_tokens_of_a_whole_answer(words: int, tokens: int) -> None:
    row = Example("id", "prompt", "m", 1.0, response=" ".join(["word"] * words))
    assert token_count(row) == tokens


def test_a_known_count_is_used() -> None:
    row = Example("id", "prompt", "m", 1.0, response="one two three", completion_tokens=9)
    assert token_count(row) == 9

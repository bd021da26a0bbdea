"""Bounds for early verdicts, on streams whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from routing.early import Checkpoint
from trainer.early_bounds import (
    JudgedStreams,
    disagreeing,
    fit_bounds,
    fit_certainty,
    replay,
    within_limits,
)
from trainer.prefixes import CHECKPOINTS


def draw(n: int, seed: int, noise: float = 0.25) -> JudgedStreams:
    """Streams of 20 to 400 tokens whose prefixes tell more of the final margin the longer they are."""
    random = np.random.default_rng(seed)
    final = random.normal(0.0, 0.3, n)
    tokens = random.integers(20, 400, n).astype(float)
    margins = np.full((n, len(CHECKPOINTS)), np.nan)
    wander = random.normal(0.0, 1.0, n)  # neighbouring prefixes err alike
    for k, checkpoint in enumerate(CHECKPOINTS):
        there = tokens > checkpoint
        blur = noise * (1.0 - checkpoint / tokens[there])
        margins[there, k] = final[there] + (wander[there] + 0.3 * random.normal(size=there.sum())) * blur
    gain = (random.random(n) < 0.2 + 0.6 * (final > 0)).astype(float)
    return JudgedStreams(margins, final < 0.0, tokens, gain)


def spread(points: list[Checkpoint]) -> list[Checkpoint]:
    """One checkpoint for each of `CHECKPOINTS`, as `replay` reads them."""
    known = {point.tokens: point for point in points}
    return [known.get(tokens, Checkpoint(tokens)) for tokens in CHECKPOINTS]


def test_bounds_save_waiting_and_keep_their_limits_on_new_streams() -> None:
    points = fit_bounds(draw(400, 1))
    fresh = draw(20_000, 2)
    replayed = replay(spread(points), fresh)
    committed = (replayed.verdict == 1) & fresh.accepted
    assert committed.sum() > 0.5 * fresh.accepted.sum()
    abandoned = (replayed.verdict == -1) & ~fresh.accepted & (replayed.at < 0.5)
    assert abandoned.sum() > 0.33 * (~fresh.accepted).sum()
    assert disagreeing(fresh, replayed.verdict) < 0.06
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


def test_streams_of_one_verdict_or_without_readings_give_no_bounds() -> None:
    streams = draw(200, 5)
    assert fit_bounds(streams.subset(streams.accepted)) == []
    streams.margins[:] = np.nan
    assert fit_bounds(streams) == []


def test_one_checkpoint_and_one_margin_are_no_trouble() -> None:
    streams = draw(200, 9)
    streams.margins[:, 1:] = np.nan
    fit_bounds(streams)
    streams.margins[~np.isnan(streams.margins)] = 0.2
    assert fit_bounds(streams) == []


def test_a_bound_is_where_the_certainty_says() -> None:
    streams = draw(4_000, 6)
    certainty = fit_certainty(streams)
    for tokens in (16, 64, 192):
        k = CHECKPOINTS.index(tokens)
        margin = streams.margins[:, k]
        bounds = [certainty.bound(tokens, p) for p in (0.9, 0.5, 0.1)]
        assert bounds == sorted(bounds)
        near = np.abs(margin - bounds[1]) < 0.05
        assert streams.accepted[near].mean() == pytest.approx(0.5, abs=0.15)
        assert streams.accepted[margin <= bounds[0]].mean() > 0.9
        assert streams.accepted[margin >= bounds[2]].mean() < 0.1


def test_a_checkpoint_that_nobody_passes_is_left_out() -> None:
    streams = draw(400, 7)
    streams.margins[:, CHECKPOINTS.index(64)] = np.nan
    points = fit_bounds(streams)
    assert points
    assert 64 not in {point.tokens for point in points}


def test_limits_count_only_the_share_that_is_judged() -> None:
    streams = draw(100, 8)
    verdict = np.zeros(100, dtype=np.int64)
    verdict[np.flatnonzero(~streams.accepted)[:2]] = 1  # two of a hundred: over a point of the share
    chance = np.where(verdict == 1, 0.0, 1.0)
    assert not within_limits(streams, verdict, 1.0, chance)
    assert within_limits(streams, verdict, 0.4, chance)
    assert within_limits(streams, verdict, 0.6, np.ones(100)), "half of it is what was foretold"

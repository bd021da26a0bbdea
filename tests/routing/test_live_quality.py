"""Live quality: the truth lies in its interval as often as it says, whatever was sampled more often."""

from __future__ import annotations

import numpy as np
import pytest

from routing.errors import PolicyError
from routing.live_quality import live_quality


def test_the_interval_covers_the_truth() -> None:
    """Hard prompts are sampled half as often; an unweighted mean would be wrong by .06."""
    rng, truth, inside, naive = np.random.default_rng(1), (0.5 * 0.9 + 0.5 * 0.6) / 0.85, 0, []
    draws = 100
    for _ in range(draws):
        hard = rng.random(900) < 0.5
        taken = rng.random(900) < np.where(hard, 0.25, 0.5)
        served = (rng.random(900) < np.where(hard, 0.6, 0.9)).astype(float)[taken]
        strong = (rng.random(900) < 0.85).astype(float)[taken]
        found = live_quality(served, strong, np.where(hard, 0.25, 0.5)[taken])
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= truth <= found.high
        naive.append(served.mean() / strong.mean())
    assert inside >= 0.95 * draws
    assert np.mean(naive) > truth + 0.04


def test_what_cannot_be_told() -> None:
    assert live_quality([], [], []).estimate is None
    assert live_quality([1.0], [0.0], [0.5]).estimate is None, "strong is never right"
    with pytest.raises(PolicyError, match="propensity"):
        live_quality([1.0], [1.0], [0.0])
    with pytest.raises(PolicyError, match="quality"):
        live_quality([2.0], [1.0], [0.5])


def test_more_rows_narrow_it() -> None:
    few = live_quality([1.0, 0.0] * 20, [1.0] * 40, [0.1] * 40)
    many = live_quality([1.0, 0.0] * 400, [1.0] * 800, [0.1] * 800)
    assert few.low is not None
    assert few.high is not None
    assert many.low is not None
    assert many.high is not None
    assert few.low < many.low < 0.5 < many.high < few.high

"""The stability index: nothing where nothing moved, an alarm where something did, and no alarm by chance."""

from __future__ import annotations

import numpy as np
import pytest

from routing.drift import Histogram, measure_shift
from routing.errors import PolicyError


def counts(histogram: Histogram, values: np.ndarray) -> list[float]:
    places = [histogram.bin(value) for value in values.tolist()]
    return np.bincount(places, minlength=len(histogram.shares)).astype(float).tolist()


def test_chance_raises_no_alarm_and_a_move_does() -> None:
    rng = np.random.default_rng(0)
    reference = Histogram.of(rng.beta(2, 5, 700))
    assert reference is not None
    draws = [measure_shift(counts(reference, rng.beta(2, 5, 300)), reference) for _ in range(500)]
    assert sum(draw.exceeds(0.0) for draw in draws) <= 4  # one in a thousand is certain by chance
    assert np.mean([draw.index for draw in draws]) < 0.02
    moved = measure_shift(counts(reference, rng.beta(3, 3, 300)), reference)
    assert moved.exceeds(0.25)


def test_the_index_is_the_textbooks() -> None:
    """With so many rows that neither smoothing nor chance matters."""
    reference = Histogram((0.5,), (0.5, 0.5), 10**9)
    shift = measure_shift([0.25 * 10**9, 0.75 * 10**9], reference)
    assert shift.index == pytest.approx(0.25 * np.log(3.0), rel=1e-4)  # (.25-.5)ln(.5) + (.75-.5)ln(1.5)


def test_weights_ties_and_what_is_not_a_number() -> None:
    values = [1.0, 1.0, 2.0, float("nan"), 3.0]
    histogram = Histogram.of(values, [1.0, 1.0, 0.0, 1.0, 2.0], bins=2)
    assert histogram is not None
    assert sum(histogram.shares) == pytest.approx(1.0)
    assert histogram.bin(2.0) == histogram.bin(1.5)
    assert Histogram.of([]) is None
    assert Histogram.of([1.0, 2.0], [0.0, 0.0]) is None
    constant = Histogram.of([3.0] * 10)
    assert constant is not None
    assert len(constant.shares) == len(constant.edges) + 1
    with pytest.raises(PolicyError, match="3 bins were counted, the reference has 2"):
        measure_shift([1, 2, 3], Histogram.share(0.5, 10))
    assert not measure_shift([0, 0], Histogram.share(0.5, 10)).certain

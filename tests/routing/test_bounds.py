"""The bounds hold as often as they say, and are not so loose that nobody could use them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.bounds import (
    binomial_tail,
    mean_lower_bound,
    proves_mean_above,
    rows_for_mean,
    rows_for_share,
    share_upper_bound,
)
from routing.errors import PolicyError

DELTA = 0.05
# Distributions in [-0.95, 1] with mean exactly 0: rare loss, symmetric, rare win, two-sided, skewed mixture.
NULLS = {
    "rare loss": ([0.05, -0.95], [0.95, 0.05]),
    "rarer loss": ([0.005, -0.95], [0.95 / 0.955, 0.005 / 0.955]),
    "symmetric": ([-0.5, 0.5], [0.5, 0.5]),
    "rare win": ([-0.01, 1.0], [1 / 1.01, 0.01 / 1.01]),
    "like ours": ([0.05, 0.0, -0.95, 1.0], [0.7, 0.2032, 0.0668, 0.03 - 0.000_0 + 0.0]),
}


def sample(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    values, weights = NULLS[name]
    p = np.array(weights) / np.sum(weights)
    x = rng.choice(values, size=n, p=p)
    return x - float(np.dot(values, p)) if name == "like ours" else x


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("n", [50, 400])
def test_false_proofs_are_rarer_than_delta(name, n):
    rng = np.random.default_rng(0)
    draws = 1000
    low = -0.97
    false = sum(proves_mean_above(sample(name, n, rng), low, 0.0, DELTA, 0.2) for _ in range(draws))
    assert false / draws <= DELTA + 2 * math.sqrt(DELTA * (1 - DELTA) / draws)


@pytest.mark.parametrize("guess", [1e-6, 0.01, 10.0, None])
def test_a_wrong_guess_of_the_spread_does_not_break_the_level(guess):
    rng = np.random.default_rng(1)
    false = sum(
        proves_mean_above(sample("rare loss", 200, rng), -0.95, 0.0, DELTA, guess) for _ in range(1000)
    )
    assert false / 1000 <= DELTA + 2 * math.sqrt(DELTA * (1 - DELTA) / 1000)


def test_power_comes_close_to_the_z_test():
    rng = np.random.default_rng(2)
    values, weights = [0.05, 0.0, -0.95, 1.0], [0.80, 0.16, 0.025, 0.015]
    hits = z_hits = 0
    for _ in range(300):
        x = rng.choice(values, size=448, p=weights)
        hits += proves_mean_above(x, -0.95, 0.0, DELTA, 0.19)
        z_hits += x.mean() / (x.std() / math.sqrt(448)) > 1.645
    assert hits > 0.8 * z_hits


def test_rows_needed_give_the_power_they_promise():
    rng = np.random.default_rng(3)
    like = rng.choice([0.05, 0.0, -0.95, 1.0], size=5000, p=[0.80, 0.15, 0.035, 0.015])
    rows = rows_for_mean(like, -0.95, 0.0, DELTA)
    assert rows is not None
    hits = sum(proves_mean_above(rng.choice(like, rows), -0.95, 0.0, DELTA, 0.2) for _ in range(300))
    assert 0.7 <= hits / 300 <= 0.95
    assert rows_for_mean(-like, -1.0, 0.0, DELTA) is None


def test_mean_lower_bound_covers():
    rng = np.random.default_rng(4)
    missed = sum(
        mean_lower_bound(rng.random(200) ** 2, 0.0, 1.0, DELTA, steps=60) > 1 / 3 for _ in range(300)
    )
    assert missed / 300 <= DELTA + 2 * math.sqrt(DELTA * (1 - DELTA) / 300)
    assert mean_lower_bound(rng.random(2000) ** 2, 0.0, 1.0, DELTA) > 0.29


@given(st.integers(1, 400), st.floats(0.0, 1.0), st.floats(0.001, 0.5))
def test_clopper_pearson_is_exact(n, part, delta):
    k = min(n, int(part * (n + 1)))
    bound = share_upper_bound(k, n, delta)
    if k < n:
        assert binomial_tail(k, n, bound) == pytest.approx(delta, rel=1e-6)
    else:
        assert bound == 1.0


def test_clopper_pearson_known_values():
    assert share_upper_bound(0, 50, 0.05) == pytest.approx(1 - 0.05 ** (1 / 50))
    assert share_upper_bound(3, 400, 0.05) == pytest.approx(0.01926923)  # beta quantile
    assert binomial_tail(2, 4, 0.5) == pytest.approx(11 / 16)


def test_rows_for_share():
    rows = rows_for_share(0.02, 0.05, 0.025)
    assert rows is not None
    rng = np.random.default_rng(5)
    hits = sum(share_upper_bound(int(k), rows, 0.025) <= 0.05 for k in rng.binomial(rows, 0.02, 500))
    assert 0.65 <= hits / 500 <= 0.95
    assert rows_for_share(0.05, 0.05, 0.025) is None
    assert rows_for_share(0.0, 0.05, 0.05) == math.ceil(math.log(0.05) / math.log(0.95))


def test_misuse_is_refused():
    with pytest.raises(PolicyError, match=r"delta must lie in \(0, 1\)"):
        proves_mean_above([0.1], -1.0, 0.0, 1.0)
    with pytest.raises(PolicyError, match=r"below the lower end of its range, -0\.5"):
        proves_mean_above([-0.6], -0.5, 0.0, 0.05)
    with pytest.raises(PolicyError, match="below the lower end"):
        proves_mean_above([float("nan")], -0.5, 0.0, 0.05)
    with pytest.raises(PolicyError, match="must be above the lowest value"):
        proves_mean_above([0.1], 0.0, 0.0, 0.05)
    with pytest.raises(PolicyError, match="3 of 2"):
        share_upper_bound(3, 2, 0.05)


def test_no_rows_prove_nothing():
    assert not proves_mean_above([], -1.0, 0.0, 0.05)
    assert share_upper_bound(0, 0, 0.05) > 0.99

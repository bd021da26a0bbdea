"""Maps recover what was done to probabilities; the measures of reliability know what right looks like."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.calibration import CalibrationMap, choose_map, fit_isotonic, fit_map, pool_violators, sigmoid
from routing.errors import PolicyError
from routing.reliability import brier, calibration_slope, ece, ece_excess, reliability_bins


def world(n, temperature=1.0, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(0.0, 1.5, n)
    return sigmoid(temperature * z + shift), (rng.random(n) < sigmoid(z)).astype(float), sigmoid(z)


@pytest.mark.parametrize(("temperature", "shift"), [(1.0, 0.0), (2.5, 0.5), (0.4, -1.0)])
def test_chosen_map_recovers_the_truth(temperature, shift):
    raw, y, _ = world(4000, temperature, shift)
    fitted, losses = choose_map(raw, y)
    fresh, labels, truth = world(4000, temperature, shift, seed=1)
    p = fitted.apply(fresh)
    assert np.abs(p - truth).mean() < 0.02
    assert ece_excess(p, labels) < 0.01
    assert 0.9 < calibration_slope(p, labels) < 1.1
    assert set(losses) == {"temperature", "platt", "isotonic"}


def test_temperature_is_chosen_for_temperature_and_isotonic_for_steps():
    raw, y, _ = world(4000, temperature=3.0)
    assert fit_map(raw, y, "temperature").slope == pytest.approx(1 / 3, rel=0.1)
    rng = np.random.default_rng(0)
    x = rng.random(3000)
    step = (rng.random(3000) < np.where(x < 0.7, 0.3, 0.8)).astype(float)
    assert choose_map(x, step)[0].kind == "isotonic"


@pytest.mark.parametrize("kind", ["identity", "temperature", "platt", "isotonic"])
def test_scalar_vector_and_json_agree(kind):
    raw, y, _ = world(500)
    fitted = fit_map(raw, y, kind)
    again = CalibrationMap.from_dict(json.loads(json.dumps(fitted.to_dict())))
    grid = np.linspace(0.0, 1.0, 101)
    assert np.allclose(fitted.apply(grid), [again(float(v)) for v in grid])
    assert ((fitted.apply(grid) >= 0) & (fitted.apply(grid) <= 1)).all()


@pytest.mark.parametrize("kind", ["temperature", "platt", "isotonic"])
@pytest.mark.parametrize("backwards", [False, True])
def test_maps_increase_strictly(kind, backwards):
    raw, y, _ = world(500)
    fitted = fit_map(1.0 - raw if backwards else raw, y, kind)
    assert (np.diff(fitted.apply(np.linspace(0.001, 0.999, 200))) > 0).all()


def test_raw_scores_of_any_range():
    rng = np.random.default_rng(0)
    z = rng.normal(size=4000)
    y = (rng.random(4000) < sigmoid(2 * z - 1)).astype(float)
    fitted, _ = choose_map(100.0 * z + 7.0, y, input="raw")
    assert np.abs(fitted.apply(100.0 * z + 7.0) - sigmoid(2 * z - 1)).mean() < 0.02
    with pytest.raises(PolicyError, match="platt or isotonic"):
        fit_map(z, y, "temperature", "raw")


@pytest.mark.parametrize("labels", [np.zeros(50), np.ones(50)])
def test_one_class_only_stays_finite(labels):
    fitted, losses = choose_map(np.linspace(0, 1, 50), labels)
    assert losses == {}
    assert np.abs(fitted.apply(np.linspace(0, 1, 50)) - labels).max() < 0.2


def test_separable_labels_stay_finite():
    x = np.linspace(0, 1, 100)
    fitted = fit_map(x, (x > 0.5).astype(float), "platt")
    assert np.isfinite(fitted.slope)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "one length"),
        ([0.1, 0.2], [1.0], "one length"),
        ([0.1, np.nan], [0.0, 1.0], "score 1 is not finite"),
        ([0.1, 0.2], [0.0, 2.0], "labels"),
    ],
)
def test_misuse_is_refused(scores, labels, message):
    with pytest.raises(PolicyError, match=message):
        fit_map(scores, labels, "platt")


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=30))
def test_pool_violators_is_the_least_squares_fit(values):
    y = np.array(values, dtype=float)
    level, sizes = pool_violators(y, np.ones(y.size))
    fit = np.repeat(level, sizes)
    assert (np.diff(fit) >= -1e-12).all()
    assert fit.sum() == pytest.approx(y.sum())
    residual = np.cumsum(y - fit)  # optimal iff partial sums stay at or above 0 and return to it (KKT)
    assert (residual >= -1e-9).all()
    assert np.dot(y - fit, fit) == pytest.approx(0.0, abs=1e-6)


def test_equal_scores_share_a_level():
    table = fit_isotonic([0.5, 0.5, 0.5, 1.0], [0.0, 1.0, 1.0, 1.0])
    assert table(0.5) == pytest.approx(2 / 3)


def test_ece_of_truth_has_no_excess_and_of_a_shift_has():
    raw, y, truth = world(5000)
    assert abs(ece_excess(truth, y)) < 0.01
    off = np.clip(truth + 0.1, 0, 1)
    assert ece_excess(off, y) > 0.06
    assert ece(off, y) > ece_excess(off, y)
    assert ece(np.array([0.25, 0.75]), np.array([0.0, 1.0]), bins=2) == pytest.approx(0.25)
    bins = reliability_bins(raw, y)
    assert [b.rows for b in bins] == [334] * 5 + [333] * 10
    assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)


def test_slope_tells_overconfidence():
    z = np.random.default_rng(0).normal(0, 1.5, 20_000)
    y = (np.random.default_rng(1).random(z.size) < sigmoid(z)).astype(float)
    assert calibration_slope(sigmoid(2 * z), y) == pytest.approx(0.5, abs=0.04)
    assert calibration_slope(np.full(10, 0.5), np.ones(10)) is None
    assert calibration_slope(np.full(10, 0.5), np.arange(10) % 2.0) is None
    assert calibration_slope(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 0.0, 1.0, 1.0])) is None


def test_brier():
    assert brier(np.array([0.0, 0.5]), np.array([1.0, 1.0])) == pytest.approx(0.625)

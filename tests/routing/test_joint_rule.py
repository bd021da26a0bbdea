"""The joint rule against brute force on a world whose probabilities are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.cost import Costs, priced
from routing.errors import PolicyError
from routing.joint_rule import JointRule, Weights
from routing.table import Table

PRICES = np.linspace(0.0, 1.0, 257)
PROMPTS = np.array([0.05, 0.2, 0.35, 0.5, 0.65])  # g1 of five kinds of prompt
SIDES = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])  # (g2 - g1) / g1 of five equally likely kinds of answer
MIXED = np.array([-6.0, -2.0, 0.0, 2.0, 6.0])  # the same where weak is often the better one


def exact(weak: float, check: float, sides: np.ndarray = SIDES) -> JointRule:
    """g2 = g1 * (1 + side); the tables hold the exact expectations."""
    g2 = PROMPTS[:, None] * (1.0 + sides)  # (prompt, answer)
    least = np.minimum(g2[None], PRICES[:, None, None]).mean(axis=2)  # (T, prompt)
    return JointRule(
        prompt=Weights(mf=1.0),
        gain=Table(PROMPTS.tolist(), PROMPTS.tolist()),
        answer=Weights(fail=1.0),
        loss=Table([-5.0, 5.0], [-5.0, 5.0]),
        prices=PRICES.tolist(),
        least_x=PROMPTS.tolist(),
        least=least,
        costs=Costs(weak, check, 1.0),
    )


def brute(weak: float, check: float, t: float, g1: float) -> tuple[float, float, float]:
    checked = t * (weak + check) + np.minimum(g1 * (1.0 + SIDES), t).mean()
    return t, t * weak + g1, float(checked)


@settings(max_examples=200)
@given(st.floats(0.01, 0.9), st.floats(0.0, 0.3), st.floats(0.01, 0.99), st.sampled_from(PROMPTS.tolist()))
def test_cuts_choose_the_cheapest_action(weak, check, t, g1):
    rule = exact(weak, check)
    cuts = rule.cuts(t)
    strong, unchecked, checked = brute(weak, check, t, g1)
    index = rule.prompt_index(g1, None)
    if index >= cuts.strong_from:
        taken = strong
    elif index < cuts.check_from:
        taken = unchecked
    else:
        taken = checked
    assert taken <= min(strong, unchecked, checked) + 0.003  # the grid of prices


@settings(max_examples=100)
@given(st.floats(0.01, 2.0), st.floats(0.0, 0.5), st.floats(0.01, 0.99), st.sampled_from([SIDES, MIXED]))
def test_never_dearer_than_always_strong_in_expectation(weak, check, t, sides):
    """With calibrated probabilities; also when weak costs more than strong, or is often better."""
    rule = exact(weak, check, sides)
    cuts = rule.cuts(t)
    total = 0.0
    for g1 in PROMPTS.tolist():
        index = rule.prompt_index(g1, None)
        if index >= cuts.strong_from:
            total += t
        elif index < cuts.check_from:
            total += t * weak + g1
        else:
            g2 = g1 * (1.0 + sides)
            kept = np.array([rule.loss(value) < t for value in g2.tolist()])
            total += t * (weak + check) + float(np.where(kept, g2, t).mean())
    assert total / PROMPTS.size <= t + 0.003


@settings(max_examples=100)
@given(
    st.floats(0.01, 0.9), st.floats(0.0, 0.3), st.floats(0.001, 0.999), st.integers(0, 4), st.integers(0, 4)
)
def test_one_score_a_row_tells_the_same_as_the_cuts(weak, check, t, prompt, answer):
    rule = exact(weak, check)
    g1, g2 = PROMPTS[prompt], PROMPTS[prompt] * (1.0 + SIDES[answer])
    score = rule.strong_scores(np.array([1.0 - g2]), np.array([g1]), None)[0]
    if abs(score - t) < 1e-9:
        return
    cuts = rule.cuts(t)
    strong = g1 >= cuts.strong_from or (g1 >= cuts.check_from and g2 >= cuts.reject_from)
    assert strong == (t <= score)


def test_dear_checks_are_not_bought():
    cuts = exact(0.3, 0.6).cuts(0.3)
    assert cuts.check_from == pytest.approx(cuts.strong_from)


def test_phi_against_mistral_goes_to_strong_nearly_always():
    """Weak is adequate on a third and costs .37 of strong: even a perfect evaluator pays .37 + .68 > 1."""
    g1 = np.array([0.68])
    least = np.minimum(1.0, PRICES)[:, None] * 0.68
    rule = JointRule(
        prompt=Weights(), gain=Table([0.0], g1.tolist()), answer=Weights(fail=1.0),
        loss=Table([0.0, 1.0], [0.0, 1.0]), prices=PRICES.tolist(), least_x=[0.0], least=least,
        costs=Costs(0.37, 0.01, 1.0),
    )  # fmt: skip
    assert rule.prompt_scores == ()
    assert all(rule.cuts(t).strong_from <= 0.0 for t in (0.1, 0.5, 0.9))
    cheap = rule.with_costs(Costs(0.2, 0.01, 1.0))
    assert cheap.cuts(0.5).strong_from > 0.0
    assert cheap.cuts(0.5).check_from <= 0.0


def test_prices_above_one_are_told_apart():
    """Strong is dropped where t (1 - c_w / c_s) exceeds g1: at .6 and .65 that is beyond t = 1."""
    rule = exact(0.6, 0.5)
    assert rule.check_until.y == pytest.approx((PROMPTS / 0.4).tolist(), abs=0.01)
    assert rule.cuts(1.5).strong_from == pytest.approx(0.6, abs=0.01)


def test_scalar_and_vector_indices_agree():
    rule = exact(0.1, 0.01)
    rule.answer = Weights(mf=0.3, difficulty=0.1, fail=0.5, fail_mf=0.2, fail_difficulty=-0.1)
    rng = np.random.default_rng(0)
    adequate, mf, hard = rng.random((3, 50))
    index = [rule.answer_index(a, m, h) for a, m, h in zip(adequate, mf, hard, strict=True)]
    assert np.allclose(rule.losses(adequate, mf, hard), rule.loss.apply(index))
    assert np.isnan(rule.answer_index(0.5, None, 0.5))
    with pytest.raises(PolicyError, match="lack"):
        rule.losses(adequate, None, hard)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=8), st.floats(-6, 6))
def test_table_and_its_inverse(points, level):
    x = sorted({round(a, 3) for a, _ in points})
    y = sorted(b for _, b in points)[: len(x)]
    table = Table(x, y)
    at = table.first_at_least(level)
    if np.isfinite(at):
        assert table(at) == pytest.approx(level, abs=1e-9) or at == x[0]
    else:
        assert (at < 0) == (y[0] >= level)
    grid = np.linspace(-6, 6, 50)
    assert np.allclose(table.apply(grid), [table(float(v)) for v in grid])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([], [], "at least one"),
        ([0.0], [0.0, 1.0], "as many"),
        ([0.0, 0.0], [0.0, 1.0], "strictly"),
        ([0.0, 1.0], [1.0, 0.0], "not decrease"),
        ([0.0, np.nan], [0.0, 1.0], "finite"),
    ],
)
def test_a_table_that_is_none_is_refused(x, y, message):
    with pytest.raises(PolicyError, match=message):
        Table(x, y)


def test_costs():
    costs = Costs(0.2, 0.05, 2.0)
    assert (costs.weak_ratio, costs.checked_ratio) == (0.1, 0.125)
    assert priced(0.5, 2.0, 0.25) == 1.0
    for wrong in ((-1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, float("nan"), 1.0)):
        with pytest.raises(PolicyError, match="costs must be"):
            Costs(*wrong)

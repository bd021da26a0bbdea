"""Fixed-sequence testing: order, stopping, the two promises, and what a refusal says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from routing.certificate import Certificate, Promise, labels_needed, prove_in_sequence, require_disjoint
from routing.errors import PolicyError


def world(n=2000, seed=0):
    """Five points that keep 10, 30, ... per cent, each kept answer worse with probability .08, better .02."""
    rng = np.random.default_rng(seed)
    q_strong = (rng.random(n) < 0.85).astype(float)
    worse, better = rng.random(n) < 0.08, rng.random(n) < 0.02
    q_weak = np.where(worse, 0.0, np.where(better, 1.0, q_strong))
    keep = (rng.random(n) < np.array([0.1, 0.3, 0.5, 0.7, 0.95])[:, None]).astype(float)
    return np.arange(1.0, 6.0) / 10, keep, q_weak, q_strong


def test_testing_stops_at_the_first_failure():
    thresholds, keep, q_weak, q_strong = world()
    keep[2] = 1.0
    q_weak = np.where(np.arange(q_weak.size) % 2 == 0, q_weak, 0.0)
    keep[3] = 0.0  # would pass, but comes after a failure
    tested = prove_in_sequence(thresholds, keep, q_weak, q_strong, Promise(0.9))
    assert [point.passed for point in tested] == [True, False] or [p.passed for p in tested][-1] is False
    assert len(tested) <= 3
    assert all(point.passed for point in tested[:-1])


def test_easy_promises_pass_and_hard_ones_fail():
    thresholds, keep, q_weak, q_strong = world()
    assert all(point.passed for point in prove_in_sequence(thresholds, keep, q_weak, q_strong, Promise(0.85)))
    tested = prove_in_sequence(thresholds, keep, q_weak, q_strong, Promise(0.99))
    assert not tested[-1].passed
    first = prove_in_sequence(thresholds, keep, q_weak, q_strong, Promise(0.95))[0]
    assert first.saved == pytest.approx(0.1, abs=0.03)
    assert first.quality is not None
    assert first.quality > 0.97
    assert first.worse_bound is None


def test_max_worse_takes_its_share_of_delta_and_can_fail_alone():
    thresholds, keep, q_weak, q_strong = world()
    assert Promise(confidence=0.9, max_worse=0.1).delta == pytest.approx(0.05)
    assert Promise(confidence=0.9).delta == pytest.approx(0.1)
    tested = prove_in_sequence(thresholds, keep, q_weak, q_strong, Promise(0.85, max_worse=0.03))
    last = tested[-1]
    assert not last.passed
    assert last.worse_bound is not None
    assert last.worse_bound > 0.03
    assert last.worse <= last.worse_bound


def test_exploration_is_counted():
    """Half a chance to keep an answer is worth half of both answers."""
    keep = np.full((1, 4000), 0.5)
    q_weak, q_strong = np.zeros(4000), np.ones(4000)
    point = prove_in_sequence(np.array([0.5]), keep, q_weak, q_strong, Promise(0.45, max_worse=0.6))[0]
    assert point.quality == pytest.approx(0.5)
    assert point.worse == pytest.approx(0.5, abs=0.03)
    assert point.passed


def test_labels_needed():
    _, keep, q_weak, q_strong = world()
    total = labels_needed(keep[0], q_weak, q_strong, Promise(0.95), certification_share=0.5)
    assert total is not None
    assert 50 < total < 1000
    more = labels_needed(keep[0], q_weak, q_strong, Promise(0.95, max_worse=0.011), certification_share=0.5)
    assert more is not None
    assert more > total
    assert labels_needed(keep[4], q_weak, q_strong, Promise(1.0), certification_share=0.5) is None
    assert labels_needed(keep[4], q_weak, q_strong, Promise(0.5, max_worse=0.01), 0.5) is None


def test_overlap_is_refused_and_named():
    with pytest.raises(PolicyError, match=r"1 of 2 prompts were already fitted on, e\.g\. prompt_id 'b'"):
        require_disjoint(["a", "b"], ["b", "c"])
    require_disjoint(["a"], ["b"])


@pytest.mark.parametrize(
    "wrong",
    [{"quality": 0.0}, {"quality": 1.1}, {"confidence": 1.0}, {"max_worse": 0.0}, {"min_saved": -0.1}],
)
def test_promises_that_make_no_sense(wrong):
    with pytest.raises(PolicyError, match=next(iter(wrong))):
        Promise(**wrong)


def test_round_trip():
    certificate = Certificate(
        granted=True, strategy="cascade", quality=0.95, confidence=0.95, max_worse=None, min_saved=0.05,
        threshold=0.2, saved=0.3, quality_estimate=0.97, worse_bound=None, passed=(0.1, 0.2),
        calibration_rows=448, certification_rows=448, explore_share=0.01, reason="certified",
    )  # fmt: skip
    data = json.loads(json.dumps(certificate.to_dict()))
    assert Certificate.from_dict(data) == certificate
    with pytest.raises(PolicyError, match="schema is 7"):
        Certificate.from_dict({**data, "schema": 7})
    del data["passed"]
    with pytest.raises(PolicyError, match="passed"):
        Certificate.from_dict(data)

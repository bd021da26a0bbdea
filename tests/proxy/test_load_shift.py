"""The shift towards weak stays where the certificate holds, for every depth of the queue and every base."""

from __future__ import annotations

import itertools

from proxy.backends.http import HttpBackend
from proxy.backends.replicas import ReplicaSet
from proxy.backends.retry import TierBackend
from proxy.load_shift import LoadShift
from routing.policy import Policy

POINTS = (0.0, 0.2, 0.5, 0.55, 0.7, 1.0, 1.5)


def test_no_threshold_is_ever_used_that_was_not_certified() -> None:
    strong = TierBackend(ReplicaSet([HttpBackend("http://127.0.0.1:1/v1")]))
    policy = Policy(
        version="v", default="evaluator", thresholds={"evaluator": 0.5, "random": 0.5}, explore_share=0
    )
    for certified in itertools.chain.from_iterable(itertools.combinations(POINTS, n) for n in range(4)):
        policy.certified = certified
        for base in (0.1, 0.5, 0.6, 1.0):
            rule, before = policy.rule("evaluator", base), base
            for running in (0, 3, 4, 5, 6, 8, 30):
                strong.replicas.replicas[0].outstanding = running
                now = LoadShift(policy, strong, 4).rule(rule).threshold
                assert now == base or (now in certified and base < now <= 1.0)
                assert now >= before, "deeper never means more strong calls"
                assert now == base or running >= 4
                assert LoadShift(policy, strong, 0).rule(rule) is rule, "never, unless it is configured"
                before = now
            highest = max((point for point in certified if base < point <= 1.0), default=base)
            assert before == highest, "at twice the depth and beyond: the last certified point"
    other = policy.rule("random", 0.5)
    assert LoadShift(policy, strong, 4).rule(other) is other, "a certificate is for one strategy"

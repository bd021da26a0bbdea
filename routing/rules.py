"""One strategy at one threshold, as a handful of comparisons.

A threshold t always applies to P(strong should answer): shift up iff it is at least t, so a higher t means
fewer strong calls, and t = 0 is always-strong for every strategy. Everything that costs time (tables, costs,
expectations) is turned into two or three numbers when a `Rule` is made; `enter` and `accept` then compare
floats. They cost about a microsecond and allocate nothing: the three possible entries of a ladder are made
once per rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from routing.errors import MissingSignal
from routing.joint_rule import JointRule
from routing.signals import Entry, Signals


class Rule:
    """One strategy at one threshold over a ladder of `tiers` tiers. Base of the rules below."""

    __slots__ = ("_weak", "last", "needs_answer_score", "needs_prompt_scores", "strategy", "threshold",
                 "tiers", "weak_checked")  # fmt: skip

    def __init__(self, strategy: str, threshold: float, tiers: int, prompt_scores: Sequence[str] = (),
                 answer_score: bool = False) -> None:  # fmt: skip
        self.strategy = strategy
        self.threshold = threshold
        self.tiers = tiers
        self.needs_prompt_scores = frozenset(prompt_scores)  # of {"mf", "difficulty"}
        self.needs_answer_score = answer_score
        self._weak = Entry(0, False)
        self.weak_checked = Entry(0, True)
        self.last = Entry(tiers - 1, False)

    def enter(self, signals: Signals) -> Entry:
        """The tier to start at. Raises `MissingSignal` when a score the rule needs is None or not finite."""
        raise NotImplementedError

    def accept(self, tier: int, signals: Signals) -> bool:
        """Whether the answer of `tier`, scored by `signals.answer_score`, goes to the client.

        True also for an answer nobody was asked to check. Raises `MissingSignal`.
        """
        return True

    def margin(self, tier: int, signals: Signals) -> float:
        """How far the answer of `tier` is from its cut: accepted iff below 0. Raises `MissingSignal`.

        Comparable between answers of one prompt or of many under this rule, not between rules.
        """
        return -1.0 if self.accept(tier, signals) else 1.0

    def limits(self, signals: Signals) -> tuple[float | None, float | None]:
        """What the two scores are compared with for this prompt, both in [0, 1], for people to look at:
        strong at once iff `route_score` is at least the first, a first tier's answer is kept iff P(adequate)
        is above the second. None where the rule does not look at that score.
        """
        return None, None

    def entry_probability(self, entry: Entry, signals: Signals) -> float:
        """Probability that this rule starts with `entry` (0 or 1 but for a random rule)."""
        return float(self.enter(signals) == entry)

    def _score(self, signals: Signals) -> float:
        score = signals.answer_score
        if score is None or math.isnan(score):
            raise self._missing("answer_score", score)
        return score

    def _missing(self, name: str, value: float | None) -> MissingSignal:
        return MissingSignal(
            f"strategy {self.strategy!r} needs the {name}, a number in [0, 1]; it got {value!r}"
        )


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


class PromptRule(Rule):
    """`mf` and `difficulty`: one prompt score decides, nothing is checked."""

    __slots__ = ("_field",)

    def __init__(self, strategy: str, threshold: float, tiers: int) -> None:
        super().__init__(strategy, threshold, tiers, prompt_scores=(strategy,))
        self._field = "route_score" if strategy == "mf" else "difficulty"

    def enter(self, signals: Signals) -> Entry:
        if signals.tier_scores is not None and self.tiers > 2:
            for tier, score in enumerate(signals.tier_scores[: self.tiers - 1]):
                if score < self.threshold:
                    return Entry(tier, False)
            return self.last
        score = getattr(signals, self._field)
        if not _is_number(score):
            raise self._missing(self._field, score)
        return self.last if score >= self.threshold else self._weak

    def limits(self, signals: Signals) -> tuple[float | None, float | None]:
        return (self.threshold if self.strategy == "mf" else None), None


class EvaluatorRule(Rule):
    """`evaluator`: the weak answer is always written and judged; shift up iff 1 - P(adequate) >= t."""

    __slots__ = ()

    def __init__(self, threshold: float, tiers: int) -> None:
        super().__init__("evaluator", threshold, tiers, answer_score=True)

    def enter(self, signals: Signals) -> Entry:
        return self.weak_checked

    def accept(self, tier: int, signals: Signals) -> bool:
        score = self._score(signals)
        return tier >= self.tiers - 1 or 1.0 - score < self.threshold

    def limits(self, signals: Signals) -> tuple[float | None, float | None]:
        return None, 1.0 - self.threshold

    def margin(self, tier: int, signals: Signals) -> float:
        return (1.0 - self._score(signals)) - self.threshold


class RandomRule(Rule):
    """`random`: the last tier with probability 1 - t, whatever the prompt."""

    __slots__ = ()

    def __init__(self, threshold: float, tiers: int) -> None:
        super().__init__("random", threshold, tiers)

    def enter(self, signals: Signals) -> Entry:
        return self.last if signals.draw >= self.threshold else self._weak

    def entry_probability(self, entry: Entry, signals: Signals) -> float:
        return {self.last: 1.0 - self.threshold, self._weak: self.threshold}.get(entry, 0.0)


class CascadeRule(Rule):
    """`cascade`: the joint rule of `JointRule` at the price lambda * c_s = t (one table for each step up).

    Strong at once, weak unchecked, or weak first and judged; a judged answer is accepted iff the expected
    quality lost by keeping it is below t. On a ladder "strong" is going on to the next tier, which asks its
    own rule; each step's price is lambda times the cost of going on from there. Prompts that the evaluator
    knows nothing of are decided by `unjudged`, where there is one.
    """

    __slots__ = ("_cuts", "_entries", "_joint", "_unjudged")

    def __init__(
        self, threshold: float, tiers: int, joint: Sequence[JointRule], unjudged: Rule | None = None
    ) -> None:
        asked = sorted({name for rule in joint for name in rule.prompt_scores})
        self._unjudged = unjudged
        if unjudged is not None:
            asked = sorted({*asked, *unjudged.needs_prompt_scores})
        super().__init__("cascade", threshold, tiers, asked, answer_score=True)
        self._joint = tuple(joint[min(step, len(joint) - 1)] for step in range(max(tiers - 1, 1)))
        top = self._joint[-1].costs.strong
        self._cuts = tuple(rule.cuts(threshold * (rule.costs.strong / top)) for rule in self._joint)
        self._entries = (
            (self._weak, self.weak_checked),
            *((Entry(tier, False), Entry(tier, True)) for tier in range(1, len(self._joint))),
        )

    def enter(self, signals: Signals) -> Entry:
        if signals.unjudged and self._unjudged is not None:
            return self._unjudged.enter(signals)
        for rule, cuts, (unchecked, checked) in zip(self._joint, self._cuts, self._entries, strict=True):
            index = rule.prompt_index(signals.route_score, signals.difficulty)
            if math.isnan(index):
                raise self._missing(" and ".join(sorted(self.needs_prompt_scores)), None)
            if index < cuts.strong_from:
                return unchecked if index < cuts.check_from else checked
        return self.last

    def accept(self, tier: int, signals: Signals) -> bool:
        if tier >= self.tiers - 1:
            self._score(signals)
            return True
        return self._index(tier, signals) < self._cuts[tier].reject_from

    def margin(self, tier: int, signals: Signals) -> float:
        cut = self._cuts[tier].reject_from
        return self._index(tier, signals) - cut if math.isfinite(cut) else -cut

    def limits(self, signals: Signals) -> tuple[float | None, float | None]:
        rule, cuts = self._joint[0], self._cuts[0]
        mf, difficulty = signals.route_score or 0.0, signals.difficulty or 0.0
        prompt, answer = rule.prompt, rule.answer
        route = None
        if prompt.mf > 0.0:
            route = (cuts.strong_from - prompt.difficulty * difficulty) / prompt.mf
        slope = answer.fail + answer.fail_mf * mf + answer.fail_difficulty * difficulty
        kept = None
        if slope > 0.0:
            kept = 1.0 - (cuts.reject_from - answer.mf * mf - answer.difficulty * difficulty) / slope
        return _within(route), _within(kept)

    def _index(self, tier: int, signals: Signals) -> float:
        score = self._score(signals)
        index = self._joint[tier].answer_index(score, signals.route_score, signals.difficulty)
        if math.isnan(index):
            raise self._missing(" and ".join(sorted(self.needs_prompt_scores)), None)
        return index


def _within(score: float | None) -> float | None:
    """A cut as a place on the scale of a score: beyond either end it is that end."""
    return None if score is None else min(1.0, max(0.0, score))

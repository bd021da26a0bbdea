"""Which tier answers: one strategy at one threshold, as a handful of comparisons.

A threshold t always applies to P(strong should answer): shift up iff it is at least t, so a higher t means
fewer strong calls, and t = 0 is always-strong for every strategy. Everything that costs time (tables, costs,
expectations) is turned into two or three numbers when a `Rule` is made; `enter` and `accept` then compare
floats. They cost about a microsecond and allocate nothing: the three possible entries of a ladder are made
once per policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routing.early import EarlyRule
from routing.errors import MissingSignal, PolicyError
from routing.joint_rule import HIGHEST_PRICE, JointRule

SCHEMA = 1
STRATEGIES = ("cascade", "evaluator", "mf", "difficulty", "random")
DEFAULT_EXPLORE_SHARE = 0.01
_RULES_KEPT = 1024  # clients may send any threshold: the cache of rules is emptied at this size


@dataclass(slots=True)
class Signals:
    """What is known about one request when a rule is asked; all scores calibrated, in [0, 1].

    `route_score` and `difficulty` are P(strong should answer) by the MF pre-router and by the difficulty
    classifier; `answer_score` is P(adequate) of the answer at hand; `draw` is uniform in [0, 1), drawn by the
    driver and logged. On a ladder of more than two tiers `tier_scores[k]` may hold P(a tier above k should
    answer) for every k but the last; without it a prompt enters at the first or at the last tier.
    """

    route_score: float | None = None
    difficulty: float | None = None
    answer_score: float | None = None
    draw: float = 0.0
    tier_scores: Sequence[float] | None = None
    unfamiliar: bool = False  # the prompt is unlike those that the scorers were fitted on
    unjudged: bool = False  # it is unlike those whose answers the evaluator was fitted on


@dataclass(frozen=True, slots=True)
class Entry:
    """Start at tier `tier` (0 is the cheapest); `check` says whether the evaluator judges its answer."""

    tier: int
    check: bool

    def name(self, last: int) -> str:
        """`strong`, `checked` or `unchecked`, as the decision log calls it."""
        if self.tier == last:
            return "strong"
        return "checked" if self.check else "unchecked"


@dataclass(frozen=True, slots=True)
class Choice:
    """An entry as it was taken: with the probability of taking it, for the decision log."""

    entry: Entry
    propensity: float
    explored: bool


class Rule:
    """One strategy at one threshold over a ladder of `tiers` tiers. Base of the rules below."""

    __slots__ = ("_last", "_weak", "_weak_checked", "needs_answer_score", "needs_prompt_scores", "strategy",
                 "threshold", "tiers")  # fmt: skip

    def __init__(self, strategy: str, threshold: float, tiers: int, prompt_scores: Sequence[str] = (),
                 answer_score: bool = False) -> None:  # fmt: skip
        self.strategy = strategy
        self.threshold = threshold
        self.tiers = tiers
        self.needs_prompt_scores = frozenset(prompt_scores)  # of {"mf", "difficulty"}
        self.needs_answer_score = answer_score
        self._weak = Entry(0, False)
        self._weak_checked = Entry(0, True)
        self._last = Entry(tiers - 1, False)

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
            return self._last
        score = getattr(signals, self._field)
        if not _is_number(score):
            raise self._missing(self._field, score)
        return self._last if score >= self.threshold else self._weak

    def limits(self, signals: Signals) -> tuple[float | None, float | None]:
        return (self.threshold if self.strategy == "mf" else None), None


class EvaluatorRule(Rule):
    """`evaluator`: the weak answer is always written and judged; shift up iff 1 - P(adequate) >= t."""

    __slots__ = ()

    def __init__(self, threshold: float, tiers: int) -> None:
        super().__init__("evaluator", threshold, tiers, answer_score=True)

    def enter(self, signals: Signals) -> Entry:
        return self._weak_checked

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
        return self._last if signals.draw >= self.threshold else self._weak

    def entry_probability(self, entry: Entry, signals: Signals) -> float:
        return {self._last: 1.0 - self.threshold, self._weak: self.threshold}.get(entry, 0.0)


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
            (self._weak, self._weak_checked),
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
        return self._last

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


class Policy:
    """The strategies of one bundle at their calibrated thresholds, and which of them is in force.

    `thresholds` names every strategy that can be served, each in [0, 1] but for the cascade's, which is a
    price and may be higher where weak costs nearly as much as strong; a strategy whose scorer the bundle
    lacks is left out. `joint` holds one `JointRule` for every step up the ladder, or one for all steps;
    `early`, by strategy, the bounds for judging prefixes of the first tier's streams. `scorers` is the
    fingerprint of what the scores come from: policies of one fingerprint can be compared on logged scores.
    `unjudged` names the strategy that decides, under the cascade's calibrated threshold, on prompts that the
    evaluator was not fitted on; None where there are none such.
    `certified` are the thresholds of the default strategy that hold together under its certificate.
    Raises `PolicyError`.
    """

    def __init__(
        self,
        *,
        version: str,
        default: str,
        thresholds: Mapping[str, float],
        tiers: int = 2,
        joint: Sequence[JointRule] = (),
        explore_share: float = DEFAULT_EXPLORE_SHARE,
        early: Mapping[str, EarlyRule] | None = None,
        scorers: str = "",
        certified: Sequence[float] = (),
        unjudged: str | None = None,
    ) -> None:
        if tiers < 1:
            raise PolicyError(f"a policy needs at least one tier; it got tiers={tiers}")
        if not 0.0 <= explore_share <= 1.0:
            raise PolicyError(f"explore_share must lie in [0, 1]; it is {explore_share}")
        unknown = sorted(set(thresholds) - set(STRATEGIES))
        if unknown:
            raise PolicyError(f"unknown strategies {unknown}; there are {', '.join(STRATEGIES)}")
        if "cascade" in thresholds and not joint:
            raise PolicyError("strategy 'cascade' has a threshold but the policy holds no joint rule")
        if unjudged is not None and (unjudged not in ("mf", "difficulty") or unjudged not in thresholds):
            raise PolicyError(f"unjudged must be mf or difficulty, with a threshold; it is {unjudged!r}")
        self.unjudged = unjudged
        self.version = version
        self.scorers = scorers
        self.tiers = tiers
        self.explore_share = explore_share
        self.joint = tuple(joint)
        self.early = dict(early or {})
        self.certified = tuple(certified)
        self.thresholds = {
            name: _checked_threshold(thresholds[name], HIGHEST_PRICE if name == "cascade" else 1.0)
            for name in STRATEGIES
            if name in thresholds
        }
        self.default_strategy = default
        self._rules: dict[tuple[str, float | None], Rule] = {}
        self.default = self.rule(None, None)

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies that can be served."""
        return tuple(self.thresholds)

    def rule(self, strategy: str | None, threshold: float | None) -> Rule:
        """The rule for a strategy (None: the default) at a threshold (None: the calibrated one).

        Raises `PolicyError` for a strategy the policy lacks and for a threshold outside [0, 1].
        """
        name = self.default_strategy if strategy is None else strategy
        rule = self._rules.get((name, threshold))
        if rule is None:
            rule = self._make_rule(name, threshold)
            if len(self._rules) >= _RULES_KEPT:
                self._rules.clear()
            self._rules[name, threshold] = rule
        return rule

    def early_rule(self, rule: Rule) -> EarlyRule | None:
        """The bounds for judging prefixes under `rule`; None where none were fitted for its threshold."""
        early = self.early.get(rule.strategy)
        return early if early is not None and early.fits(rule.threshold) else None

    def choose(self, rule: Rule, signals: Signals) -> Choice:
        """The entry for a request, exploration included, with its propensity. Raises `MissingSignal`.

        A share `explore_share` of the draws is spent on exploring: half start at the last tier, half at the
        first one with a check. The rest of the draw is stretched to [0, 1) again for the random rule.
        A caller that must not explore (a client's own threshold, say) asks `rule.enter` instead.
        """
        share = self.explore_share
        if self.unjudged is not None and signals.unjudged:
            share = 0.0  # a check there would tell nothing
        draw = signals.draw
        explored = draw < share
        if explored:
            entry = rule._last if draw < 0.5 * share else rule._weak_checked
        else:
            signals.draw = (draw - share) / (1.0 - share) if share else draw
            entry = rule.enter(signals)
            signals.draw = draw
        propensity = (1.0 - share) * rule.entry_probability(entry, signals)
        if entry == rule._last or entry == rule._weak_checked:
            propensity += 0.5 * share
        return Choice(entry, propensity, explored)

    def _make_rule(self, name: str, threshold: float | None) -> Rule:
        if name not in self.thresholds:
            raise PolicyError(
                f"no strategy {name!r} in this policy; it has {', '.join(self.thresholds) or 'none'}"
            )
        value = self.thresholds[name] if threshold is None else _checked_threshold(threshold)
        if name == "cascade":
            apart = self.rule(self.unjudged, None) if self.unjudged and threshold is None else None
            return CascadeRule(value, self.tiers, self.joint, apart)
        if name == "evaluator":
            return EvaluatorRule(value, self.tiers)
        if name == "random":
            return RandomRule(value, self.tiers)
        return PromptRule(name, value, self.tiers)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for policy.json."""
        return {
            "schema": SCHEMA,
            "version": self.version,
            "default": self.default_strategy,
            "tiers": self.tiers,
            "explore_share": self.explore_share,
            "thresholds": dict(self.thresholds),
            "joint": [rule.to_dict() for rule in self.joint],
            "early": {name: early.to_dict() for name, early in self.early.items()},
            "unjudged": self.unjudged,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Policy:
        """Read `to_dict`'s data. Raises `PolicyError` naming the field that is missing or wrong."""
        if data.get("schema") != SCHEMA:
            raise PolicyError(f"policy schema is {data.get('schema')!r}; this version reads {SCHEMA}")
        try:
            return cls(
                version=str(data["version"]),
                default=str(data["default"]),
                thresholds={str(name): float(value) for name, value in data["thresholds"].items()},
                tiers=int(data["tiers"]),
                joint=[JointRule.from_dict(rule) for rule in data.get("joint", ())],
                explore_share=float(data.get("explore_share", DEFAULT_EXPLORE_SHARE)),
                scorers=str(data.get("scorers", "")),
                unjudged=data.get("unjudged"),
                early={
                    str(name): EarlyRule.from_dict(early) for name, early in data.get("early", {}).items()
                },
            )
        except KeyError as exc:
            raise PolicyError(f"policy lacks the field {exc.args[0]!r}") from exc
        except (AttributeError, TypeError, ValueError) as exc:
            raise PolicyError(f"policy holds a value of the wrong type: {exc}") from exc


def _within(score: float | None) -> float | None:
    """A cut as a place on the scale of a score: beyond either end it is that end."""
    return None if score is None else min(1.0, max(0.0, score))


def _checked_threshold(value: float, highest: float = 1.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PolicyError(f"a threshold is a number in [0, 1]; it got {value!r}")
    if not 0.0 <= value <= highest:
        raise PolicyError(f"a threshold lies in [0, {highest:g}]; it got {value}")
    return float(value)

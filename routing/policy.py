"""Which tier answers: the strategies of one bundle, their thresholds, and the rule in force."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from routing.early import EarlyRule
from routing.errors import PolicyError
from routing.joint_rule import HIGHEST_PRICE, JointRule
from routing.rules import CascadeRule, EvaluatorRule, PromptRule, RandomRule, Rule
from routing.signals import Choice, Signals

SCHEMA = 1
STRATEGIES = ("cascade", "evaluator", "mf", "difficulty", "random")
DEFAULT_EXPLORE_SHARE = 0.01
_RULES_KEPT = 1024  # clients may send any threshold: the cache of rules is emptied at this size


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
            entry = rule.last if draw < 0.5 * share else rule.weak_checked
        else:
            signals.draw = (draw - share) / (1.0 - share) if share else draw
            entry = rule.enter(signals)
            signals.draw = draw
        propensity = (1.0 - share) * rule.entry_probability(entry, signals)
        if entry == rule.last or entry == rule.weak_checked:
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


def _checked_threshold(value: float, highest: float = 1.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PolicyError(f"a threshold is a number in [0, 1]; it got {value!r}")
    if not 0.0 <= value <= highest:
        raise PolicyError(f"a threshold lies in [0, {highest:g}]; it got {value}")
    return float(value)

"""The model names a client may send: strategies, RouteLLM's names, tiers and backend ids."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.operating_point import OperatingPoint
from proxy.wire_error import ApiError, model_not_found
from routing.errors import PolicyError
from routing.policy import Policy
from routing.rules import Rule
from routing.tier import Ladder

_log = logging.getLogger("upshift.models")
_STRATEGY = re.compile(r"upshift(?:-(mf|difficulty|evaluator|cascade|random))?(?:-([0-9.eE+-]+))?")
_ROUTELLM = re.compile(r"router-([a-z_]+)-([0-9.eE+-]+)")
_ROUTELLM_NAMES = {"mf": "mf", "bert": "difficulty", "random": "random"}
STREAM_MODES = ("hold", "early", "race")


@dataclass(frozen=True, slots=True)
class Pinned:
    """One tier, no routing. `model` is the backend model id."""

    tier: int
    model: str


@dataclass(frozen=True, slots=True)
class Routed:
    """A rule of the policy. `stream_mode` None: the configured one; `plain`: the policy in force."""

    rule: Rule
    stream_mode: str | None = None
    plain: bool = False


class ModelNames:
    """Resolves a model name, a header and the body field `upshift` to a tier or a rule."""

    def __init__(
        self,
        ladder: Ladder,
        strategy: str | None,
        threshold: float | None,
        point: OperatingPoint | None = None,
    ) -> None:
        """`strategy`, `threshold`: of requests that say nothing; a `point` that was moved goes before."""
        self._ladder = ladder
        self._point = point
        self._strategy = strategy
        self._threshold = threshold
        self._told_routellm = False

    def ids(self, policy: Policy) -> list[str]:
        """Every id that `/v1/models` lists: strategies first, then tiers, then backend ids."""
        names = ["upshift", *(f"upshift-{name}" for name in policy.strategies)]
        for tier in self._ladder.tiers:
            names += [tier.name, tier.model]
        return list(dict.fromkeys(names))

    def resolve(
        self, model: str, header: str | None, options: Mapping[str, Any], policy: Policy
    ) -> Pinned | Routed:
        """Raises `ApiError`: 404 for an unknown name, 400 for a bad strategy or threshold."""
        index = self._ladder.find(model)
        if index is not None:
            return Pinned(index, self._ladder[index].model)
        strategy, threshold = self._named(model, policy)
        plain = strategy is None and threshold is None
        if header or options:
            strategy, threshold = _overridden(strategy, threshold, header, options)
            plain = plain and strategy is None and threshold is None
        mode = options.get("stream_mode")
        if mode is not None and mode not in STREAM_MODES:
            known = ", ".join(STREAM_MODES)
            raise ApiError(
                400,
                f"'upshift.stream_mode' must be one of {known}, got {mode!r}.",
                param="upshift.stream_mode",
            )
        if strategy is None:
            strategy = self._strategy
            threshold = self.in_force(policy) if threshold is None else threshold
        try:
            return Routed(policy.rule(strategy, threshold), mode, plain)
        except PolicyError as error:
            if strategy not in policy.strategies and f"upshift-{strategy}" in model:
                raise model_not_found(model, self.ids(policy)) from error
            raise ApiError(400, f"{error}.", param="upshift" if options else "model") from error

    def in_force(self, policy: Policy) -> float | None:
        """The threshold of a request that says nothing; None: the calibrated one."""
        if self._point is not None:
            moved = self._point.read(policy.version, self._strategy or policy.default_strategy)
            if moved is not None:
                return moved.threshold
        return self._threshold

    def _named(self, model: str, policy: Policy) -> tuple[str | None, float | None]:
        """Strategy and threshold that a model name asks for."""
        if match := _STRATEGY.fullmatch(model):
            return match[1], _number(match[2], model) if match[2] else None
        if (match := _ROUTELLM.fullmatch(model)) and match[1] in _ROUTELLM_NAMES:
            self._tell_routellm()
            return _ROUTELLM_NAMES[match[1]], _number(match[2], model)
        raise model_not_found(model, self.ids(policy))

    def _tell_routellm(self) -> None:
        if not self._told_routellm:
            self._told_routellm = True
            _log.warning(
                "RouteLLM model names are in use; its thresholds do not transfer: calibrate your own"
            )


def _number(text: str, model: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ApiError(
            404, f"The model '{model[:200]}' does not exist.", code="model_not_found", param="model"
        ) from error
    if not 0.0 <= value <= 1.0:
        raise ApiError(
            400, f"The threshold in '{model[:200]}' must lie in [0, 1], got {text}.", param="model"
        )
    return value


def _overridden(
    strategy: str | None, threshold: float | None, header: str | None, options: Mapping[str, Any]
) -> tuple[str | None, float | None]:
    """A header, then the body field, over what the model name said. A header may be `mf` or `mf-0.35`."""
    if header:
        name, dash, value = header.strip().partition("-")
        strategy = name
        if dash:
            try:
                threshold = float(value)
            except ValueError as error:
                raise ApiError(
                    400,
                    f"'x-upshift-strategy: {header[:100]}' must be NAME or NAME-THRESHOLD.",
                    param="x-upshift-strategy",
                ) from error
    if unknown := sorted(set(options) - {"strategy", "threshold", "stream_mode"}):
        raise ApiError(400, f"'upshift' has unknown fields {unknown}.", param=f"upshift.{unknown[0]}")
    if (named := options.get("strategy")) is not None:
        if not isinstance(named, str):
            raise ApiError(400, "'upshift.strategy' must be a string.", param="upshift.strategy")
        strategy = named
    if (number := options.get("threshold")) is not None:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ApiError(400, "'upshift.threshold' must be a number.", param="upshift.threshold")
        threshold = float(number)
    return strategy, threshold

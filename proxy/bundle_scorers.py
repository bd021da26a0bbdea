"""A bundle on duty: calibrated scores under its policy, and what was scored before.

`scorers` computes, `routing` calibrates and decides; neither imports the other, so they meet here. Scores
come from this process (`proxy.local_scores`) or from the one that several workers share
(`proxy.scorer_link`); prompt scores are kept by text hash either way.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from proxy.loop.reference import Reference, reference_of
from proxy.metrics import Metrics
from proxy.plan import Plan, calibration_rows, plan_of
from proxy.score_cache import PromptPair, ScoreCache
from proxy.scorer_link import ScorerLink
from proxy.scorer_metrics import ScorerMetrics
from proxy.settings import RoutingSettings
from routing.bundle import Bundle, open_bundle
from routing.calibration import CalibrationMap
from routing.certificate import Certificate
from routing.curve import CalibrationRows
from routing.errors import BundleError, PolicyError, ScorerError
from routing.policy import Policy
from routing.protocols import Answer
from routing.signals import Signals
from scorers.embedders import is_remote
from scorers.errors import ScoringError
from scorers.familiar import FAMILIAR, Familiar
from scorers.text import TEXT_TEMPLATE

_log = logging.getLogger("upshift")


class ScoreSource(Protocol):
    """Where calibrated scores come from: this process, or the one that all workers share."""

    async def prompt(self, text: str, difficulty: bool = True) -> PromptPair:
        """Without `difficulty` that score is None. Raises `ScoringError`, as do the others."""
        ...

    async def answer(self, prompt: str, answer: Answer) -> float:
        """P(adequate)."""
        ...

    async def warm(self) -> None:
        """Be ready for the first request."""
        ...

    def attach(self, metrics: ScorerMetrics) -> None:
        """Where batches are counted."""
        ...

    async def close(self) -> None: ...


class BundleOnDuty:
    """`proxy.scoring.Scorers` of one bundle."""

    def __init__(
        self,
        source: ScoreSource,
        policy: Policy,
        plan: Plan | None = None,
        valid_until: float = 0.0,
        familiar: Familiar | None = None,
        reference: Reference | None = None,
        rows: CalibrationRows | None = None,
        certificate: Certificate | None = None,
        fitted_for: Sequence[str] = (),
        notice: str = "",
    ) -> None:
        """`valid_until`: seconds since the epoch, 0 without a certificate. `fitted_for` are the models of its
        tiers, `notice` what it says of itself to whoever starts a server with it."""
        self.familiar = familiar
        self.reference = reference or {}
        self.rows = rows
        self.certificate = certificate
        self.fitted_for = tuple(fitted_for)
        self.notice = notice
        self.policy = policy
        self.plan = plan
        self.valid_until = valid_until
        self._source = source
        self._metrics: ScorerMetrics | None = None
        self._cache_name = ""
        self._kept = ScoreCache()

    def attach(self, metrics: Metrics) -> None:
        self.count(metrics.scoring, "prompt_scores")

    def count(self, metrics: ScorerMetrics, cache: str) -> None:
        """Count batches, and look-ups under the name `cache`."""
        self._metrics, self._cache_name = metrics, cache
        self._source.attach(metrics)

    async def read_prompt(self, prompt: str, signals: Signals, difficulty: bool = True) -> None:
        key = ScoreCache.key_of(prompt, difficulty)
        pair = self._kept.find(key)
        if self._metrics is not None:
            self._metrics.looked_up(self._cache_name, pair is not None)
        if pair is None:
            try:
                pair = await self._source.prompt(prompt, difficulty)
            except ScoringError as error:
                raise ScorerError(str(error)) from error
            self._kept.keep(key, pair)
        signals.route_score, signals.difficulty, signals.unfamiliar, signals.unjudged = pair

    async def score_answers(self, prompt: str, answers: Sequence[Answer]) -> list[float]:
        try:
            return [await self._source.answer(prompt, answer) for answer in answers]
        except ScoringError as error:
            raise ScorerError(str(error)) from error

    async def warm(self) -> None:
        try:
            await self._source.warm()
        except ScoringError as error:
            raise ScorerError(str(error)) from error

    async def close(self) -> None:
        await self._source.close()


def load_bundle(
    path: Path, routing: RoutingSettings, threads: int | None = None, scorer_socket: Path | None = None
) -> BundleOnDuty:
    """Verify and load a bundle; with `scorer_socket` its weights are loaded by the process there.

    Raises `BundleError` naming the file and the field.
    """
    bundle = open_bundle(path, TEXT_TEMPLATE)
    policy_data = dict(bundle.read_json("policy.json"))
    calibration = bundle.read_json("calibration.json")
    if routing.out_of_distribution == "score":  # told to trust the evaluator everywhere
        policy_data["unjudged"] = None
    if routing.explore_share is not None:
        policy_data["explore_share"] = routing.explore_share
    policy_data["version"] = bundle.version
    policy_data["scorers"] = bundle.scorers_fingerprint
    try:
        policy = Policy.from_dict(policy_data)
        certificate = _certificate(bundle)
        policy.certified = _certified_points(certificate, policy)
        maps = {name: CalibrationMap.from_dict(data) for name, data in calibration["maps"].items()}
        rule = policy.rule(routing.strategy, routing.threshold)
        rows = calibration_rows(bundle, maps)
        plan = plan_of(rows, rule, policy.explore_share)
        reference = reference_of(rows, rule, policy.explore_share, plan)
        source: ScoreSource
        if scorer_socket is not None:
            source = ScorerLink(scorer_socket, path, bundle.version)
        else:
            from proxy.local_scores import LocalScores  # a worker without weights needs no ONNX Runtime
            from scorers.runtime.scorers import load_scorers

            source = LocalScores(load_scorers(path, bundle.scorers, threads), maps)
    except PolicyError as error:
        raise BundleError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{path / 'calibration.json'}: field {error} is missing or of the wrong type"
        ) from error
    except ScoringError as error:
        raise BundleError(f"{path}: {error}") from error
    if rows is not None and not policy_data.get("costs_known", True):
        rows = dataclasses.replace(rows, cost_weak=None, cost_strong=None)  # a stand-in, not money
    _tell_servers(bundle)
    return BundleOnDuty(
        source,
        policy,
        plan,
        _valid_until(certificate),
        _familiar(bundle),
        reference,
        rows,
        certificate,
        bundle.tiers,
        str(bundle.manifest.get("notice", "")),
    )


def _tell_servers(bundle: Bundle) -> None:
    """Say in the log where a bundle sends what clients write."""
    for scorer in ("mf", "evaluator"):  # what the difficulty classifier reads is fine-tuned, so it runs here
        encoder = (bundle.scorers.get(scorer) or {}).get("encoder") or {}
        if is_remote(name := str(encoder.get("name", ""))):
            what = "prompts and answers" if scorer == "evaluator" else "prompts"
            _log.warning("bundle %s sends %s to %s", bundle.path, what, name)


def _familiar(bundle: Bundle) -> Familiar | None:
    """What kind of prompts it was fitted on; None in a bundle that does not say. Raises `BundleError`."""
    if not bundle.has(FAMILIAR):
        return None
    try:
        return Familiar.from_dict(bundle.read_json(FAMILIAR))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{bundle.path / FAMILIAR}: field {error} is missing or of the wrong type"
        ) from error


def _certificate(bundle: Bundle) -> Certificate | None:
    """What was promised or refused; None where nobody asked. Raises `BundleError`."""
    if not bundle.has("certificate.json"):
        return None
    try:
        certificate = Certificate.from_dict(bundle.read_json("certificate.json"))
        _valid_until(certificate)
    except (PolicyError, ValueError) as error:
        raise BundleError(f"{bundle.path / 'certificate.json'}: {error}") from error
    return certificate


def _valid_until(certificate: Certificate | None) -> float:
    """When the certificate ends, seconds since the epoch; 0 without one."""
    if certificate is None or not certificate.granted:
        return 0.0
    return datetime.fromisoformat(certificate.valid_until).timestamp()


def _certified_points(certificate: Certificate | None, policy: Policy) -> tuple[float, ...]:
    """The thresholds the bundle's certificate holds for; none where it is refused, over, or another's."""
    if certificate is None or _valid_until(certificate) <= time.time():
        return ()
    return certificate.passed if certificate.strategy == policy.default_strategy else ()

"""A bundle on duty: raw scores, calibrated and batched off the event loop, under its policy.

`scorers` computes, `routing` calibrates and decides; neither imports the other, so they meet here. Each kind
of score has one worker thread and one queue: what arrives while a batch runs goes into the next one. Prompt
scores are kept by text hash, since clients repeat prompts (retries, templates, health checks) and a look-up
costs a microsecond against milliseconds.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from proxy.loop.reference import Reference, reference_of
from proxy.metrics import Metrics
from proxy.plan import Plan, plan_of
from proxy.settings import RoutingSettings
from routing.bundle import Bundle, open_bundle
from routing.calibration import CalibrationMap
from routing.certificate import Certificate
from routing.errors import BundleError, PolicyError, ScorerError
from routing.policy import Policy, Signals
from routing.protocols import Answer
from scorers.errors import ScoringError
from scorers.familiar import Familiar
from scorers.runtime.batcher import Batcher
from scorers.runtime.scorers import FAMILIAR, BundleScorers, load_scorers
from scorers.text import TEXT_TEMPLATE

_CACHED_PROMPTS = 10_000
_BATCH_ROWS = 32
_WARM_TEXT = "warm up"

PromptPair = tuple[float, float | None, bool]  # calibrated route score and difficulty; unlike the fitted


class BundleOnDuty:
    """`proxy.scoring.Scorers` of one bundle."""

    def __init__(
        self,
        raw: BundleScorers,
        policy: Policy,
        maps: dict[str, CalibrationMap],
        plan: Plan | None = None,
        valid_until: float = 0.0,
        familiar: Familiar | None = None,
        reference: Reference | None = None,
    ) -> None:
        """`valid_until`: seconds since the epoch, 0 without a certificate."""
        self.familiar = familiar
        self.reference = reference or {}
        self.policy = policy
        self.plan = plan
        self.valid_until = valid_until
        self._raw = raw
        self._maps = maps
        self._metrics: Metrics | None = None
        self._kept: OrderedDict[bytes, PromptPair] = OrderedDict()
        self._prompts: Batcher[str, PromptPair] = Batcher(
            self._timed("prompt", self._run_prompts), len, _BATCH_ROWS, max_wait_ms=0.0
        )
        self._answers: Batcher[tuple[str, Answer], float] = Batcher(
            self._timed("evaluator", self._run_answers), _pair_length, _BATCH_ROWS, max_wait_ms=0.0
        )

    def attach(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def read_prompt(self, prompt: str, signals: Signals) -> None:
        key = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        pair = self._kept.get(key)
        if self._metrics is not None:
            self._metrics.cache.labels("prompt_scores", "miss" if pair is None else "hit").inc()
        if pair is None:
            try:
                pair = await self._prompts.submit(prompt)
            except ScoringError as error:
                raise ScorerError(str(error)) from error
            self._kept[key] = pair
            if len(self._kept) > _CACHED_PROMPTS:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        signals.route_score, signals.difficulty, signals.unfamiliar = pair

    async def score_answers(self, prompt: str, answers: Sequence[Answer]) -> list[float]:
        try:
            return [await self._answers.submit((prompt, answer)) for answer in answers]
        except ScoringError as error:
            raise ScorerError(str(error)) from error

    async def warm(self) -> None:
        await self.read_prompt(_WARM_TEXT, Signals())
        if self._raw.evaluator is not None:
            await self.score_answers(_WARM_TEXT, [Answer(_WARM_TEXT)])

    async def close(self) -> None:
        await self._prompts.close()
        await self._answers.close()

    def _run_prompts(self, prompts: Sequence[str]) -> list[PromptPair]:
        scores = self._raw.score_prompts(prompts)
        gains = self._maps["mf"].apply(scores.gain).tolist()
        far = [False] * len(gains) if scores.far is None else scores.far.tolist()
        if scores.difficulty is None or "difficulty" not in self._maps:
            return [(gain, None, unlike) for gain, unlike in zip(gains, far, strict=True)]
        difficulties = self._maps["difficulty"].apply(scores.difficulty).tolist()
        return list(zip(gains, difficulties, far, strict=True))

    def _run_answers(self, pairs: Sequence[tuple[str, Answer]]) -> list[float]:
        scores: list[float] = self._maps["adequate"].apply(self._raw.score_answers(pairs)).tolist()
        return scores

    def _timed(self, name: str, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def timed(items: Sequence[Any]) -> Any:
            started = time.perf_counter()
            result = run(items)
            if self._metrics is not None:
                self._metrics.scorer_seconds.labels(name).observe(time.perf_counter() - started)
                self._metrics.scorer_batch.labels(name).observe(len(items))
            return result

        return timed


def load_bundle(path: Path, routing: RoutingSettings, threads: int | None = None) -> BundleOnDuty:
    """Verify and load a bundle. Raises `BundleError` naming the file and the field."""
    bundle = open_bundle(path, TEXT_TEMPLATE)
    policy_data = dict(bundle.read_json("policy.json"))
    calibration = bundle.read_json("calibration.json")
    if routing.explore_share is not None:
        policy_data["explore_share"] = routing.explore_share
    policy_data["version"] = bundle.version
    policy_data["scorers"] = bundle.scorers_fingerprint
    try:
        policy = Policy.from_dict(policy_data)
        policy.certified = _certified_points(bundle, policy)
        maps = {name: CalibrationMap.from_dict(data) for name, data in calibration["maps"].items()}
        rule = policy.rule(routing.strategy, routing.threshold)
        plan = plan_of(bundle, rule, policy.explore_share, maps)
        reference = reference_of(bundle, rule, policy.explore_share, maps, plan)
        raw = load_scorers(path, bundle.scorers, threads)
    except PolicyError as error:
        raise BundleError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{path / 'calibration.json'}: field {error} is missing or of the wrong type"
        ) from error
    except ScoringError as error:
        raise BundleError(f"{path}: {error}") from error
    return BundleOnDuty(raw, policy, maps, plan, _valid_until(bundle), _familiar(bundle), reference)


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


def _valid_until(bundle: Bundle) -> float:
    """When the certificate ends, seconds since the epoch; 0 without one. Raises `BundleError`."""
    if not bundle.has("certificate.json"):
        return 0.0
    try:
        certificate = Certificate.from_dict(bundle.read_json("certificate.json"))
        return datetime.fromisoformat(certificate.valid_until).timestamp() if certificate.granted else 0.0
    except (PolicyError, ValueError) as error:
        raise BundleError(f"{bundle.path / 'certificate.json'}: {error}") from error


def _certified_points(bundle: Bundle, policy: Policy) -> tuple[float, ...]:
    """The thresholds the bundle's certificate holds for; none where it is refused, over, or another's."""
    if _valid_until(bundle) <= time.time():
        return ()
    certificate = Certificate.from_dict(bundle.read_json("certificate.json"))
    return certificate.passed if certificate.strategy == policy.default_strategy else ()


def _pair_length(pair: tuple[str, Answer]) -> int:
    return len(pair[0]) + len(pair[1].text)

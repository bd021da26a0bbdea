"""Calibrated scores computed in this process: batched, and off the event loop.

Each kind of score has one queue and two worker threads: tokenizing and the heads are one thread's work, and
leave the other cores to the encoder of the other batch. What arrives while both work is the next batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy.score_cache import PromptPair
from proxy.scorer_metrics import ScorerMetrics
from routing.calibration import CalibrationMap
from routing.protocols import Answer
from scorers.runtime.batcher import Batcher
from scorers.runtime.scorers import BundleScorers

_BATCH_ROWS, _WORKERS = 32, 2
_WARM_TEXT = "warm up"


class LocalScores:
    """`proxy.bundle_scorers.ScoreSource` over a bundle's scorers and its calibration maps."""

    def __init__(self, raw: BundleScorers, maps: Mapping[str, CalibrationMap]) -> None:
        self._raw = raw
        self._maps = maps
        self._metrics: ScorerMetrics | None = None
        self._prompts: Batcher[tuple[str, bool], PromptPair] = Batcher(
            self._timed("prompt", self._run_prompts), _prompt_length, _BATCH_ROWS, 0.0, workers=_WORKERS
        )
        self._answers: Batcher[tuple[str, Answer], float] = Batcher(
            self._timed("evaluator", self._run_answers), _pair_length, _BATCH_ROWS, 0.0, workers=_WORKERS
        )

    def attach(self, metrics: ScorerMetrics) -> None:
        self._metrics = metrics

    async def prompt(self, text: str, difficulty: bool = True) -> PromptPair:
        return await self._prompts.submit((text, difficulty))

    async def answer(self, prompt: str, answer: Answer) -> float:
        return await self._answers.submit((prompt, answer))

    async def warm(self) -> None:
        await self.prompt(_WARM_TEXT)
        if self._raw.evaluator is not None:
            await self.answer(_WARM_TEXT, Answer(_WARM_TEXT))

    async def close(self) -> None:
        await self._prompts.close()
        await self._answers.close()

    def _run_prompts(self, asked: Sequence[tuple[str, bool]]) -> list[PromptPair]:
        scores = self._raw.score_prompts([text for text, _ in asked], any(wanted for _, wanted in asked))
        gains = self._maps["mf"].apply(scores.gain).tolist()
        nowhere = [False] * len(gains)
        far = nowhere if scores.far is None else scores.far.tolist()
        unjudged = nowhere if scores.unjudged is None else scores.unjudged.tolist()
        difficulties: list[float | None] = [None] * len(gains)
        if scores.difficulty is not None and "difficulty" in self._maps:
            difficulties = self._maps["difficulty"].apply(scores.difficulty).tolist()
        return list(zip(gains, difficulties, far, unjudged, strict=True))

    def _run_answers(self, pairs: Sequence[tuple[str, Answer]]) -> list[float]:
        scores: list[float] = self._maps["adequate"].apply(self._raw.score_answers(pairs)).tolist()
        return scores

    def _timed(self, name: str, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def timed(items: Sequence[Any]) -> Any:
            started = time.perf_counter()
            result = run(items)
            if self._metrics is not None:
                self._metrics.observe(name, time.perf_counter() - started, len(items))
            return result

        return timed


def _prompt_length(asked: tuple[str, bool]) -> int:
    return len(asked[0])


def _pair_length(pair: tuple[str, Answer]) -> int:
    return len(pair[0]) + len(pair[1].text)

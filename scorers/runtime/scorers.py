"""A bundle's scorers, ready to score batches: synchronous, no torch, thread-safe.

    load_scorers(folder, manifest["scorers"], threads) -> BundleScorers
        .score_prompts([prompt, ...])            -> PromptScores
        .score_answers([(prompt, answer), ...])  -> P(adequate), (N,)

Raw means uncalibrated: the maps and thresholds are the policy's. Encoders that are the same (same files,
no adapters, no own weights) run in one session, whatever length they are cut at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from scorers.answer import AnswerLike
from scorers.classifier import HttpClassifier
from scorers.embedders import HttpEmbedder, is_remote
from scorers.errors import ScoringFailed
from scorers.prompt_features import PROMPT_FEATURES
from scorers.runtime.difficulty import DifficultyHead
from scorers.runtime.heads import read_scorer_file
from scorers.runtime.local_evaluator import LocalEvaluator
from scorers.runtime.manifest_entry import check_names, field
from scorers.runtime.mf import MatrixFactorisation
from scorers.runtime.neighbours import Neighbours
from scorers.runtime.query import QueryVectors, SessionEmbedder, check_parts, layers_of
from scorers.runtime.sessions import Sessions, read_entry_file
from scorers.runtime.words import WordReading

NEIGHBOURS = "familiar.safetensors"
JUDGED = "judged_"  # before the names of those among the vectors whose prompts came with answers


@dataclass(frozen=True, slots=True)
class PromptScores:
    """What the prompt alone says, raw. Each of shape (N,).

    `far`: whether the query vector lies near none of the fitted ones, None where the bundle does not know.
    `unjudged`: whether it lies near none that the evaluator was fitted on, None where those are all.
    `gain` in [-1, 1]: P(strong adequate) - P(weak adequate) by MF. `weak_adequate`, `strong_adequate` in
    [0, 1]. `difficulty` in [-1, 1]: the classifier's gain, None where the bundle has none or nobody asked.
    """

    gain: np.ndarray
    weak_adequate: np.ndarray
    strong_adequate: np.ndarray
    difficulty: np.ndarray | None
    far: np.ndarray | None = None
    unjudged: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class BundleScorers:
    """All scorers of one bundle. `evaluator` is None in one that was fitted without answers; an
    `HttpClassifier` runs elsewhere."""

    query: QueryVectors
    mf: MatrixFactorisation
    difficulty: tuple[QueryVectors, DifficultyHead] | None
    evaluator: LocalEvaluator | HttpClassifier | None
    neighbours: Neighbours | None = None
    judged: Neighbours | None = None

    def score_prompts(self, prompts: Sequence[str], difficulty: bool = True) -> PromptScores:
        """Without `difficulty` the classifier, another pass of an encoder, is left alone.

        Raises `ScoringFailed` when a number is not finite, `EncoderError` when a remote encoder fails.
        """
        vectors = self.query.embed(prompts)  # (N, D)
        chances = self.mf.adequacy(vectors, prompts)  # (N, tiers)
        gain = chances[:, -1] - chances[:, 0]
        harder = None
        if difficulty and self.difficulty is not None:
            adapted, head = self.difficulty
            harder = head.gain(adapted.embed(prompts), vectors, prompts)
        if not np.isfinite(gain if harder is None else gain + harder).all():
            raise ScoringFailed("a prompt score is not a finite number")
        far, unjudged = (
            None if near is None else near.far(self.query.layer(vectors, near.layer))
            for near in (self.neighbours, self.judged)
        )
        return PromptScores(gain, chances[:, 0], chances[:, -1], harder, far, unjudged)

    def score_answers(self, pairs: Sequence[tuple[str, AnswerLike]]) -> np.ndarray:
        """Raw P(adequate) of each answer, shape (N,); without a finish reason, of the whole that is to come.

        Raises `ScoringFailed` in a bundle without evaluator.
        """
        if self.evaluator is None:
            raise ScoringFailed("this bundle has no evaluator: it was fitted on a table without answers")
        return self.evaluator.adequacy(pairs)


def load_scorers(
    folder: Path, manifest_scorers: Mapping[str, Any], threads: int | None = None
) -> BundleScorers:
    """Load the scorers that a manifest's `scorers` section describes from the bundle's folder.

    `threads` is ONNX Runtime's pool for one run (None: its choice). From here on numpy's products run in one
    thread in this process: those of the heads are small, and OpenBLAS's other threads spin for milliseconds
    after each one, on the cores that the encoder needs. Raises `ScorerFileError` naming file and field, or
    `EncoderError`.
    """
    threadpool_limits(1, user_api="blas")
    sessions = Sessions(threads)
    mf_entry = field(manifest_scorers, "scorers", "mf")
    query = _open_query(mf_entry, sessions)
    mf = _load_mf(folder, mf_entry, query.dimension)
    difficulty, evaluator = (manifest_scorers.get(name) for name in ("difficulty", "evaluator"))
    near = read_scorer_file(folder / NEIGHBOURS) if (folder / NEIGHBOURS).exists() else None
    return BundleScorers(
        query=query,
        mf=mf,
        difficulty=_load_difficulty(folder, difficulty, sessions, query.dimension, mf.words)
        if difficulty
        else None,
        evaluator=_load_evaluator(folder, evaluator, sessions) if evaluator else None,
        neighbours=None if near is None else Neighbours.read(near),
        judged=None if near is None else Neighbours.read(near, JUDGED),
    )


def _open_query(entry: Mapping[str, Any], sessions: Sessions) -> QueryVectors:
    encoder = field(entry, "mf", "encoder")
    name = field(encoder, "mf.encoder", "name")
    parts = _parts_of(entry, "mf", is_remote(name))
    if is_remote(name):
        dimension = int(field(encoder, "mf.encoder", "dimension"))
        return QueryVectors(HttpEmbedder.from_name(name, dimension=dimension), parts)
    layers = layers_of(parts)
    session = sessions.open(encoder, {}, None, lower_half=layers == ("middle",))
    return QueryVectors(SessionEmbedder(session, layers), parts)


def _parts_of(entry: Mapping[str, Any], scorer: str, remote: bool) -> tuple[str, ...]:
    """What the scorer's query vectors were put together from; a bundle without the field: the last layer."""
    parts = check_parts(entry.get("query", ("last",)), remote)
    if "features" in parts:
        check_names(entry, scorer, "features", PROMPT_FEATURES)
    return parts


def _load_mf(folder: Path, entry: Mapping[str, Any], dimension: int) -> MatrixFactorisation:
    models, tiers, form = (field(entry, "mf", key) for key in ("models", "tiers", "form"))
    return MatrixFactorisation.read(read_entry_file(folder, entry, "mf"), models, tiers, form, dimension)


def _load_difficulty(
    folder: Path,
    entry: Mapping[str, Any],
    sessions: Sessions,
    frozen_dimension: int,
    words: WordReading | None,
) -> tuple[QueryVectors, DifficultyHead]:
    file = read_entry_file(folder, entry, "difficulty")
    session = sessions.open_tuned(folder, entry, "difficulty", file)
    parts = _parts_of(entry, "difficulty", remote=False)
    query = QueryVectors(SessionEmbedder(session, layers_of(parts)), parts)
    return query, DifficultyHead.read(file, query.dimension, frozen_dimension, words)


def _load_evaluator(
    folder: Path, entry: Mapping[str, Any], sessions: Sessions
) -> LocalEvaluator | HttpClassifier:
    name = field(field(entry, "evaluator", "encoder"), "evaluator.encoder", "name")
    if is_remote(name):
        return HttpClassifier.from_name(name)
    return LocalEvaluator.open(folder, entry, sessions)

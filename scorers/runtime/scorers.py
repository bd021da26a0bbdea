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

from scorers.answer import AnswerLike
from scorers.classifier import HttpClassifier
from scorers.embedders import HttpEmbedder, is_remote
from scorers.encoders import EncoderFolder, resolve_encoder
from scorers.errors import ScorerFileError, ScoringFailed
from scorers.features import FEATURE_NAMES, features_of
from scorers.prompt_features import PROMPT_FEATURES, features_of_prompts
from scorers.runtime.difficulty import DifficultyHead
from scorers.runtime.evaluator import EvaluatorHead
from scorers.runtime.graph import Adapter
from scorers.runtime.heads import ScorerFile, read_scorer_file
from scorers.runtime.mf import MatrixFactorisation, sigmoid
from scorers.runtime.neighbours import Neighbours
from scorers.runtime.prefix_reader import PrefixHeads, PrefixReader
from scorers.runtime.query import QueryVectors, SessionEmbedder, check_parts, layers_of
from scorers.runtime.session import EncoderSession, word_table
from scorers.runtime.stack import PREFIX as STACK_PREFIX
from scorers.runtime.stack import AnswerStack
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
    """All scorers of one bundle. Answers are judged by `served`, an evaluator that runs elsewhere, or by
    `evaluator` with `stack` (None where the network judges alone), or by none in a bundle that was fitted
    without answers; `prefixes` reads answers that have not ended."""

    query: QueryVectors
    mf: MatrixFactorisation
    difficulty: tuple[QueryVectors, DifficultyHead] | None
    evaluator: tuple[EncoderSession, EvaluatorHead] | None
    stack: tuple[EncoderSession, AnswerStack] | None = None
    neighbours: Neighbours | None = None
    prefixes: PrefixReader | None = None
    judged: Neighbours | None = None
    served: HttpClassifier | None = None

    @property
    def judges(self) -> bool:
        """Whether it can score answers."""
        return self.evaluator is not None or self.served is not None

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
        _check_finite("prompt", gain if harder is None else gain + harder)
        far, unjudged = (
            None if near is None else near.far(self.query.layer(vectors, near.layer))
            for near in (self.neighbours, self.judged)
        )
        return PromptScores(gain, chances[:, 0], chances[:, -1], harder, far, unjudged)

    def score_answers(self, pairs: Sequence[tuple[str, AnswerLike]]) -> np.ndarray:
        """Raw P(adequate) of each answer, shape (N,); without a finish reason, of the whole that is to come.

        Raises `ScoringFailed` in a bundle without evaluator.
        """
        if not self.judges:
            raise ScoringFailed("this bundle has no evaluator: it was fitted on a table without answers")
        if self.served is not None:
            return self.served.adequacy(pairs)
        features = features_of(pairs)
        begun = np.array([answer.finish_reason is None for _, answer in pairs], dtype=bool)
        if self.prefixes is None or not begun.any():
            return self._adequate(pairs, features)
        scores = np.empty(len(pairs))
        part = [pair for pair, open_ in zip(pairs, begun, strict=True) if open_]
        logits = self.prefixes.logits(part, features[begun])
        _check_finite("answer", logits)
        scores[begun] = sigmoid(logits)
        if not begun.all():
            rest = [pair for pair, open_ in zip(pairs, begun, strict=True) if not open_]
            scores[~begun] = self._adequate(rest, features[~begun])
        return scores

    def _adequate(self, pairs: Sequence[tuple[str, AnswerLike]], features: np.ndarray) -> np.ndarray:
        """Raw P(adequate) by stack and network."""
        if self.stack is None:
            logits = self._network(pairs, features)
        else:
            session, stack = self.stack
            network = self._network(pairs, features) if stack.reads_network else np.zeros(len(pairs))
            query = session.embed_middle([prompt for prompt, _ in pairs])
            vectors = session.embed_middle([answer.text for _, answer in pairs])
            asked = features_of_prompts([prompt for prompt, _ in pairs])
            logits = stack.logits(query, vectors, features, asked, network)
        _check_finite("answer", logits)
        return sigmoid(logits)

    def _network(self, pairs: Sequence[tuple[str, AnswerLike]], features: np.ndarray) -> np.ndarray:
        assert self.evaluator is not None
        session, head = self.evaluator
        tokens = session.tokenizer.encode_pairs([(prompt, answer.text) for prompt, answer in pairs])
        return head.logits(session.pool(tokens), features)


def load_scorers(
    folder: Path, manifest_scorers: Mapping[str, Any], threads: int | None = None
) -> BundleScorers:
    """Load the scorers that a manifest's `scorers` section describes from the bundle's folder.

    `threads` is ONNX Runtime's pool for one run (None: its choice). Raises `ScorerFileError` naming file
    and field, or `EncoderError`.
    """
    sessions = _Sessions(threads)
    mf_entry = _entry(manifest_scorers, "mf")
    query = _open_query(mf_entry, sessions)
    difficulty_entry = manifest_scorers.get("difficulty")
    evaluator_entry = manifest_scorers.get("evaluator")
    evaluator, stack, prefixes, served = None, None, None, None
    if evaluator_entry and is_remote(name := _encoder_name(evaluator_entry)):
        served = HttpClassifier.from_name(name)
    elif evaluator_entry:
        evaluator, stack, prefixes = _load_evaluator(folder, evaluator_entry, sessions)
    mf = _load_mf(folder, mf_entry, query.dimension)
    near = read_scorer_file(folder / NEIGHBOURS) if (folder / NEIGHBOURS).exists() else None
    return BundleScorers(
        query=query,
        mf=mf,
        difficulty=_load_difficulty(folder, difficulty_entry, sessions, query.dimension, mf.words)
        if difficulty_entry
        else None,
        evaluator=evaluator,
        stack=stack,
        neighbours=None if near is None else Neighbours.read(near),
        prefixes=prefixes,
        served=served,
        judged=None if near is None else Neighbours.read(near, JUDGED),
    )


class _Sessions:
    """Opens encoder sessions, sharing those that would be equal."""

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._plain: dict[tuple[str, bool, bool], dict[int, EncoderSession]] = {}  # by longest input
        self._tables: dict[str, Any] = {}

    def open(
        self,
        encoder: Mapping[str, Any],
        adapters: Mapping[str, Adapter],
        weights_path: Path | None,
        lower_half: bool = False,
    ) -> EncoderSession:
        folder = _check_encoder(encoder)
        max_tokens, int8 = int(encoder["max_tokens"]), bool(encoder.get("int8", False))
        if adapters or weights_path is not None:
            words = self._words(folder, str(encoder["sha256"])) if weights_path is None and not int8 else None
            if any("embeddings" in name for name in adapters):
                words = None
            return EncoderSession(folder, max_tokens, self._threads, adapters, weights_path, int8, words)
        same = self._plain.setdefault((str(encoder["sha256"]), int8, lower_half), {})
        if max_tokens not in same:
            other = next(iter(same.values()), None)
            same[max_tokens] = (
                EncoderSession(
                    folder,
                    max_tokens,
                    self._threads,
                    int8=int8,
                    words=None if int8 else self._words(folder, str(encoder["sha256"])),
                    lower_half=lower_half,
                )
                if other is None
                else other.with_max_tokens(max_tokens)
            )
        return same[max_tokens]

    def _words(self, folder: EncoderFolder, sha256: str) -> Any:
        """The word table that all sessions of an encoder share; int8 has one of its own."""
        if sha256 not in self._tables:
            self._tables[sha256] = word_table(folder)
        return self._tables[sha256]


def _check_encoder(encoder: Mapping[str, Any]) -> EncoderFolder:
    """The encoder that the manifest names, or a refusal when it is another one by now."""
    name, pinned, dimension = (_field(encoder, "encoder", key) for key in ("name", "sha256", "dimension"))
    folder = resolve_encoder(name)
    if folder.dimension != dimension:
        raise ScorerFileError(
            f"manifest field encoder.dimension is {dimension}, encoder {name!r} has {folder.dimension}"
        )
    found = folder.sha256()
    if found != pinned:
        raise ScorerFileError(
            f"manifest field encoder.sha256 is {pinned[:12]}..., encoder {name!r} here has {found[:12]}...: "
            "the bundle was fitted on other weights"
        )
    return folder


def _open_query(entry: Mapping[str, Any], sessions: _Sessions) -> QueryVectors:
    encoder = _field(entry, "mf", "encoder")
    name = _field(encoder, "mf.encoder", "name")
    parts = _parts_of(entry, "mf", is_remote(name))
    if is_remote(name):
        dimension = int(_field(encoder, "mf.encoder", "dimension"))
        return QueryVectors(HttpEmbedder.from_name(name, dimension=dimension), parts)
    layers = layers_of(parts)
    session = sessions.open(encoder, {}, None, lower_half=layers == ("middle",))
    return QueryVectors(SessionEmbedder(session, layers), parts)


def _parts_of(entry: Mapping[str, Any], scorer: str, remote: bool) -> tuple[str, ...]:
    """What the scorer's query vectors were put together from; a bundle without the field: the last layer."""
    parts = check_parts(entry.get("query", ("last",)), remote)
    if "features" in parts and list(_field(entry, scorer, "features")) != list(PROMPT_FEATURES):
        changed = sorted(set(entry["features"]) ^ set(PROMPT_FEATURES)) or ["their order"]
        raise ScorerFileError(
            f"manifest field scorers.{scorer}.features differs from this version's in {', '.join(changed)}"
        )
    return parts


def _load_mf(folder: Path, entry: Mapping[str, Any], dimension: int) -> MatrixFactorisation:
    file = read_scorer_file(folder / _field(entry, "mf", "file"))
    models, tiers, form = (_field(entry, "mf", key) for key in ("models", "tiers", "form"))
    return MatrixFactorisation.read(file, models, tiers, form, dimension)


def _open_head(
    folder: Path, entry: Mapping[str, Any], scorer: str, sessions: _Sessions
) -> tuple[EncoderSession, ScorerFile]:
    file = read_scorer_file(folder / _field(entry, scorer, "file"), float(entry.get("adapter_scale", 1.0)))
    weights = entry.get("weights")
    encoder = _field(entry, scorer, "encoder")
    return sessions.open(encoder, file.adapters, folder / weights if weights else None), file


def _load_difficulty(
    folder: Path,
    entry: Mapping[str, Any],
    sessions: _Sessions,
    frozen_dimension: int,
    words: WordReading | None,
) -> tuple[QueryVectors, DifficultyHead]:
    session, file = _open_head(folder, entry, "difficulty", sessions)
    parts = _parts_of(entry, "difficulty", remote=False)
    query = QueryVectors(SessionEmbedder(session, layers_of(parts)), parts)
    return query, DifficultyHead.read(file, query.dimension, frozen_dimension, words)


def _load_evaluator(
    folder: Path, entry: Mapping[str, Any], sessions: _Sessions
) -> tuple[
    tuple[EncoderSession, EvaluatorHead], tuple[EncoderSession, AnswerStack] | None, PrefixReader | None
]:
    _check_names(entry, "features", FEATURE_NAMES)
    if entry.get("prompt_features") is not None:  # of a stack
        _check_names(entry, "prompt_features", PROMPT_FEATURES)
    path = folder / _field(entry, "evaluator", "file")
    file = read_scorer_file(path, float(entry.get("adapter_scale", 1.0)))
    encoder = _field(entry, "evaluator", "encoder")
    if not any(name.startswith(STACK_PREFIX) for name in file.head):
        session, file = _open_head(folder, entry, "evaluator", sessions)
        return (session, EvaluatorHead.read(file, session.folder.dimension)), None, None
    plain = sessions.open(encoder, {}, None, lower_half=True)
    stack = AnswerStack.read(file, plain.folder.dimension)
    # A network that the stack does not read is not even opened.
    session = _open_head(folder, entry, "evaluator", sessions)[0] if stack.reads_network else plain
    heads = PrefixHeads.read(file)
    prefixes = None if heads is None else PrefixReader(plain, stack, heads)
    return (session, EvaluatorHead.read(file, plain.folder.dimension)), (plain, stack), prefixes


def _check_names(entry: Mapping[str, Any], key: str, names: Sequence[str]) -> None:
    fitted = _field(entry, "evaluator", key)
    if list(fitted) != list(names):
        changed = sorted(set(fitted) ^ set(names)) or ["their order"]
        raise ScorerFileError(
            f"manifest field scorers.evaluator.{key} differs from this version's in {', '.join(changed)}"
        )


def _encoder_name(entry: Mapping[str, Any]) -> str:
    return str(_field(_field(entry, "evaluator", "encoder"), "evaluator.encoder", "name"))


def _entry(scorers: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return _field(scorers, "scorers", name)


def _field(mapping: Mapping[str, Any], where: str, key: str) -> Any:
    if not isinstance(mapping, Mapping) or mapping.get(key) is None:
        raise ScorerFileError(f"manifest field {where}.{key} is missing")
    return mapping[key]


def _check_finite(what: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ScoringFailed(f"a {what} score is not a finite number")

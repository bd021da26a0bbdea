"""`fit`: example tables in, a bundle out: all scorers, then a first calibration and policy.

    read and check -> split by prompt -> query vectors -> mf -> evaluator -> difficulty
    -> score the calibration split through the serving runtime -> maps, joint rule, thresholds -> bundle

Scorers see the train split, early stopping the validation split; calibration sees raw scores of prompts
that no scorer has seen, and those scores stay in the bundle so that `calibrate` needs no encoder. The
minutes bound what is read, not when it stops (see `trainer/budget.py`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as decode_tensors
from safetensors.numpy import save as encode_tensors

from routing.bundle import SPLITS, write_bundle
from routing.errors import BundleError, ExamplesError
from scorers.embedders import Embedder, HttpEmbedder, is_remote
from scorers.encoders import DEFAULT_ENCODER, EncoderFolder, resolve_encoder
from scorers.errors import ScoringError
from scorers.features import FEATURE_NAMES
from scorers.runtime.mf import MatrixFactorisation as FoldedMf
from scorers.runtime.session import EncoderSession, cache_folder
from scorers.text import TEXT_TEMPLATE
from trainer.calibrate import QUALITY, fit_policy
from trainer.embeddings import CachedEmbedder
from trainer.examples import ExampleTable, PairTable, pair_examples, read_examples, require_both_classes
from trainer.fit_difficulty import DifficultySettings, fit_difficulty
from trainer.fit_evaluator import EvaluatorSettings, fit_evaluator
from trainer.fit_mf import Outcomes, fit_mf
from trainer.loop import Progress, no_progress
from trainer.score import score_pairs
from trainer.split import DEFAULT_FRACTIONS, split_prompts

CALIBRATION_SCORES = "calibration_scores.safetensors"
QUERY_TOKENS = 256
# Shares of the minutes; the rest is reading, embedding and scoring.
DIFFICULTY_SHARE, EVALUATOR_SHARE = 0.38, 0.45
MIN_SPLIT_PROMPTS = 10


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What `upshift fit` takes besides tables and models. `max_minutes` bounds all training together."""

    encoder: str = DEFAULT_ENCODER
    evaluator_encoder: str = DEFAULT_ENCODER
    mf_form: str = "correctness"
    mf_bias: bool = True
    difficulty: bool = True
    evaluator: bool = True
    difficulty_settings: DifficultySettings = field(default_factory=DifficultySettings)
    evaluator_settings: EvaluatorSettings = field(default_factory=EvaluatorSettings)
    max_minutes: float = 30.0
    price_ratio: float | None = None
    quality: float = QUALITY  # of strong's, for the first operating point
    seed: int = 0


@dataclass(slots=True)
class _Work:
    """A fit in progress: what was read, how it was split, and what goes into the bundle."""

    table: ExampleTable
    pairs: PairTable
    splits: dict[str, list[str]]
    options: FitOptions
    progress: Progress
    deadline_s: float
    files: dict[str, bytes] = field(default_factory=dict)
    scorers: dict[str, Any] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)

    def rows(self, split: str) -> np.ndarray:
        """Positions in `pairs` of a split's prompts."""
        wanted = set(self.splits[split])
        return np.array([i for i, p in enumerate(self.pairs.prompt_ids) if p in wanted], dtype=np.int64)


def fit_bundle(
    examples: Sequence[str | Path],
    weak: str,
    strong: str,
    out: str | Path,
    options: FitOptions | None = None,
    calibration_examples: Sequence[str | Path] = (),
    progress: Progress = no_progress,
) -> Path:
    """Fit all scorers and write the bundle to `out`; returns its path.

    With `calibration_examples` those prompts calibrate and all of `examples` train; else the split is by
    prompt hash. Raises `ExamplesError` (tables), `BundleError` (encoders, the output folder).
    """
    options = options or FitOptions()
    work = _prepare(examples, weak, strong, calibration_examples, options, progress)
    torch.manual_seed(options.seed)
    try:
        _fit_mf(work)
        # The evaluator first: it is where the signal is, so on a slow machine the clock never takes its time.
        if options.evaluator and work.pairs.has_answers:
            _fit_evaluator(work)
        if options.difficulty:
            _fit_difficulty(work)
    except ScoringError as exc:
        raise BundleError(f"fit: {exc}") from exc
    return _finish(work, Path(out))


def _prepare(
    examples: Sequence[str | Path],
    weak: str,
    strong: str,
    calibration_examples: Sequence[str | Path],
    options: FitOptions,
    progress: Progress,
) -> _Work:
    progress("read", 0, 1)
    table = read_examples([*examples, *calibration_examples])
    pairs = pair_examples(table, weak, strong)
    require_both_classes(pairs.quality[:, 0], weak)
    apart: set[str] = set()
    if calibration_examples:
        apart = {row.prompt_id for row in read_examples(calibration_examples).rows}
        both = apart & {row.prompt_id for row in read_examples(examples).rows}
        if both:
            raise ExamplesError(
                f"{len(both)} prompts stand in both the examples and the calibration examples, "
                f"{min(both)} for one"
            )
    splits = _split(pairs, apart, options.seed)
    progress("read", 1, 1)
    deadline_s = time.monotonic() + options.max_minutes * 60
    return _Work(table, pairs, splits, options, progress, deadline_s)


def _split(pairs: PairTable, apart: set[str], seed: int) -> dict[str, list[str]]:
    if apart:
        train_share = DEFAULT_FRACTIONS["train"] / (1 - DEFAULT_FRACTIONS["calibration"])
        fractions = {"train": train_share, "validation": 1 - train_share}
        splits = split_prompts((p for p in pairs.prompt_ids if p not in apart), fractions, seed)
        splits["calibration"] = sorted(set(pairs.prompt_ids) & apart)
    else:
        splits = split_prompts(pairs.prompt_ids, DEFAULT_FRACTIONS, seed)
    for name, prompt_ids in splits.items():
        if len(prompt_ids) < MIN_SPLIT_PROMPTS:
            raise ExamplesError(
                f"the {name} split has {len(prompt_ids)} prompts with answers of both models, "
                f"at least {MIN_SPLIT_PROMPTS} are needed ({len(pairs)} in all)"
            )
    return splits


def _fit_mf(work: _Work) -> None:
    options, pairs = work.options, work.pairs
    embedder, encoder = _open_embedder(options.encoder, work.progress)
    # Other models' rows teach too, on the same prompts; other prompts' rows could be the calibration's.
    models = work.table.models
    train_ids, valid_ids = set(work.splits["train"]), set(work.splits["validation"])
    texts = {row.prompt_id: row.prompt for row in work.table.rows if row.prompt_id in train_ids | valid_ids}
    order = {prompt_id: row for row, prompt_id in enumerate(texts)}
    vectors = embedder.embed(list(texts.values()))
    encoder["dimension"] = int(vectors.shape[1])

    def outcomes(ids: set[str]) -> Outcomes:
        rows = [row for row in work.table.rows if row.prompt_id in ids]
        return Outcomes(
            np.array([order[row.prompt_id] for row in rows], dtype=np.int64),
            np.array([models.index(row.model) for row in rows], dtype=np.int64),
            np.array([row.quality for row in rows]),
        )

    fitted = fit_mf(
        vectors,
        outcomes(train_ids),
        outcomes(valid_ids),
        models,
        (models.index(pairs.weak_model), models.index(pairs.strong_model)),
        options.mf_form,
        options.mf_bias,
        seed=options.seed,
        progress=work.progress,
    )
    work.files["mf.safetensors"] = encode_tensors(fitted.model.export())
    work.scorers["mf"] = {
        "file": "mf.safetensors",
        "form": options.mf_form,
        "models": models,
        "tiers": [pairs.weak_model, pairs.strong_model],
        "encoder": encoder,
    }
    work.log["mf"] = {**fitted.log.to_dict(), "penalty": fitted.penalty, "tried": fitted.tried}
    work.log["mf"].pop("losses")


def _fit_difficulty(work: _Work) -> None:
    options = work.options
    same = not is_remote(options.encoder)
    folder = resolve_encoder(options.encoder if same else options.evaluator_encoder)
    start = None
    if same:
        mf = work.scorers["mf"]
        tensors = decode_tensors(work.files["mf.safetensors"])
        start = FoldedMf.fold(tensors, mf["models"], mf["tiers"], mf["form"])
    settings = _with(options.difficulty_settings, options.max_minutes * DIFFICULTY_SHARE, options.seed)

    def part(split: str) -> tuple[list[str], np.ndarray]:
        rows = work.rows(split)
        return [work.pairs.weak[row].prompt for row in rows], work.pairs.quality[rows]

    fitted = fit_difficulty(
        folder,
        part("train"),
        part("validation"),
        start,
        settings,
        work.progress,
        _guard(settings.minutes, work),
    )
    work.scorers["difficulty"] = _store_text_model(
        work, "difficulty", fitted.model, folder, settings.max_tokens
    )
    work.scorers["difficulty"]["outputs"] = settings.outputs
    work.log["difficulty"] = {
        **fitted.log.to_dict(),
        "sample": fitted.plan.to_dict(),
        "started_at_mf": start is not None,
    }


def _fit_evaluator(work: _Work) -> None:
    options = work.options
    folder = resolve_encoder(options.evaluator_encoder)
    settings = _with(options.evaluator_settings, options.max_minutes * EVALUATOR_SHARE, options.seed)

    def part(split: str) -> list[Any]:
        wanted = set(work.splits[split])
        return [row for row in work.table.rows if row.prompt_id in wanted and row.response is not None]

    fitted = fit_evaluator(
        folder,
        part("train"),
        part("validation"),
        work.pairs.weak_model,
        settings,
        work.progress,
        _guard(settings.minutes, work),
    )
    entry = _store_text_model(work, "evaluator", fitted.model, folder, settings.max_tokens)
    work.scorers["evaluator"] = {**entry, "features": list(FEATURE_NAMES), "outputs": settings.outputs}
    work.log["evaluator"] = {
        **fitted.log.to_dict(),
        "sample": fitted.plan.to_dict(),
        "features_alone": fitted.feature_log.to_dict()["best"],
    }


def _with(settings: Any, minutes: float, seed: int) -> Any:
    return replace(settings, minutes=minutes, seed=seed)


def _guard(minutes: float, work: _Work) -> float:
    """The clock's word on one stage: half as long again as planned, and never past the whole."""
    return min(time.monotonic() + minutes * 60 * 1.5, work.deadline_s)


def _store_text_model(
    work: _Work,
    name: str,
    model: Any,
    folder: EncoderFolder,
    max_tokens: int,
) -> dict[str, Any]:
    tensors, weights = model.export()
    work.files[f"{name}.safetensors"] = encode_tensors(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    )
    entry = {"file": f"{name}.safetensors", "encoder": _describe(folder, max_tokens)}
    if weights is not None:
        work.files[f"{name}_encoder.safetensors"] = encode_tensors(weights)
        entry["weights"] = f"{name}_encoder.safetensors"
    return entry


def _describe(folder: EncoderFolder, max_tokens: int) -> dict[str, Any]:
    return {
        "name": folder.name,
        "sha256": folder.sha256(),
        "dimension": folder.dimension,
        "max_tokens": min(max_tokens, folder.max_tokens),
    }


class _LocalEmbedder:
    """An ONNX session as an embedder, a chunk at a time."""

    def __init__(self, folder: EncoderFolder) -> None:
        self._session = EncoderSession(folder, QUERY_TOKENS)
        self.dimension = folder.dimension

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._session.embed_prompts(texts)


def _open_embedder(name: str, progress: Progress) -> tuple[Embedder, dict[str, Any]]:
    cache = cache_folder() / "embeddings"
    if is_remote(name):
        remote = HttpEmbedder.from_name(name)
        return CachedEmbedder(remote, cache, name, progress), {
            "name": name,
            "sha256": "remote",
            "max_tokens": 0,
        }
    folder = resolve_encoder(name)
    described = _describe(folder, QUERY_TOKENS)
    key = f"{described['sha256']} {described['max_tokens']} {TEXT_TEMPLATE}"
    return CachedEmbedder(_LocalEmbedder(folder), cache, key, progress), described


def _finish(work: _Work, out: Path) -> Path:
    """Score the calibration split with what was just fitted, calibrate, and write the bundle in one step."""
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    work.files[SPLITS] = _json(work.splits)
    manifest = _manifest(work)
    staging = Path(tempfile.mkdtemp(prefix=".fit-", dir=out.absolute().parent))
    try:
        draft = write_bundle(staging / "draft", manifest, work.files)
        scored = score_pairs(draft, _subset(work.pairs, work.rows("calibration")), work.progress)
        scored.save(staging / CALIBRATION_SCORES)
        fitted = fit_policy(
            scored,
            quality=work.options.quality,
            price_ratio=work.options.price_ratio,
            seed=work.options.seed,
        )
        work.files[CALIBRATION_SCORES] = (staging / CALIBRATION_SCORES).read_bytes()
        work.files["policy.json"] = _json(fitted.policy_dict())
        work.files["calibration.json"] = _json(fitted.calibration_dict())
        return write_bundle(out, manifest, work.files).path
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _subset(pairs: PairTable, rows: np.ndarray) -> PairTable:
    weak, strong = ([side[row] for row in rows] for side in (pairs.weak, pairs.strong))
    return PairTable(pairs.weak_model, pairs.strong_model, weak, strong, pairs.quality[rows])


def _manifest(work: _Work) -> dict[str, Any]:
    options, pairs = work.options, work.pairs
    evaluator = work.scorers.get("evaluator")
    return {
        "text_template": TEXT_TEMPLATE,
        "encoder": work.scorers["mf"]["encoder"],
        "evaluator_encoder": evaluator["encoder"] if evaluator else None,
        "tiers": [
            {"name": "weak", "model": pairs.weak_model},
            {"name": "strong", "model": pairs.strong_model},
        ],
        "scorers": work.scorers,
        "seed": options.seed,
        "max_minutes": options.max_minutes,
        "git_revision": _git_revision(),
        "data": {
            "fingerprint": work.table.fingerprint(),
            "files": work.table.files,
            "rows": len(work.table),
            "prompts": len(pairs),
            "judge": work.table.judges[0],
            "splits": {name: len(ids) for name, ids in work.splits.items()},
        },
        "training": work.log,
    }


def _git_revision() -> str | None:
    """Revision of the code that fitted, None outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

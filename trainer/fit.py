"""`fit`: example tables in, a bundle out: all scorers, then a first calibration and policy.

    read and check -> split by prompt -> query vectors -> mf -> evaluator -> difficulty
    -> score the calibration split through the serving runtime -> maps, joint rule, thresholds -> bundle

Calibration sees raw scores of prompts that no scorer has seen, and those scores stay in the bundle so that
`calibrate` needs no encoder. Each finished part is stored in `OUT.work/`, training loops write checkpoints
there, and the bundle appears in one step: a fit that is killed and run again goes on, and ends in the bytes
that an uninterrupted one gives (on the same machine with the same number of threads; see `trainer.loop`).
With several processes (`accelerate launch`), all train and the first one writes.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as decode_tensors

from routing.bundle import SPLITS, Bundle, recover_bundle, write_bundle
from routing.errors import BundleError, ExamplesError
from scorers.errors import ScoringError
from scorers.familiar import FAMILIAR
from scorers.runtime.scorers import NEIGHBOURS
from scorers.text import TEXT_TEMPLATE
from trainer.artifact import hold
from trainer.calibrate import fit_policy
from trainer.calibrate_early import PrefixScores, prefixes_of, set_early_bounds
from trainer.calibrate_ladder import fit_ladder_policy
from trainer.conditions import PLAIN, Conditions
from trainer.devices import agree, is_first
from trainer.examples import PairTable, pair_examples
from trainer.familiarity import familiarity_files
from trainer.fit_options import MIN_SPLIT_PROMPTS, FitInput, FitOptions, read_input
from trainer.fit_scorers import UNSEEN, parts_of
from trainer.manifest import git_revision
from trainer.score import score_pairs
from trainer.scored import ScoredPairs
from trainer.work_folder import Part, WorkFolder

__all__ = ["CALIBRATION_SCORES", "FitOptions", "fit_bundle", "fit_ladder"]

CALIBRATION_SCORES = "calibration_scores.safetensors"
_PROMPT_SCORES = "prompt_scores.safetensors"  # of a table of which only a part has answers, not kept
_PREFIX_SCORES = "prefix_scores.safetensors"  # read again for the bounds of early verdicts, not kept
_LOG = logging.getLogger(__name__)


def fit_bundle(
    examples: Sequence[str | Path],
    weak: str,
    strong: str,
    out: str | Path,
    options: FitOptions | None = None,
    calibration_examples: Sequence[str | Path] = (),
    conditions: Conditions = PLAIN,
) -> Path:
    """`fit_ladder` for a weak and a strong model."""
    return fit_ladder(examples, (weak, strong), out, options, calibration_examples, conditions)


def fit_ladder(
    examples: Sequence[str | Path],
    tiers: Sequence[str],
    out: str | Path,
    options: FitOptions | None = None,
    calibration_examples: Sequence[str | Path] = (),
    conditions: Conditions = PLAIN,
) -> Path:
    """Fit all scorers for models from cheap to dear and write the bundle to `out`; returns its path.

    Raises `ExamplesError` (tables), `BundleError` (encoders, the output folder), `StageError` (another
    process is at it, or the disk is full).
    """
    options, target = options or FitOptions(), Path(out)
    if target.exists() and not target.is_dir():
        raise BundleError(f"{target} is a file; a bundle is a folder")
    conditions.progress("read", 0, 1)
    data = read_input(examples, tiers, calibration_examples, options)
    conditions.progress("read", 1, 1)
    first = is_first(conditions)
    with hold(target) if first else nullcontext():
        try:
            inputs = data.fingerprint()
            work = WorkFolder.open(target, inputs) if first else None
            parts = _fit_parts(data, work, conditions)
            if work is not None:
                _score(data, parts, work, conditions)
                _write(data, parts, work, inputs, target)
                work.remove()
        except ScoringError as exc:
            raise BundleError(f"fit: {exc}") from exc
    return target


def _fit_parts(data: FitInput, work: WorkFolder | None, conditions: Conditions) -> dict[str, Part]:
    """Every scorer: from the work folder where it is finished, else fitted and stored."""
    options, begun = data.options, time.monotonic()
    limit_s = options.max_minutes * 60
    every_s = options.checkpoint_every_s
    under = replace(
        conditions,
        deadline_s=begun + limit_s if options.hard_stop else None,
        checkpoints=None if work is None else work.checkpoints(every_s),
    )
    torch.manual_seed(options.seed)
    parts: dict[str, Part] = {}
    for name, fit_part in parts_of(data).items():
        part = agree(conditions, None if work is None else work.load(name))
        if part is None:
            part = fit_part(data, parts, under)
            if work is not None:
                work.store(name, part)
        parts[name] = part
    late_s = time.monotonic() - begun - limit_s
    if late_s > 0:
        _LOG.warning(
            "training took %.1f min where %.1f were planned; rows were sampled for a machine of 2 free cores "
            "(--hard-stop cuts by the clock instead, and the bundle then depends on it)",
            (late_s + limit_s) / 60,
            options.max_minutes,
        )
    return parts


def _score(data: FitInput, parts: Mapping[str, Part], work: WorkFolder, conditions: Conditions) -> None:
    """Raw scores of the calibration split by the scorers as they will be served: minutes, so it is stored.

    One file a step of the ladder: tier k's answers judged, against the last tier.
    """
    if work.load("calibration") is not None:
        return
    part = Part()
    with tempfile.TemporaryDirectory(dir=work.path) as folder:
        draft = write_bundle(Path(folder) / "draft", _manifest(data, parts, {}), _files(data, parts))
        if "evaluator" in parts and len(data.tiers) == 2 and not data.pairs.has_answers:
            part.files[_PROMPT_SCORES] = _score_prompts(draft, data, conditions, Path(folder))
        for step, pairs in enumerate(_calibration_steps(data, answered="evaluator" in parts)):
            path = Path(folder) / _scores_name(step)
            scored = score_pairs(draft, pairs, conditions.progress)
            scored.save(path)
            part.files[path.name] = path.read_bytes()
            prefixes = (
                prefixes_of(draft, scored, pairs, conditions.progress) if len(data.tiers) == 2 else None
            )
            if prefixes is not None:
                part.files[_PREFIX_SCORES] = prefixes.to_bytes()
        judged = None
        if _PROMPT_SCORES in part.files:
            judged = _prompts(data, "train", True), _prompts(data, "calibration", True)
        part.files |= familiarity_files(
            draft, _prompts(data, "train"), _prompts(data, "calibration"), judged, data.options.far_share
        )
    work.store("calibration", part)


def _scores_name(step: int) -> str:
    return CALIBRATION_SCORES if step == 0 else f"step_{step}_scores.safetensors"


def _score_prompts(draft: Bundle, data: FitInput, conditions: Conditions, folder: Path) -> bytes:
    """What the prompts alone say, of all calibration prompts, with an answer or without."""
    rows = data.pairs.subset(data.rows("calibration"))
    scored = score_pairs(draft, rows, conditions.progress, judge=False)
    scored.save(folder / _PROMPT_SCORES)
    return (folder / _PROMPT_SCORES).read_bytes()


def _calibration_steps(data: FitInput, answered: bool) -> list[PairTable]:
    """The calibration prompts as pairs of every tier but the last with the last, the same prompts in each;
    with `answered` those alone that come with all answers."""
    wanted = set(data.splits["calibration"])
    last = data.tiers[-1]
    steps = [pair_examples(data.table.of_prompts(wanted), tier, last) for tier in data.tiers[:-1]]
    if answered:
        steps = [step.subset(step.answered) for step in steps]
    both = set.intersection(*(set(step.prompt_ids) for step in steps))
    if len(both) < MIN_SPLIT_PROMPTS:
        raise ExamplesError(
            f"the calibration split has {len(both)} prompts with answers of all {len(data.tiers)} tiers, at "
            f"least {MIN_SPLIT_PROMPTS} are needed"
        )
    order = {prompt: row for row, prompt in enumerate(p for p in steps[0].prompt_ids if p in both)}
    found = []
    for step in steps:
        at = {prompt: row for row, prompt in enumerate(step.prompt_ids)}
        found.append(step.subset(np.array([at[prompt] for prompt in order], dtype=np.int64)))
    return found


def _write(
    data: FitInput, parts: Mapping[str, Part], work: WorkFolder, inputs: Mapping[str, Any], out: Path
) -> None:
    """Calibrate and write the bundle in one step."""
    folder, options = work.path / "calibration", data.options
    steps = [ScoredPairs.load(folder / _scores_name(step)) for step in range(len(data.tiers) - 1)]
    told = {"quality": options.quality, "price_ratio": options.price_ratio, "seed": options.seed}
    ladder: dict[str, Any] = {}
    if len(steps) == 1:
        unanswered = folder / _PROMPT_SCORES
        prompts = ScoredPairs.load(unanswered) if unanswered.exists() else None
        fitted = fit_policy(steps[0], **told, unseen=_unseen(parts), prompts=prompts)
        if (folder / _PREFIX_SCORES).exists():
            prefixes = PrefixScores.from_bytes((folder / _PREFIX_SCORES).read_bytes())
            set_early_bounds(fitted, steps[0], prefixes)
    else:
        fitted, ladder["ladder"] = fit_ladder_policy(steps, **told)
    files = _files(data, parts) | {
        CALIBRATION_SCORES: (folder / CALIBRATION_SCORES).read_bytes(),
        "policy.json": _json(fitted.policy_dict()),
        "calibration.json": _json({**fitted.calibration_dict(), **ladder}),
    }
    files |= {name: (folder / name).read_bytes() for name in (FAMILIAR, NEIGHBOURS)}
    recover_bundle(out)
    write_bundle(out, _manifest(data, parts, inputs), files)


def _prompts(data: FitInput, split: str, answered: bool = False) -> list[str]:
    """A split's prompts; those alone that come with an answer."""
    rows = [data.pairs.weak[row] for row in data.rows(split)]
    return [row.prompt for row in rows if row.response is not None or not answered]


def _files(data: FitInput, parts: Mapping[str, Part]) -> dict[str, bytes | Path]:
    files: dict[str, bytes | Path] = {SPLITS: _json(data.splits)}
    for part in parts.values():
        files |= {name: content for name, content in part.files.items() if name != UNSEEN}
    return files


def _unseen(parts: Mapping[str, Part]) -> tuple[np.ndarray, np.ndarray] | None:
    """The evaluator's raw scores of training answers out of fold, and which were adequate."""
    if "evaluator" not in parts or UNSEEN not in parts["evaluator"].files:
        return None
    arrays = decode_tensors(parts["evaluator"].files[UNSEEN])
    return arrays["raw"], arrays["adequate"]


def _manifest(data: FitInput, parts: Mapping[str, Part], inputs: Mapping[str, Any]) -> dict[str, Any]:
    options = data.options
    evaluator = parts.get("evaluator")
    return {
        "text_template": TEXT_TEMPLATE,
        "encoder": parts["mf"].entry["encoder"],
        "evaluator_encoder": evaluator.entry["encoder"] if evaluator else None,
        "tiers": [
            {"name": name, "model": model}
            for name, model in zip(tier_names(data.tiers), data.tiers, strict=True)
        ],
        "scorers": {name: part.entry for name, part in parts.items()},
        "seed": options.seed,
        "max_minutes": options.max_minutes,
        "git_revision": git_revision(),
        "inputs": dict(inputs),
        "data": {
            "fingerprint": data.table.fingerprint(),
            "files": data.table.files,
            "rows": len(data.table),
            "prompts": len(data.pairs),
            "prompts_with_answers": int(data.pairs.answered.sum()),
            "judge": data.table.judges[0],
            "splits": {name: len(ids) for name, ids in data.splits.items()},
        },
        "training": {name: part.log for name, part in parts.items()},
    }


def tier_names(tiers: Sequence[str]) -> list[str]:
    """`weak`, `middle`, `strong`; numbered where several stand in between."""
    between = len(tiers) - 2
    middle = ["middle"] if between == 1 else [f"middle-{k + 1}" for k in range(between)]
    return ["weak", *middle, "strong"]


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

"""What a fit is told and what it reads: options, tables, splits; checked before any training begins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from routing.errors import ExamplesError
from scorers.embedders import is_remote
from scorers.encoders import DEFAULT_ENCODER, resolve_encoder
from scorers.runtime.neighbours import FAR_SHARE
from scorers.text import TEXT_TEMPLATE
from trainer.budget import MINUTES
from trainer.calibrate import QUALITY
from trainer.checkpoint import EVERY_S
from trainer.examples import ExampleTable, PairTable, pair_examples, read_examples, require_both_classes
from trainer.fit_difficulty import DifficultySettings
from trainer.fit_evaluator import EvaluatorSettings
from trainer.manifest import versions
from trainer.split import DEFAULT_FRACTIONS, split_prompts

MIN_SPLIT_PROMPTS = 10
# What changes neither a number nor a byte of the bundle.
_OPERATIONAL = ("checkpoint_every_s",)


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What `upshift fit` takes besides tables and models.

    `max_minutes` bounds all training together: it is turned into tokens to read (`trainer.budget`), so the
    bundle does not depend on how fast the machine happens to be. `hard_stop` adds the clock: training that is
    behind is cut, the log says so, and the bundle is no longer reproducible.
    """

    encoder: str = DEFAULT_ENCODER
    evaluator_encoder: str = DEFAULT_ENCODER
    mf_form: str = "auto"
    mf_bias: bool = True
    difficulty: bool = True
    evaluator: bool = True
    difficulty_settings: DifficultySettings = field(default_factory=DifficultySettings)
    evaluator_settings: EvaluatorSettings = field(default_factory=EvaluatorSettings)
    max_minutes: float = MINUTES
    hard_stop: bool = False
    price_ratio: float | None = None
    quality: float = QUALITY  # of strong's, for the first operating point
    far_share: float = FAR_SHARE  # of prompts of the fitted kind that serving may take for unlike them
    seed: int = 0
    checkpoint_every_s: float = EVERY_S


@dataclass(slots=True)
class FitInput:
    """Tables as read and checked: `pairs` of the first and the last tier, prompt ids by split."""

    table: ExampleTable
    tiers: tuple[str, ...]
    pairs: PairTable
    splits: dict[str, list[str]]
    options: FitOptions

    def rows(self, split: str) -> np.ndarray:
        """Positions in `pairs` of a split's prompts."""
        wanted = set(self.splits[split])
        return np.array([i for i, p in enumerate(self.pairs.prompt_ids) if p in wanted], dtype=np.int64)

    @property
    def judges(self) -> bool:
        """Whether an evaluator can be fitted: answers of the weak model in every split."""
        answered = self.pairs.answered
        counts = [int(answered[self.rows(split)].sum()) for split in self.splits]
        return self.options.evaluator and min(counts) >= MIN_SPLIT_PROMPTS

    def fingerprint(self) -> dict[str, Any]:
        """Everything that can change a byte of the bundle, by name."""
        options = {name: v for name, v in asdict(self.options).items() if name not in _OPERATIONAL}
        names = {self.options.encoder, self.options.evaluator_encoder}
        local = {name: resolve_encoder(name).sha256() for name in sorted(names) if not is_remote(name)}
        return {
            "data": self.table.fingerprint(),
            "splits": hashlib.sha256(repr(sorted(self.splits.items())).encode()).hexdigest(),
            "tiers": list(self.tiers),
            "options": options,
            "encoders": local,
            "text_template": TEXT_TEMPLATE,
            "versions": versions(),
            "code": code_digest(),
        }


def read_input(
    examples: Sequence[str | Path],
    tiers: Sequence[str],
    calibration_examples: Sequence[str | Path],
    options: FitOptions,
) -> FitInput:
    """Read and check the tables and split the prompts.

    With `calibration_examples` those prompts calibrate and all of `examples` train; else the split is by
    prompt hash. Raises `ExamplesError` naming file and row, the model without a row, the class that is
    missing, the prompt that stands on both sides, or the split that is too small.
    """
    if len(tiers) < 2 or len(set(tiers)) != len(tiers):
        raise ExamplesError(f"at least two different tiers are needed; given: {', '.join(tiers) or 'none'}")
    table = read_examples([*examples, *calibration_examples])
    table.require_models(*tiers)
    pairs = pair_examples(table, tiers[0], tiers[-1])
    names = ", ".join(file["name"] for file in table.files)
    require_both_classes(pairs.quality[:, 0], f"{tiers[0]} in {names}")
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
    return FitInput(table, tuple(tiers), pairs, splits, options)


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


def code_digest() -> str:
    """sha256 over the sources that compute a bundle: another line of code, another fit."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for folder in ("trainer", "scorers", "routing"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()

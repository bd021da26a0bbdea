"""Fits the evaluator on (prompt, answer, adequate) rows: the weak model's, and every other model's there are.

Other models' answers are many more lessons in what an adequate answer looks like; what is peculiar to the
weak model's scale is left to its own calibration. Each model's own base rate is given as an offset, so what
is learnt is which of a model's answers are good and not which model is speaking; the weak model's offset
goes into the served bias. The weak model's rows always stay in a sample, the others
fill what the budget leaves. Validation counts the weak model's rows where there are enough of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from scorers.encoders import EncoderFolder
from scorers.features import features_of
from scorers.tokenizer import TextTokenizer
from scorers.torch.encoder import TextEncoder
from scorers.torch.evaluator import Evaluator
from trainer.budget import Plan, plan_run
from trainer.conditions import PLAIN, Conditions
from trainer.dataset import TextBatch, TextDataset, TokenRows, text_loader
from trainer.examples import Example
from trainer.loop import LoopSettings, TrainingLog, mean_over, train
from trainer.prefixes import answer_of

MAX_VALIDATION_ROWS = 800
JUDGE_ROWS = 32
ENOUGH_WEAK_ROWS = 200
FEATURE_EPOCHS = 40
FEATURE_DECAY = 0.1


@dataclass(frozen=True, slots=True)
class EvaluatorSettings:
    """`outputs` 1: scalar head; 2: softmax head. `minutes` bounds the run."""

    tuning: str = "lora"
    rank: int = 8
    lora_layers: int | None = None
    outputs: int = 1
    max_tokens: int = 256
    max_epochs: int = 4
    batch_rows: int = 16
    encoder_lr: float = 5e-4
    head_lr: float = 2e-3
    minutes: float = 12.0
    seed: int = 0


@dataclass(slots=True)
class FittedEvaluator:
    """The trained network, what it did, what it was allowed to read, and its log-odds of the weak model's
    validation rows by position."""

    model: Evaluator
    log: TrainingLog
    plan: Plan
    feature_log: TrainingLog
    valid_logits: dict[int, float]


def model_offsets(rows: Sequence[Example]) -> dict[str, float]:
    """Each model's log-odds of an adequate answer over these rows, smoothed by one of each kind."""
    right: dict[str, list[float]] = {}
    for row in rows:
        right.setdefault(row.model, []).append(float(row.quality >= 0.5))
    return {m: math.log((sum(r) + 1) / (len(r) - sum(r) + 1)) for m, r in right.items()}


def answer_rows(rows: Sequence[Example], tokenizer: TextTokenizer, offsets: Mapping[str, float]) -> TokenRows:
    """Rows tokenised and featured; targets (N, 1) are 1 where quality >= 0.5, the contract's *adequate*.

    A model without an offset gets the mean of the others'.
    """
    pairs = [(row.prompt, answer_of(row)) for row in rows]
    targets = np.array([[float(row.quality >= 0.5)] for row in rows], dtype=np.float32)
    tokens = tokenizer.encode_pairs([(prompt, answer.text) for prompt, answer in pairs])
    unknown = sum(offsets.values()) / max(len(offsets), 1)
    known = np.array([offsets.get(row.model, unknown) for row in rows], dtype=np.float32)
    return TokenRows(tokens, targets.reshape(-1, 1), features_of(pairs), known)


def fit_evaluator(
    folder: EncoderFolder,
    fit: Sequence[Example],
    valid: Sequence[Example],
    weak: str,
    settings: EvaluatorSettings,
    conditions: Conditions = PLAIN,
) -> FittedEvaluator:
    """Fit on rows with a response. `weak` names the model whose answers it will judge."""
    torch.manual_seed(settings.seed)
    tokenizer = TextTokenizer.of(folder, settings.max_tokens)
    encoder = TextEncoder(folder, settings.tuning, settings.rank, lora_layers=settings.lora_layers)
    model = Evaluator(encoder, outputs=settings.outputs)
    conditions.progress("read answers", 0, 1)
    chosen = _candidates(fit, weak, settings)
    offsets = model_offsets(fit)
    rows = answer_rows([fit[i] for i in chosen], tokenizer, offsets)
    conditions.progress("read answers", 1, 1)
    assert rows.features is not None
    model.fit_standardiser(rows.features)
    checked = answer_rows(_validation(valid, weak, settings.seed), tokenizer, offsets)
    feature_log = _fit_features(model, rows, checked, settings, conditions)
    plan = plan_run(
        rows, encoder.parameters_per_token(), settings.minutes, settings.max_epochs, settings.seed
    )
    loader = text_loader(rows.take(plan.rows), tokenizer, settings.batch_rows, settings.seed)
    checks = text_loader(checked, tokenizer, 32, settings.seed)

    def loss_of(net: nn.Module, batch: TextBatch) -> torch.Tensor:
        logits = net(batch.ids, batch.mask, batch.type_ids, batch.features)
        return binary_cross_entropy_with_logits(logits + batch.offsets, batch.targets[:, 0])

    def validate() -> float:
        batches = (batch.to(conditions.device) for batch in checks)
        return mean_over((float(loss_of(model, batch)), len(batch.targets)) for batch in batches)

    log = train(
        model,
        loader,
        loss_of,
        validate,
        LoopSettings(
            max_epochs=plan.epochs,
            head_lr=settings.head_lr,
            encoder_lr=settings.encoder_lr,
            checks_per_epoch=2 if len(rows) > 1500 else 1,
            patience=3,
            seed=settings.seed,
        ),
        stage="fit evaluator",
        conditions=conditions,
    )
    model.add_to_log_odds(offsets[weak])
    own = [at for at, row in enumerate(valid) if row.model == weak]
    judged = judge_rows(
        model, answer_rows([valid[at] for at in own], tokenizer, offsets), tokenizer, conditions
    )
    valid_logits = dict(zip(own, judged, strict=True))
    return FittedEvaluator(model, log, Plan(plan.rows, plan.epochs, len(fit)), feature_log, valid_logits)


def judge_rows(
    model: Evaluator, rows: TokenRows, tokenizer: TextTokenizer, conditions: Conditions
) -> list[float]:
    """Log-odds of every row, in order."""
    logits: list[float] = []
    dataset = TextDataset(rows, tokenizer)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), JUDGE_ROWS):
            batch = dataset.collate(list(range(start, min(start + JUDGE_ROWS, len(rows))))).to(
                conditions.device
            )
            logits += model(batch.ids, batch.mask, batch.type_ids, batch.features).tolist()
    return logits


def _numbers_of(rows: TokenRows) -> TensorDataset:
    """(features, targets, offsets) of rows, without their tokens."""
    assert rows.features is not None
    assert rows.offsets is not None
    columns = (rows.features, rows.targets[:, 0], rows.offsets)
    return TensorDataset(*(torch.from_numpy(column) for column in columns))


def _fit_features(
    model: Evaluator, rows: TokenRows, checked: TokenRows, settings: EvaluatorSettings, conditions: Conditions
) -> TrainingLog:
    """The feature half first, by itself: a small net on numbers, seconds for thousands of rows."""
    data = _numbers_of(rows)
    generator = torch.Generator().manual_seed(settings.seed)
    batch_rows = max(16, min(256, len(rows) // 16))
    loader = DataLoader(data, batch_size=batch_rows, shuffle=True, generator=generator)
    held_out = _numbers_of(checked).tensors

    def loss_of(_: nn.Module, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        return binary_cross_entropy_with_logits(model.from_features(batch[0]) + batch[2], batch[1])

    return train(
        model,
        loader,
        loss_of,
        lambda: float(loss_of(model, held_out)),
        LoopSettings(
            max_epochs=FEATURE_EPOCHS,
            head_lr=settings.head_lr,
            weight_decay=FEATURE_DECAY,
            patience=6,
            seed=settings.seed,
        ),
        stage="fit features",
        conditions=conditions.without_devices(),
    )


def _candidates(fit: Sequence[Example], weak: str, settings: EvaluatorSettings) -> np.ndarray:
    """Rows worth tokenising: all of a small table; of a large one the weak model's and a sample of the rest.

    At 256 tokens a row no budget of minutes reads more than this on a CPU, and featuring costs 0.5 ms a row.
    """
    bound = max(2000, int(1500 * settings.minutes))
    if len(fit) <= bound:
        return np.arange(len(fit))
    is_weak = np.array([row.model == weak for row in fit])
    others = np.random.default_rng(settings.seed).permutation(np.flatnonzero(~is_weak))
    own = np.flatnonzero(is_weak)
    return np.sort(np.concatenate([own, others[: max(0, bound - len(own))]]))


def _validation(valid: Sequence[Example], weak: str, seed: int) -> list[Example]:
    """The weak model's rows, filled up with others' to a number that a loss can be trusted on."""
    own = [row for row in valid if row.model == weak]
    if len(own) >= ENOUGH_WEAK_ROWS:
        return own[:MAX_VALIDATION_ROWS]
    others = [row for row in valid if row.model != weak]
    order = np.random.default_rng(seed).permutation(len(others))[: MAX_VALIDATION_ROWS - len(own)]
    return own + [others[i] for i in sorted(order)]

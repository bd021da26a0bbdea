"""Fits the difficulty classifier on the pair's prompts, starting from the matrix factorisation's probes.

Adapters in every layer by default; layers in full did not help, even with thousands of prompts (`LOG.md`).
Minutes on two cores: see `trainer/budget.py`.
The validation loss counts both heads, and the start is validated too, so fine-tuning that only hurts leaves
the probes as they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from scorers.encoders import EncoderFolder
from scorers.prompt_features import features_of_prompts
from scorers.tokenizer import TextTokenizer
from scorers.torch.difficulty import DifficultyClassifier
from scorers.torch.encoder import TextEncoder
from scorers.torch.matrix_factorisation import MatrixFactorisation
from trainer.budget import Plan, plan_run
from trainer.conditions import PLAIN, Conditions
from trainer.dataset import TextBatch, TokenRows, text_loader
from trainer.fit_mf import standardiser
from trainer.loop import LoopSettings, TrainingLog, train

VALIDATION_ROWS, SCALE_ROWS = 1000, 256
FROZEN_SHARES = (0.0, 0.25, 0.5, 0.75)
# Rate of the encoder's top layer, share of it a layer further down, epochs: by what trains.
_ADAPTERS, _LAYERS = (5e-4, 1.0, 3), (8e-5, 0.9, 2)


@dataclass(frozen=True, slots=True)
class DifficultySettings:
    """`outputs` 2: both tiers' chances (default); 1: P(strong should answer). `minutes` bounds the run.

    `tuning` is one of `scorers.torch.encoder.TUNINGS`; `max_epochs` and `encoder_lr` None: what goes with it.
    """

    tuning: str = "lora"
    rank: int = 8
    lora_layers: int | None = None
    outputs: int = 2
    max_tokens: int = 96
    max_epochs: int | None = None
    batch_rows: int = 16
    encoder_lr: float | None = None
    head_lr: float = 5e-4
    minutes: float = 12.0
    seed: int = 0


@dataclass(slots=True)
class FittedDifficulty:
    """The trained classifier, what it did, and what it was allowed to read."""

    model: DifficultyClassifier
    log: TrainingLog
    plan: Plan
    frozen_tried: dict[str, float]


def prompt_rows(prompts: list[str], quality: np.ndarray, tokenizer: TextTokenizer, outputs: int) -> TokenRows:
    """Prompts with both tiers' qualities (N, 2), or whether strong did better (N, 1; a tie is 0)."""
    if outputs == 1:
        quality = (quality[:, 1:] > quality[:, :1]).astype(np.float32)
    features = features_of_prompts(prompts)
    return TokenRows(tokenizer.encode_prompts(prompts), quality.astype(np.float32), features)


def fit_difficulty(
    folder: EncoderFolder,
    fit: tuple[list[str], np.ndarray],
    valid: tuple[list[str], np.ndarray],
    start: tuple[MatrixFactorisation, tuple[int, int]],
    settings: DifficultySettings,
    conditions: Conditions = PLAIN,
    blend: bool = True,
) -> FittedDifficulty:
    """`fit` and `valid` are prompts and qualities (N, 2); `start` is a factorisation fitted on the prompts of
    `fit` alone, over the same encoder's middle layer, and the columns of (weak, strong) in it. `blend` lets
    the start's own log-odds stay in, with the share that is best on `valid`.
    """
    torch.manual_seed(settings.seed)
    tokenizer = TextTokenizer.of(folder, settings.max_tokens)
    rate, decay, epochs = _ADAPTERS if settings.tuning in ("lora", "frozen") else _LAYERS
    encoder = TextEncoder(folder, settings.tuning, settings.rank, lora_layers=settings.lora_layers)
    model = DifficultyClassifier(encoder, settings.outputs)
    rows = prompt_rows(*fit, tokenizer, settings.outputs)
    model.start_from(*start, last_layer_scale(model, rows, tokenizer))
    plan = plan_run(
        rows,
        encoder.parameters_per_token(),
        settings.minutes,
        settings.max_epochs or epochs,
        settings.seed,
        encoder.training_passes(),
    )
    checked = prompt_rows(*valid, tokenizer, settings.outputs)
    checked = checked.take(np.arange(min(len(checked), VALIDATION_ROWS)))
    loader = text_loader(rows.take(plan.rows), tokenizer, settings.batch_rows, settings.seed)
    checks = list(text_loader(checked, tokenizer, 32, settings.seed))  # once: the same order at every call

    def loss_of(net: nn.Module, batch: TextBatch) -> torch.Tensor:
        logits = net(batch.ids, batch.mask, batch.type_ids, batch.features)
        return binary_cross_entropy_with_logits(logits, batch.targets)

    def logits_of() -> tuple[torch.Tensor, torch.Tensor]:
        return _left_out_logits(model.to(conditions.device), [b.to(conditions.device) for b in checks])

    started = logits_of()[0] if blend and settings.outputs == 2 else None

    def validate() -> float:
        return min(_try_shares(*logits_of(), started).values())

    log = train(
        model,
        loader,
        loss_of,
        validate,
        LoopSettings(
            max_epochs=plan.epochs,
            head_lr=settings.head_lr,
            encoder_lr=settings.encoder_lr or rate,
            layer_decay=decay,
            patience=2 * plan.epochs + 1,  # to the end: halfway, at the full rate, it is often worse
            seed=settings.seed,
        ),
        stage="fit difficulty",
        conditions=conditions,
    )
    tried = _try_shares(*logits_of(), started) if log.best_step else {0.0: log.best}
    model.frozen_share = min(tried, key=lambda share: tried[share])
    losses = {f"{share:g}": round(loss, 6) for share, loss in tried.items()}
    return FittedDifficulty(model, log, plan, losses)


def last_layer_scale(
    model: DifficultyClassifier, rows: TokenRows, tokenizer: TextTokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale (d,) of the last layer's vectors over the first rows, as `standardiser` has them."""
    first = rows.take(np.arange(min(len(rows), SCALE_ROWS)))
    model.eval()
    with torch.no_grad():
        found = [model.layers(b.ids, b.mask, b.type_ids)[0] for b in text_loader(first, tokenizer, 32, 0)]
    vectors = torch.cat(found).numpy()
    own = standardiser(vectors, [(vectors.shape[1], 1.0, False)])
    return own.centre.astype(np.float32), own.scale.astype(np.float32)


def _left_out_logits(
    model: DifficultyClassifier, batches: list[TextBatch]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-odds and targets, (N, outputs) each, in the batches' order."""
    model.eval()
    with torch.no_grad():
        found = [model(b.ids, b.mask, b.type_ids, b.features) for b in batches]
    return torch.cat(found).cpu(), torch.cat([b.targets for b in batches]).cpu()


def _try_shares(
    tuned: torch.Tensor, targets: torch.Tensor, started: torch.Tensor | None
) -> dict[float, float]:
    """The loss on left-out prompts by the share of the start's log-odds in the answer.

    What is tuned may be no better than its start alone and still make the two together better.
    """
    if started is None:
        return {0.0: float(binary_cross_entropy_with_logits(tuned, targets))}
    return {
        share: float(binary_cross_entropy_with_logits((1 - share) * tuned + share * started, targets))
        for share in FROZEN_SHARES
    }

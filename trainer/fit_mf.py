"""Fits the matrix factorisation on query vectors: seconds, so its settings are chosen by validation.

Strength of regularisation and rank decide what a probe on a few hundred prompts is worth, and the right
values differ by a factor of a hundred between tables; so each of a short list is trained with the same
seed and the one with the lowest validation loss is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset

from routing.errors import ExamplesError
from scorers.torch.matrix_factorisation import MatrixFactorisation
from trainer.conditions import PLAIN, Conditions
from trainer.loop import LoopSettings, TrainingLog, train

PENALTIES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)  # times the sum of squares, per row
BATCH_ROWS = 256
RANK = 32


@dataclass(slots=True)
class Outcomes:
    """(prompt, model) outcomes: `vector` indexes the query vectors, `model` the models, `quality` in [0,
    1]."""

    vector: np.ndarray
    model: np.ndarray
    quality: np.ndarray

    def __len__(self) -> int:
        return len(self.vector)


@dataclass(slots=True)
class PairBatch:
    """A batch of outcomes; in the pairwise form `other` is the model it is compared with."""

    query: torch.Tensor
    model: torch.Tensor
    other: torch.Tensor
    quality: torch.Tensor


class OutcomeDataset(Dataset[int]):
    """Rows by number, gathered a batch at a time."""

    def __init__(self, vectors: np.ndarray, outcomes: Outcomes, other: np.ndarray) -> None:
        self._vectors = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
        self._outcomes = outcomes
        self._other = other

    def __len__(self) -> int:
        return len(self._outcomes)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, indices: list[int]) -> PairBatch:
        rows = np.asarray(indices)
        return PairBatch(
            query=self._vectors[torch.from_numpy(self._outcomes.vector[rows])],
            model=torch.from_numpy(self._outcomes.model[rows]),
            other=torch.from_numpy(self._other[rows]),
            quality=torch.from_numpy(self._outcomes.quality[rows].astype(np.float32)),
        )


@dataclass(slots=True)
class FittedMf:
    """The chosen model, its log, and the validation loss of every candidate."""

    model: MatrixFactorisation
    log: TrainingLog
    penalty: float
    tried: dict[str, float]


def fit_mf(
    vectors: np.ndarray,
    fit: Outcomes,
    valid: Outcomes,
    models: Sequence[str],
    pair: tuple[int, int],
    form: str = "correctness",
    bias: bool = True,
    rank: int = RANK,
    seed: int = 0,
    conditions: Conditions = PLAIN,
) -> FittedMf:
    """Fit on outcomes over `vectors` (P, d); `pair` is (weak, strong) as positions in `models`.

    Validation counts the pair's rows only. Raises `ExamplesError` when the pairwise form finds no win.
    """
    fit_rows, fit_other = _rows_of(fit, pair, form)
    valid_rows, valid_other = _rows_of(valid, pair, form)
    is_pair = np.isin(valid_rows.model, pair)
    valid_rows = Outcomes(valid_rows.vector[is_pair], valid_rows.model[is_pair], valid_rows.quality[is_pair])
    valid_other = valid_other[is_pair]
    if not len(fit_rows) or not len(valid_rows):
        raise ExamplesError(f"mf ({form}): no row to train on or to validate with among these prompts")
    checked = OutcomeDataset(vectors, valid_rows, valid_other).collate(list(range(len(valid_rows))))
    best: FittedMf | None = None
    tried: dict[str, float] = {}
    for number, penalty in enumerate(PENALTIES):
        torch.manual_seed(seed)
        model = MatrixFactorisation(len(models), vectors.shape[1], rank, form, bias)
        loader = _loader(vectors, fit_rows, fit_other, seed)
        log = _train_one(model, loader, checked, penalty, seed)
        tried[f"{penalty:g}"] = round(log.best, 6)
        conditions.progress("fit mf", number + 1, len(PENALTIES), f"validation {log.best:.4f}")
        if best is None or log.best < best.log.best:
            best = FittedMf(model, log, penalty, tried)
    assert best is not None
    return best


def _train_one(
    model: MatrixFactorisation, loader: DataLoader[PairBatch], checked: PairBatch, penalty: float, seed: int
) -> TrainingLog:
    def loss_of(_: nn.Module, batch: PairBatch) -> torch.Tensor:
        return _loss(model, batch) + penalty * model.penalty()

    settings = LoopSettings(
        max_epochs=max(8, min(60, 1500 // len(loader))),
        head_lr=2e-3,
        weight_decay=0.0,
        patience=10,
        clip_norm=10.0,
        seed=seed,
    )
    return train(model, loader, loss_of, lambda: float(_loss(model, checked)), settings)


def _loss(model: MatrixFactorisation, batch: PairBatch) -> torch.Tensor:
    """Binary cross-entropy: on quality (correctness form), or on who won (pairwise form)."""
    score = model(batch.model, batch.query)
    if model.form == "pairwise":
        score = score - model(batch.other, batch.query)
    return binary_cross_entropy_with_logits(score, batch.quality)


def _rows_of(outcomes: Outcomes, pair: tuple[int, int], form: str) -> tuple[Outcomes, np.ndarray]:
    """The rows as they are, or for the pairwise form one row a prompt that one of the two won."""
    if form == "correctness":
        return outcomes, outcomes.model
    weak, strong = pair
    quality: dict[int, dict[int, float]] = {}
    for vector, model, value in zip(outcomes.vector, outcomes.model, outcomes.quality, strict=True):
        if model in pair:
            quality.setdefault(int(vector), {})[int(model)] = float(value)
    won = [(v, q[strong] > q[weak]) for v, q in quality.items() if len(q) == 2 and q[strong] != q[weak]]
    vector = np.array([v for v, _ in won], dtype=np.int64)
    rows = Outcomes(vector, np.full(len(won), strong), np.array([float(w) for _, w in won]))
    return rows, np.full(len(won), weak)


def _loader(vectors: np.ndarray, rows: Outcomes, other: np.ndarray, seed: int) -> DataLoader[PairBatch]:
    dataset = OutcomeDataset(vectors, rows, other)
    return DataLoader(
        dataset,
        batch_sampler=_Shuffled(len(rows), max(16, min(BATCH_ROWS, len(rows) // 8)), seed),
        collate_fn=dataset.collate,
    )


class _Shuffled(torch.utils.data.Sampler[list[int]]):
    """Random batches, a function of seed and epoch only."""

    def __init__(self, n: int, batch_rows: int, seed: int) -> None:
        self._n, self._batch_rows, self._seed, self._epoch = n, batch_rows, seed, 0

    def __len__(self) -> int:
        return -(-self._n // self._batch_rows)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._n)
        self._epoch += 1
        for start in range(0, self._n, self._batch_rows):
            yield order[start : start + self._batch_rows].tolist()

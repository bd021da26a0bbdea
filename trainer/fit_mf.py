"""Fits the matrix factorisation on query vectors: converged, its form and penalty by cross-validation.

The data are few (hundreds to thousands of prompts) and the model is small, so there is no need for noise
in the fit: the whole table is one batch, L-BFGS goes to the optimum in some forty steps, and what is left
to choose is how much to trust the data. That is one number, the penalty, and the right one differs by a
factor of a hundred between tables; folds over prompts choose it, by the loss on prompts left out. All
prompts then train the model. (Early-stopped AdamW, which this replaces, lost .03 to .08 APGR on GSM8K to
its own noise: see LOG.md.)

Under a minute for 8,000 prompts and 800 dimensions on one core.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from routing.errors import ExamplesError
from scorers.torch.matrix_factorisation import MatrixFactorisation
from trainer.examples import Example
from trainer.progress import Progress, no_progress

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # half of this times the sum of squares, per row
FEATURE_WEIGHT = 1.0
RANK = 32
FOLDS = 4
STEPS = 60
FORM_CHOICES = ("auto", "correctness", "pairwise")
Block = tuple[int, float, bool]  # of query vectors: columns, weight, whether one by one


@dataclass(slots=True)
class Outcomes:
    """What models made of prompts: `quality` (P, M) in [0, 1], nan where a model has not answered; row p
    belongs to query vector p."""

    vectors: np.ndarray
    quality: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: np.ndarray) -> Outcomes:
        return Outcomes(self.vectors[rows], self.quality[rows])


def quality_table(rows: Iterable[Example], prompt_ids: Sequence[str], models: Sequence[str]) -> np.ndarray:
    """Qualities by prompt and model (P, M), nan where there is no row; rows of other prompts are passed
    over."""
    order = {prompt_id: row for row, prompt_id in enumerate(prompt_ids)}
    column = {model: m for m, model in enumerate(models)}
    table = np.full((len(order), len(column)), np.nan)
    for row in rows:
        if row.prompt_id in order:
            table[order[row.prompt_id], column[row.model]] = row.quality
    return table


def query_blocks(parts: Sequence[str], dimension: int, n_features: int) -> list[Block]:
    """The blocks of query vectors made of these parts, for `standardiser`."""
    blocks = {
        "last": (dimension, 1.0, False),
        "middle": (dimension, 1.0, False),
        "features": (n_features, FEATURE_WEIGHT, True),
    }
    return [blocks[part] for part in parts]


@dataclass(slots=True)
class FittedMf:
    """The chosen model, and what the folds said: of every candidate its loss and APGR's area by form and
    penalty; of the chosen one s of every model, (P, M), by fits that left the prompt out."""

    model: MatrixFactorisation
    form: str
    penalty: float
    unseen: np.ndarray
    tried: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Centre and scale of query vectors, each (D,)."""

    centre: np.ndarray
    scale: np.ndarray


def standardiser(vectors: np.ndarray, blocks: Sequence[Block]) -> Standardiser:
    """`blocks` are (columns, weight, one by one) from left to right: a block's columns get that weight as
    their standard deviation, together (an encoder's vector keeps its shape) or one by one (features)."""
    if sum(block[0] for block in blocks) != vectors.shape[1]:
        raise ValueError(f"blocks {list(blocks)} do not add up to {vectors.shape[1]} columns")
    spread = vectors.std(axis=0, dtype=np.float64)
    scale, start = np.zeros(vectors.shape[1]), 0
    for columns, weight, singly in blocks:
        own = spread[start : start + columns]
        unit = np.where(own > 1e-6, own, np.inf) if singly else np.full(columns, np.sqrt((own**2).mean()))
        scale[start : start + columns] = weight / np.maximum(unit, 1e-9)
        start += columns
    return Standardiser(vectors.mean(axis=0, dtype=np.float64), scale)


def fit_mf(
    outcomes: Outcomes,
    pair: tuple[int, int],
    form: str = "auto",
    bias: bool = True,
    rank: int = RANK,
    blocks: Sequence[Block] | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> FittedMf:
    """Fit on a table; `pair` is (weak, strong) as columns of it.

    `form` auto takes the pairwise form only where it ranks better on left-out prompts by more than a
    standard error: it gives one preference, the correctness form two chances. Raises `ExamplesError` when no
    prompt has been answered by both, or when the pairwise form is asked for and neither ever wins.
    """
    both = ~np.isnan(outcomes.quality[:, list(pair)]).any(axis=1)
    if both.sum() < FOLDS:
        raise ExamplesError(f"mf: {int(both.sum())} prompts with outcomes of both models, {FOLDS} are needed")
    wins = both & (outcomes.quality[:, pair[0]] != outcomes.quality[:, pair[1]])
    if form == "pairwise" and wins.sum() < FOLDS:
        raise ExamplesError(
            f"mf (pairwise): {int(wins.sum())} prompts that one of the two won, {FOLDS} needed"
        )
    blocks = blocks or ((outcomes.vectors.shape[1], 1.0, False),)
    forms = (form,) if form != "auto" else FORM_CHOICES[1:]
    fits = {
        name: _Candidate(outcomes, pair, name, bias, rank, standardiser(outcomes.vectors, blocks), seed)
        for name in forms
        if name != "pairwise" or wins.sum() >= FOLDS
    }
    tried: dict[str, dict[str, float]] = {}
    best = {name: _choose_penalty(fit, both, tried, progress) for name, fit in fits.items()}
    quality = outcomes.quality[both][:, list(pair)]
    gains = {name: _gain(unseen[both][:, list(pair)], name) for name, (_, unseen) in best.items()}
    chosen = _choose_form(gains, quality)
    penalty, unseen = best[chosen]
    return FittedMf(fits[chosen].fit(np.arange(len(outcomes)), penalty), chosen, penalty, unseen, tried)


@dataclass(slots=True)
class _Candidate:
    """One form on one table, to be fitted on any of its rows."""

    outcomes: Outcomes
    pair: tuple[int, int]
    form: str
    bias: bool
    rank: int
    inputs: Standardiser
    seed: int

    def fit(self, rows: np.ndarray, penalty: float) -> MatrixFactorisation:
        """The optimum on these rows."""
        part = self.outcomes.take(rows)
        torch.manual_seed(self.seed)
        n_models = part.quality.shape[1]
        # More dimensions than models add nothing: M probes span at most M of them.
        model = MatrixFactorisation(
            n_models, part.vectors.shape[1], min(self.rank, n_models), self.form, self.bias
        )
        model.standardise(self.inputs.centre, self.inputs.scale)
        query = torch.from_numpy(part.vectors.astype(np.float32))
        quality = torch.from_numpy(part.quality.astype(np.float32))
        _descend(model, query, quality, self.pair, penalty)
        return model.eval()

    def scores(self, model: MatrixFactorisation, rows: np.ndarray) -> np.ndarray:
        """s of every model, (rows, M)."""
        with torch.no_grad():
            table = model.score_table(torch.from_numpy(self.outcomes.vectors[rows].astype(np.float32)))
        return table.double().numpy()


def _descend(
    model: MatrixFactorisation,
    query: torch.Tensor,
    quality: torch.Tensor,
    pair: tuple[int, int],
    penalty: float,
) -> None:
    """Full-batch L-BFGS: forward, loss, loss.backward() as often as the line search asks, then a step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.LBFGS(
        trained, max_iter=STEPS, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        loss = table_loss(model, query, quality, pair) + 0.5 * penalty * model.penalty()
        loss.backward()
        return loss

    optimizer.step(evaluate)


def table_loss(
    model: MatrixFactorisation, query: torch.Tensor, quality: torch.Tensor, pair: tuple[int, int]
) -> torch.Tensor:
    """Binary cross-entropy: on every outcome (correctness form), or on who of the pair won (pairwise
    form)."""
    scores = model.score_table(query)  # (P, M)
    if model.form == "correctness":
        known = ~torch.isnan(quality)
        return binary_cross_entropy_with_logits(scores[known], quality[known])
    weak, strong = pair
    ahead = quality[:, strong] - quality[:, weak]
    won = ~torch.isnan(ahead) & (ahead != 0)
    return binary_cross_entropy_with_logits(
        (scores[:, strong] - scores[:, weak])[won], (ahead[won] > 0).to(scores.dtype)
    )


def _choose_penalty(
    fit: _Candidate, both: np.ndarray, tried: dict[str, dict[str, float]], progress: Progress
) -> tuple[float, np.ndarray]:
    """The penalty with the lowest loss on the pair's left-out prompts, and s of every model there, (P, M)."""
    pair, quality = list(fit.pair), fit.outcomes.quality[both]
    n, n_models = fit.outcomes.quality.shape
    fold = np.random.default_rng(fit.seed).permutation(n) % FOLDS
    best: tuple[float, float, np.ndarray] | None = None
    for number, penalty in enumerate(PENALTIES):
        scores = np.zeros((n, n_models))
        for k in range(FOLDS):
            model = fit.fit(np.flatnonzero(fold != k), penalty)
            scores[fold == k] = fit.scores(model, np.flatnonzero(fold == k))
        left_out, truth = scores[both][:, pair], quality[:, pair]
        loss = _left_out_loss(left_out, truth, fit.form)
        tried[f"{fit.form} {penalty:g}"] = {
            "loss": round(loss, 6),
            "area": round(float(_areas(_gain(left_out, fit.form), truth).mean()), 6),
        }
        progress("fit mf", number + 1, len(PENALTIES), f"{fit.form}, left out {loss:.4f}")
        if best is None or loss < best[0]:
            best = (loss, penalty, scores)
    assert best is not None
    return best[1], best[2]


def _left_out_loss(scores: np.ndarray, quality: np.ndarray, form: str) -> float:
    """Mean binary cross-entropy of scores (P, 2) against qualities (P, 2), or of who won."""
    if form == "pairwise":
        won = quality[:, 0] != quality[:, 1]
        scores, quality = (scores[:, 1] - scores[:, 0])[won], (quality[:, 1] > quality[:, 0])[won]
    return float(np.mean(np.logaddexp(0.0, scores) - quality * scores))


def _gain(scores: np.ndarray, form: str) -> np.ndarray:
    if form == "pairwise":
        return scores[:, 1] - scores[:, 0]
    chances = 0.5 * (1.0 + np.tanh(0.5 * scores))
    return np.asarray(chances[:, 1] - chances[:, 0])


def _areas(gain: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Each prompt's part of the area under the quality curve: APGR's numerator, so a mean of these ranks
    strategies as APGR does and has a paired standard error. (P,)"""
    rank = np.argsort(np.argsort(-gain, kind="stable"), kind="stable")
    return np.asarray((1.0 - (rank + 0.5) / len(gain)) * (quality[:, 1] - quality[:, 0]))


def _choose_form(gains: dict[str, np.ndarray], quality: np.ndarray) -> str:
    if len(gains) == 1:
        return next(iter(gains))
    ahead = _areas(gains["pairwise"], quality) - _areas(gains["correctness"], quality)
    error = float(ahead.std(ddof=1) / np.sqrt(len(ahead)))
    return "pairwise" if float(ahead.mean()) > error else "correctness"
